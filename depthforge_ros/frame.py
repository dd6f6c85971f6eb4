# SPDX-License-Identifier: Apache-2.0
"""Input and output of the perception pipeline. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

UNLABELLED = 255
"""Class id of a pixel without a class, or with a confidence below the threshold."""

MIN_SIDE_PX = 16
MAX_ASPECT = 8


class DepthKind(Enum):
    """Unit of a depth image."""

    METRIC = "metric"
    """Metres along the optical axis."""
    RELATIVE = "relative"
    """Affine-invariant inverse depth, unitless: larger is nearer."""


@dataclass(frozen=True)
class Frame:
    """One camera image.

    rgb: [H, W, 3] uint8. stamp_ns: acquisition time, nanoseconds. frame_id: the optical frame.
    focal_px: focal length fx in pixels of this image; None if the camera is not calibrated.

    Raises ValueError if the image is not [H, W, 3] uint8, a side is shorter than 16 pixels, or one
    side is more than 8 times the other, which only a corrupt header gives.
    """

    rgb: np.ndarray
    stamp_ns: int = 0
    frame_id: str = ""
    focal_px: float | None = None

    def __post_init__(self) -> None:
        if self.focal_px is not None and not self.focal_px > 0:
            raise ValueError(f"focal_px is {self.focal_px}; expected a positive number, or None")
        if self.rgb.ndim != 3 or self.rgb.shape[2] != 3 or self.rgb.dtype != np.uint8:
            raise ValueError(
                f"rgb is {list(self.rgb.shape)} {self.rgb.dtype}; expected [H, W, 3] uint8"
            )
        short, long = sorted(self.rgb.shape[:2])
        if short < MIN_SIDE_PX or long > MAX_ASPECT * short:
            raise ValueError(
                f"image is {self.width}x{self.height}; expected sides of at least {MIN_SIDE_PX} "
                f"pixels and an aspect ratio of at most {MAX_ASPECT}:1"
            )

    @property
    def height(self) -> int:
        """H, pixels."""
        return self.rgb.shape[0]

    @property
    def width(self) -> int:
        """W, pixels."""
        return self.rgb.shape[1]


@dataclass(frozen=True)
class Prediction:
    """Labels, confidence and depth of one frame, with its stamp and optical frame.

    labels: [H, W] uint8 trainId, 255 unlabelled. confidence: [H, W] uint8, 255 = certain.
    depth: [H, W] float32 in the unit that depth_kind names, or None if it was not requested or
    if metres need a focal length that the frame lacks. Metric depth is NaN if unknown and +Inf in
    the sky or beyond range (REP-117, REP-118).
    """

    labels: np.ndarray
    confidence: np.ndarray
    depth: np.ndarray | None
    depth_kind: DepthKind
    stamp_ns: int = 0
    frame_id: str = ""

    def __post_init__(self) -> None:
        shape = self.labels.shape
        for name, image, dtype in (
            ("labels", self.labels, np.uint8),
            ("confidence", self.confidence, np.uint8),
            ("depth", self.depth, np.float32),
        ):
            if image is not None and (
                image.shape != shape or image.dtype != dtype or len(shape) != 2
            ):
                raise ValueError(
                    f"{name} is {list(image.shape)} {image.dtype}; "
                    f"expected {list(shape)} {np.dtype(dtype)} like labels [H, W]"
                )
