# SPDX-License-Identifier: Apache-2.0
"""The condition of a camera's frame: measures of the image, and the expected error of its mask.

A few rows of the image are enough. The expected share of wrong pixels is linear in the network's
mean uncertainty; the line was fitted to the shipped network, see docs/topics.md for data and error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

SAMPLED_ROWS = 64
"""Rows of the image that are read, evenly spread."""

SATURATED = 250
"""A byte from which on a pixel counts as saturated."""


WRONG_AT_NO_DOUBT, WRONG_PER_DOUBT = -0.019, 0.993
"""Share of wrong pixels = first + second * doubt: least squares over frames."""


@dataclass(frozen=True)
class Condition:
    """Measures of one frame, each from 0 to 1, where 1 is the largest byte.

    brightness: mean. contrast: from the 5th to the 95th percentile of brightness. saturated: share
    of pixels. noise: estimated standard deviation. sharpness: 99th percentile of the step from one
    pixel to the next. doubt: 1 - mean confidence of the mask.
    """

    brightness: float
    contrast: float
    saturated: float
    noise: float
    sharpness: float
    doubt: float

    @property
    def image_degradation(self) -> float:
        """Degradation by the image alone, 0..1: dark, flat, blurred, noisy or saturated."""
        lacks = (
            1 - self.brightness / 0.3,
            1 - self.contrast / 0.5,
            1 - self.sharpness / 0.14,
            (self.noise - 0.01) / 0.04,
            (self.saturated - 0.2) / 0.3,
        )
        return 1 - math.prod(1 - min(1.0, max(0.0, lack)) for lack in lacks)

    @property
    def degradation(self) -> float:
        """Return the expected share of wrong pixels of the mask, 0..1."""
        return min(1.0, max(0.0, WRONG_AT_NO_DOUBT + WRONG_PER_DOUBT * self.doubt))


def condition_of(rgb: np.ndarray, confidence: np.ndarray) -> Condition:
    """The condition of an image [H, W, 3] uint8 and the confidence [h, w] uint8 of its mask."""
    rows = rgb[:: max(1, len(rgb) // SAMPLED_ROWS)]  # [n, W, 3]
    # Most of the brightness and least of the noise is in the green channel.
    green = np.ascontiguousarray(rows[..., 1])  # [n, W]
    steps = cv2.absdiff(green[:, 1:], green[:, :-1])  # [n, W - 1]
    wide = green.astype(np.int16)
    bends = np.abs(wide[:, 2:] - 2 * wide[:, 1:-1] + wide[:, :-2])  # [n, W - 2], up to 510
    low, high = _percentiles(green, (5, 95))
    (steep,) = _percentiles(steps, (99,))
    (bent,) = _percentiles(np.minimum(bends, 255).astype(np.uint8), (50,))
    brightest = cv2.max(cv2.max(green, np.ascontiguousarray(rows[..., 0])), rows[..., 2].copy())
    sure = confidence[:: max(1, len(confidence) // SAMPLED_ROWS)]
    above = cv2.compare(brightest, SATURATED, cv2.CMP_GE)  # type: ignore[call-overload]
    return Condition(
        brightness=float(green.mean()) / 255,
        contrast=(high - low) / 255,
        saturated=cv2.countNonZero(above) / green.size,
        # The median ignores edges. A bend is x - 2y + z: sqrt(6) times the noise of one pixel.
        noise=bent / (0.6745 * math.sqrt(6)) / 255,
        sharpness=steep / 255,
        doubt=1 - float(sure.mean()) / 255,
    )


def _percentiles(values: np.ndarray, requested: tuple[float, ...]) -> list[float]:
    """Percentiles of bytes, by their histogram: sorting takes ten times as long."""
    count = cv2.calcHist([values], [0], None, [256], [0, 256]).ravel()  # [256]
    reached = np.cumsum(count) / values.size
    return [float(np.searchsorted(reached, share / 100)) for share in requested]
