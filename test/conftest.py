# SPDX-License-Identifier: Apache-2.0
"""Threads of PyTorch wait in tests as they do in the product's processes; set before its import."""

from depthforge_ros.cpu_tuning import calm_idle_threads

calm_idle_threads()
