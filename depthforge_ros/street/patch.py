# SPDX-License-Identifier: Apache-2.0
"""The pixels of one material, and how colours are laid over one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .mesh import COLOUR, PARAMS

Three = list[np.ndarray]


@dataclass
class Patch:
    """The pixels of one material.

    `u`, `v` are metres along the surface (for foliage: along the world), `rows` the attribute rows
    (float32), `step` the width of a pixel on the surface in metres, `side` the roundness
    coordinate. `glow` and `mirror` are outputs, zero unless a material sets them.
    """

    u: np.ndarray
    v: np.ndarray
    rows: np.ndarray
    step: np.ndarray
    side: np.ndarray
    glow: Three
    mirror: np.ndarray

    def colour(self) -> Three:
        """The primitive's own colour as three arrays."""
        return [self.rows[:, COLOUR.start + c] for c in range(3)]

    def param(self, i: int) -> np.ndarray:
        """Parameter `i` of each pixel's primitive."""
        return self.rows[:, PARAMS.start + i]

    def shine(self, where: np.ndarray, rgb: Sequence[float], power: np.ndarray | float) -> None:
        """Add glow of colour `rgb` where a mask (or weight) says."""
        weight = where * power
        for c in range(3):
            self.glow[c] += weight * np.float32(rgb[c])


def times(colour: Three, tone: np.ndarray) -> Three:
    """A colour scaled by one factor per pixel."""
    return [c * tone for c in colour]


def paint(base: Three, where: np.ndarray, rgb: Sequence[np.ndarray | float]) -> Three:
    """`base` with another colour laid over where a mask says."""
    return [np.where(where, top, low) for low, top in zip(base, rgb, strict=True)]
