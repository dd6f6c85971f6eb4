# SPDX-License-Identifier: Apache-2.0
"""Daylight images to night, rain, snow and fog, in linear light, by labels and depth."""

from depthforge_ros.learning.relight.relight import CHANGES, relight

__all__ = ["CHANGES", "relight"]
