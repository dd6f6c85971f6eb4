# SPDX-License-Identifier: Apache-2.0
"""A parameter's declaration: default, range, description, and when a new value acts."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any


class Effect(Enum):
    """When a new value acts."""

    LIVE = "live"
    """At the next frame."""
    CONFIGURE = "configure"
    """In the next configure; may be set only while the node is unconfigured."""
    STARTUP = "startup"
    """When the process starts; read-only afterwards."""


def parameter(
    default: Any,
    effect: Effect,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Return a dataclass field with its ROS declaration as metadata."""
    declaration = {
        "effect": effect,
        "description": description,
        "low": low,
        "high": high,
        "choices": choices,
    }
    return dataclasses.field(default=default, metadata=declaration)
