# SPDX-License-Identifier: Apache-2.0
"""From Frame to Prediction. Read `Pipeline.batch` first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from depthforge_ros.engine import CropOutput, Engine, FallbackEngine
from depthforge_ros.frame import DepthKind, Frame, Prediction
from depthforge_ros.pipeline.captured_frames import CapturedFrames
from depthforge_ros.pipeline.depth import finish_depth, metres_per_unit
from depthforge_ros.pipeline.labels import label_pixels
from depthforge_ros.pipeline.settings import Mode, PipelineSettings, inference_size
from depthforge_ros.pipeline.transfer import Transfer
from depthforge_ros.pipeline.windows import (
    fit_affine,
    host_tensor,
    joined,
    merge_windows,
    resize_frame,
    resize_uint8,
    window_corners,
)


@dataclass(frozen=True)
class _Cut:
    """The input of the engine for a frame.

    crops: [n, 3, h, w] uint8: the resized frame, or its windows and, if `guided`, the whole frame
    at a window's size as the last one. corners: (y, x) of the windows; None: the whole frame.
    """

    frame: Frame
    depth: bool
    height: int
    width: int
    crops: Tensor
    corners: list[tuple[int, int]] | None = None
    guided: bool = False


class Pipeline:
    """Infers frames on one engine. `settings` may be replaced between calls.

    transfer: copies to and from the device. captured: runs whole frames as one CUDA graph each;
    None: on a device without CUDA graphs.
    """

    def __init__(self, engine: Engine, settings: PipelineSettings | None = None) -> None:
        self.engine = engine
        self.settings = settings or PipelineSettings()
        self.transfer = Transfer(engine.device)
        self.captured: CapturedFrames | None = None
        if engine.device.type == "cuda" and isinstance(engine, FallbackEngine):
            self.captured = CapturedFrames(engine, self.transfer)

    def close(self) -> None:
        """End what the engine does in the background."""
        if isinstance(self.engine, FallbackEngine):
            self.engine.close()

    def __call__(self, frame: Frame, *, depth: bool = True) -> Prediction:
        """Return labels, confidence and, if requested, depth of a frame, at the published size."""
        return self.batch([frame], [depth])[0]

    def batch(
        self,
        frames: Sequence[Frame],
        depth: Sequence[bool],
        settings: PipelineSettings | None = None,
    ) -> list[Prediction]:
        """Return the predictions of frames in their order, with depth where `depth` is true.

        Whole frames of one inference size, and windows of any frames, share calls of the engine, of
        at most max_batch images each. settings: None: the pipeline's. Raises ValueError if a frame
        would be inferred at a size that is too large.
        """
        settings = settings or self.settings
        metric = self.engine.variant.depth_head.focal_px is not None
        wanted = [
            requested and (frame.focal_px is not None or not metric)
            for frame, requested in zip(frames, depth, strict=True)
        ]
        seen: dict[int, list[np.ndarray]] = {}
        with torch.inference_mode():
            if self.captured is not None:
                seen |= self.captured(frames, wanted, settings)
            rest = [index for index in range(len(frames)) if index not in seen]
            found = self._uncaptured([frames[i] for i in rest], [wanted[i] for i in rest], settings)
            seen |= zip(rest, found, strict=True)
        predictions = []
        for index, frame in enumerate(frames):
            labels, confidence, *depths = seen[index]
            predictions.append(
                Prediction(
                    labels=labels,
                    confidence=confidence,
                    depth=depths[0] if depths else None,
                    depth_kind=self.engine.variant.depth_head.kind,
                    stamp_ns=frame.stamp_ns,
                    frame_id=frame.frame_id,
                )
            )
        return predictions

    def _uncaptured(
        self, frames: Sequence[Frame], depth: Sequence[bool], settings: PipelineSettings
    ) -> list[list[np.ndarray]]:
        """Return labels, confidence and, if requested, depth of each frame: [H, W] each."""
        cuts = [self._cut(*pair, settings) for pair in zip(frames, depth, strict=True)]
        sizes = dict.fromkeys(cut.crops.shape[2:] for cut in cuts)
        outputs: dict[int, CropOutput] = {}
        for size in sizes:
            group = [i for i, cut in enumerate(cuts) if cut.crops.shape[2:] == size]
            found = self._run([cuts[index] for index in group], settings.max_batch)
            outputs |= zip(group, found, strict=True)
        seen = [self._finish(cut, outputs.pop(i), settings) for i, cut in enumerate(cuts)]
        images = self.transfer.download([image for maps in seen for image in maps])
        arrays = []
        for maps in seen:
            arrays.append(images[: len(maps)])
            images = images[len(maps) :]
        return arrays

    def batching(
        self, height: int, width: int, settings: PipelineSettings
    ) -> tuple[tuple[int, int], int]:
        """Return the size at which frames share a call of the engine, and how many fill a call.

        Frames with equal results share calls. Raises ValueError if the frame is too large.
        """
        variant = self.engine.variant
        size = inference_size(height, width, settings, variant)
        if settings.mode is Mode.WHOLE:
            return size, settings.max_batch
        windows = len(window_corners(*size, variant.crop, variant.stride))
        return (variant.crop, variant.crop), max(1, settings.max_batch // windows)

    def _cut(self, frame: Frame, depth: bool, settings: PipelineSettings) -> _Cut:
        variant, crop = self.engine.variant, self.engine.variant.crop
        height, width = inference_size(frame.height, frame.width, settings, variant)
        rgb = self.transfer.upload(host_tensor(frame.rgb))  # [H, W, 3]
        image = resize_frame(rgb, height, width, settings.antialias)  # [1, 3, h, w]
        if settings.mode is Mode.WHOLE:
            return _Cut(frame, depth, height, width, image)
        corners = window_corners(height, width, crop, variant.stride)
        crops = torch.cat([image[:, :, y : y + crop, x : x + crop] for y, x in corners])
        # A relative network gives each window another scale and shift. The depth of the whole frame
        # aligns them.
        guided = depth and variant.depth_head.kind is DepthKind.RELATIVE and len(corners) > 1
        if guided:
            crops = torch.cat([crops, resize_uint8(image, crop, crop)])
        return _Cut(frame, depth, height, width, crops, corners, guided)

    def _run(self, cuts: list[_Cut], most: int) -> list[CropOutput]:
        """The engine's answers to the crops of each cut, which have one size."""
        crops = joined([cut.crops for cut in cuts])  # [all, 3, h, w]
        depth = any(cut.depth for cut in cuts)
        outputs = [self.engine(part, depth=depth) for part in crops.split(most)]
        counts = [len(cut.crops) for cut in cuts]
        scores = joined([output.scores for output in outputs]).split(counts)
        if not depth:
            return [CropOutput(part, None) for part in scores]
        depths = joined([output.depth for output in outputs if output.depth is not None])
        return [CropOutput(*parts) for parts in zip(scores, depths.split(counts), strict=True)]

    def _finish(self, cut: _Cut, output: CropOutput, settings: PipelineSettings) -> list[Tensor]:
        """Return labels, confidence and, if requested, depth of a frame: [H, W] each."""
        variant, frame = self.engine.variant, cut.frame
        inferred = cut.height, cut.width
        depth = output.depth if cut.depth else None
        if cut.corners is None:
            scores, depth_map = output.scores[0], None if depth is None else depth[0]
        else:
            windows = output.scores[: len(cut.corners)]  # [windows, K, crop, crop]
            scores = merge_windows(windows, cut.corners, *inferred)
            depth_map = None if depth is None else self._merged_depth(cut, depth)
        size = (frame.height, frame.width) if settings.full_size else inferred
        labels, confidence = label_pixels(scores, size, settings.confidence_threshold)
        if depth_map is None:
            return [labels, confidence]
        metres = metres_per_unit(frame, *inferred, variant)
        finished = finish_depth(depth_map.float(), size, labels, variant, metres)
        return [labels, confidence, finished]

    def _merged_depth(self, cut: _Cut, depth: Tensor) -> Tensor:
        """Merge the windows' depth [n, crop, crop] into depth [h, w]."""
        corners, crop = cut.corners or [], self.engine.variant.crop
        depths = depth.float()[:, None]  # [n, 1, crop, crop]
        if cut.guided:
            size = cut.height, cut.width
            guide = F.interpolate(depths[-1:], size, mode="bilinear")[0]  # [1, h, w]
            depths = torch.stack(
                [
                    fit_affine(window, guide[:, y : y + crop, x : x + crop])
                    for window, (y, x) in zip(depths[:-1], corners, strict=True)
                ]
            )
        return merge_windows(depths, corners, cut.height, cut.width)[0]
