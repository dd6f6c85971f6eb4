# SPDX-License-Identifier: Apache-2.0
"""Settings of the pipeline, and the size at which frames are inferred."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from depthforge_ros.variant import PATCH, Variant

SIZE_MULTIPLE_PX = 2 * PATCH
"""Whole frames are resized to multiples of this: a pixel of the coarsest map is two patches."""

MAX_PIXELS = 4096 * 4096
"""Largest image at inference: a short side that fits one camera can be too much for a wider one.
"""


class Mode(Enum):
    """How frames become inputs of the network."""

    WHOLE = "whole"
    """The whole frame, resized: fast, and every pixel has the whole scene as context."""
    SLIDE = "slide"
    """Overlapping windows of the size the network was trained on, scores averaged (the paper)."""


@dataclass(frozen=True)
class PipelineSettings:
    """How frames are prepared and masks are thresholded.

    short_side_px: the frame is resized to this short side before inference; None: the variant's
    crop. confidence_threshold: 0..1, below it a pixel is unlabelled. full_size: masks at the
    input's size, otherwise at the inference size. antialias: when frames are shrunk. max_batch:
    most windows that run at once.
    """

    mode: Mode = Mode.WHOLE
    short_side_px: int | None = None
    confidence_threshold: float = 0.0
    full_size: bool = True
    antialias: bool = True
    max_batch: int = 8

    def __post_init__(self) -> None:
        if self.short_side_px is not None and not 64 <= self.short_side_px <= 4096:
            raise ValueError(f"short_side_px is {self.short_side_px}; expected 64..4096")
        if not 0.0 <= self.confidence_threshold <= 1.0:
            raise ValueError(f"confidence_threshold is {self.confidence_threshold}; expected 0..1")
        if self.max_batch < 1:
            raise ValueError(f"max_batch is {self.max_batch}; expected at least 1")


def inference_size(
    height: int, width: int, settings: PipelineSettings, variant: Variant
) -> tuple[int, int]:
    """Return height and width at which a frame of that size is inferred.

    The aspect ratio is kept as far as multiples of 32 (whole) or 1 (slide) allow; sliding windows
    need both sides to be at least the crop. Raises ValueError for more than MAX_PIXELS.
    """
    multiple = SIZE_MULTIPLE_PX if settings.mode is Mode.WHOLE else 1
    min_side = multiple if settings.mode is Mode.WHOLE else variant.crop
    scale = (settings.short_side_px or variant.crop) / min(height, width)
    scale = max(scale, min_side / min(height, width))

    def scaled(side: int) -> int:
        return max(min_side, math.floor(side * scale / multiple + 0.5) * multiple)

    size = scaled(height), scaled(width)
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"a {width}x{height} frame with short side {settings.short_side_px or variant.crop} "
            f"would be inferred at {size[1]}x{size[0]}; expected at most {MAX_PIXELS} pixels"
        )
    return size
