# SPDX-License-Identifier: Apache-2.0
"""Frame in, Prediction out. Read `Pipeline.__call__` first."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from depthforge_ros.engine.output import CropOutput
from depthforge_ros.frame import DepthKind, Frame, Prediction
from depthforge_ros.pipeline.depth import finish_depth, metres_per_unit
from depthforge_ros.pipeline.labels import label_pixels
from depthforge_ros.pipeline.settings import Mode, PipelineSettings, inference_size
from depthforge_ros.pipeline.windows import (
    fit_affine,
    merge_windows,
    resize_rgb,
    resize_uint8,
    window_corners,
)
from depthforge_ros.variant import Variant


class Engine(Protocol):
    """A network ready to run. Implementations live in engine/."""

    variant: Variant
    device: torch.device
    backend: str
    precision: str

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Run on crops [B, 3, h, w] uint8 RGB on `device`; h and w are multiples of 32."""
        ...


class Pipeline:
    """Frame -> Prediction on one engine. `settings` may be replaced between calls."""

    def __init__(self, engine: Engine, settings: PipelineSettings | None = None) -> None:
        self.engine = engine
        self.settings = settings or PipelineSettings()

    def __call__(self, frame: Frame, *, depth: bool = True) -> Prediction:
        """Labels, confidence and (where `depth`) depth of one frame, at the published size."""
        settings, variant = self.settings, self.engine.variant
        depth = depth and (variant.depth_head.focal_px is None or frame.focal_px is not None)
        with torch.inference_mode():
            height, width = inference_size(frame.height, frame.width, settings, variant)
            image = resize_rgb(frame.rgb, height, width, self.engine.device)  # [1, 3, h, w]
            if settings.mode is Mode.WHOLE:
                output = self.engine(image, depth=depth)
                scores, depths = output.scores[0], output.depth
                depth_map = None if depths is None else depths[0]
            else:
                scores, depth_map = self._slide(image, depth)
            size = (frame.height, frame.width) if settings.full_size else (height, width)
            labels, confidence = label_pixels(scores, size, settings.confidence_threshold)
            if depth_map is not None:
                metres = metres_per_unit(frame, height, width, variant)
                depth_map = finish_depth(depth_map.float(), size, labels, variant, metres)
        return Prediction(
            labels=labels.cpu().numpy(),
            confidence=confidence.cpu().numpy(),
            depth=None if depth_map is None else depth_map.cpu().numpy(),
            depth_kind=variant.depth_head.kind,
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
        )

    def _slide(self, image: Tensor, depth: bool) -> tuple[Tensor, Tensor | None]:
        """Scores [K, h, w] and depth [h, w] of image [1, 3, h, w], window by window."""
        variant = self.engine.variant
        crop = variant.crop
        height, width = image.shape[2:]
        corners = window_corners(height, width, crop, variant.stride)
        crops = torch.cat([image[:, :, y : y + crop, x : x + crop] for y, x in corners])
        relative = depth and variant.depth_head.kind is DepthKind.RELATIVE
        if relative and len(corners) > 1:
            # Each window of a relative network has a scale and a shift of its own. One look at
            # the whole frame ties them together.
            crops = torch.cat([crops, resize_uint8(image, crop, crop)])
        outputs = [self.engine(part, depth=depth) for part in crops.split(self.settings.max_batch)]
        windows = torch.cat([output.scores for output in outputs])  # [windows, K, crop, crop]
        scores = merge_windows(windows[: len(corners)], corners, height, width)
        if not depth:
            return scores, None
        depths = torch.cat([output.depth for output in outputs if output.depth is not None])
        depths = depths.float()[:, None]  # [windows, 1, crop, crop]
        if relative and len(corners) > 1:
            guide = F.interpolate(depths[-1:], (height, width), mode="bilinear")[0]  # [1, h, w]
            depths = torch.stack(
                [
                    fit_affine(window, guide[:, y : y + crop, x : x + crop])
                    for window, (y, x) in zip(depths[:-1], corners, strict=True)
                ]
            )
        return scores, merge_windows(depths, corners, height, width)[0]
