# SPDX-License-Identifier: Apache-2.0
"""How a network is executed. An engine takes uint8 crops and returns scores and depth."""

from depthforge_ros.engine.build import INSTANT, UNTRAINED, build_engine
from depthforge_ros.engine.output import CropOutput

__all__ = ["INSTANT", "UNTRAINED", "CropOutput", "build_engine"]
