# SPDX-License-Identifier: Apache-2.0
"""Network execution. An engine takes uint8 crops and returns scores and depth."""

from depthforge_ros.engine.candidate import Request
from depthforge_ros.engine.engine import (
    CancelledError,
    CropOutput,
    Engine,
    Journal,
    Operation,
    Shape,
)
from depthforge_ros.engine.load import INSTANT, UNTRAINED, build_engine
from depthforge_ros.engine.memory_fallback import FallbackEngine
from depthforge_ros.engine.select import select_engine

__all__ = [
    "INSTANT",
    "UNTRAINED",
    "CancelledError",
    "CropOutput",
    "Engine",
    "FallbackEngine",
    "Journal",
    "Operation",
    "Request",
    "Shape",
    "build_engine",
    "select_engine",
]
