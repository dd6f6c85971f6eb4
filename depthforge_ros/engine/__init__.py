# SPDX-License-Identifier: Apache-2.0
"""How a network is executed. An engine takes uint8 crops and returns scores and depth."""

from depthforge_ros.engine.build import INSTANT, UNTRAINED, build_engine
from depthforge_ros.engine.cache import GivenUpError
from depthforge_ros.engine.journal import Journal
from depthforge_ros.engine.output import CropOutput
from depthforge_ros.engine.ready import Request, ready_engine
from depthforge_ros.engine.shape import Shape

__all__ = [
    "INSTANT",
    "UNTRAINED",
    "CropOutput",
    "GivenUpError",
    "Journal",
    "Request",
    "Shape",
    "build_engine",
    "ready_engine",
]
