# SPDX-License-Identifier: Apache-2.0
"""Shapes that engines are compiled for, from the sizes of the cameras' images."""

from __future__ import annotations

from collections.abc import Iterable

from depthforge_ros.engine import Shape
from depthforge_ros.engine.engine import MAX_BATCH
from depthforge_ros.frame import DepthKind
from depthforge_ros.pipeline.settings import Mode, PipelineSettings, inference_size
from depthforge_ros.pipeline.windows import window_corners
from depthforge_ros.variant import Variant


def engine_shapes(
    sizes: Iterable[tuple[int, int]],
    settings: PipelineSettings,
    variant: Variant,
    cameras: int = 1,
) -> tuple[Shape, ...]:
    """Return the shapes of the batches that Pipeline makes of frames of sizes (height, width).

    cameras: that share the engine: their whole frames of one size are inferred together. A batch
    of fewer frames than were compiled for is padded, so one and all are enough.

    Raises ValueError where the crop, or what a frame is resized to, is no shape of a network.
    """
    found = set()
    for size in sizes:
        height, width = inference_size(*size, settings, variant)
        if settings.mode is Mode.WHOLE:
            batches = {1, max(1, min(cameras, settings.max_batch, MAX_BATCH))}
            found |= {Shape(height, width, batch) for batch in batches}
            continue
        count = len(window_corners(height, width, variant.crop, variant.stride))
        if count > 1 and variant.depth_head.kind is DepthKind.RELATIVE:
            count += 1  # the whole frame, which guides the windows
        whole, rest = divmod(count, settings.max_batch)
        batches = {settings.max_batch} if whole else set()
        batches |= {rest} if rest else set()
        found |= {Shape(variant.crop, variant.crop, batch) for batch in batches}
    return tuple(sorted(found))
