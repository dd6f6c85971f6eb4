# SPDX-License-Identifier: Apache-2.0
"""Frame in, Prediction out: the only place that resizes, cuts windows, merges and argmaxes.

Node, bag tools, evaluation and benchmark all call the same Pipeline, so what is measured is what
drives. Read `Pipeline.__call__` first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from depthforge_ros.engine.output import CropOutput
from depthforge_ros.frame import UNLABELLED, DepthKind, Frame, Prediction
from depthforge_ros.variant import PATCH, Variant

SIZE_MULTIPLE_PX = 2 * PATCH
"""Whole frames are resized to multiples of this: the coarsest map has half a patch a pixel."""


class Engine(Protocol):
    """A network ready to run. Implementations live in engine/."""

    variant: Variant
    device: torch.device
    backend: str
    precision: str

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Run on crops [B, 3, h, w] uint8 RGB on `device`; h and w are multiples of 32."""
        ...


class Mode(Enum):
    """How a frame meets a network whose input is smaller."""

    WHOLE = "whole"
    """The resized frame at once: fast, and every pixel sees the whole scene."""
    SLIDE = "slide"
    """Overlapping windows of the crop the network was trained on, scores averaged (the paper)."""


@dataclass(frozen=True)
class PipelineSettings:
    """How frames are prepared and masks are thresholded.

    short_side_px: the frame is resized to this short side before inference; None: the variant's
    crop. confidence_threshold: 0..1, below it a pixel is unlabelled. full_size: masks at the
    input's size, otherwise at the inference size. max_batch: most windows that run at once.
    """

    mode: Mode = Mode.WHOLE
    short_side_px: int | None = None
    confidence_threshold: float = 0.0
    full_size: bool = True
    max_batch: int = 8

    def __post_init__(self) -> None:
        if self.short_side_px is not None and not 64 <= self.short_side_px <= 4096:
            raise ValueError(f"short_side_px is {self.short_side_px}; wanted 64..4096")
        if not 0.0 <= self.confidence_threshold <= 1.0:
            raise ValueError(f"confidence_threshold is {self.confidence_threshold}; wanted 0..1")
        if self.max_batch < 1:
            raise ValueError(f"max_batch is {self.max_batch}; wanted at least 1")


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
            labels, certainty = label_pixels(scores, size)
            labels[certainty < settings.confidence_threshold] = UNLABELLED
            confidence = (certainty * 255).round_().to(torch.uint8)
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


def inference_size(
    height: int, width: int, settings: PipelineSettings, variant: Variant
) -> tuple[int, int]:
    """Height and width at which a frame of that size is inferred.

    The aspect ratio is kept as far as the multiple of 32 (whole) or 1 (slide) allows; sliding
    windows need both sides to be at least the crop.
    """
    multiple = SIZE_MULTIPLE_PX if settings.mode is Mode.WHOLE else 1
    least = multiple if settings.mode is Mode.WHOLE else variant.crop
    scale = (settings.short_side_px or variant.crop) / min(height, width)
    scale = max(scale, least / min(height, width))

    def scaled(side: int) -> int:
        return max(least, math.floor(side * scale / multiple + 0.5) * multiple)

    return scaled(height), scaled(width)


def resize_rgb(rgb: np.ndarray, height: int, width: int, device: torch.device) -> Tensor:
    """An image [H, W, 3] uint8 as [1, 3, height, width] uint8 on the device, antialiased."""
    if not rgb.flags.writeable:  # torch tensors cannot be read-only
        rgb = rgb.copy()
    image = torch.from_numpy(rgb).to(device, non_blocking=True)
    return resize_uint8(image.permute(2, 0, 1)[None], height, width)  # [1, 3, h, w]


def resize_uint8(image: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bilinear resize of [B, 3, H, W] uint8; CUDA has no uint8 kernel for it."""
    if image.shape[2:] == (height, width):
        return image.contiguous()
    source = image if image.device.type == "cpu" else image.float()
    resized = F.interpolate(source, (height, width), mode="bilinear", antialias=True)
    if resized.dtype != torch.uint8:
        resized = resized.round_().clamp_(0, 255).to(torch.uint8)
    return resized.contiguous()


def window_corners(height: int, width: int, crop: int, stride: int) -> list[tuple[int, int]]:
    """Top-left corners (y, x) of windows that cover the image; the last ones are moved inwards."""

    def starts(side: int) -> list[int]:
        count = max(side - crop + stride - 1, 0) // stride + 1
        return [min(index * stride, side - crop) for index in range(count)]

    return [(y, x) for y in starts(height) for x in starts(width)]


def merge_windows(
    windows: Tensor, corners: list[tuple[int, int]], height: int, width: int
) -> Tensor:
    """Mean over windows [n, C, crop, crop] where they overlap: [C, height, width] float32."""
    crop = windows.shape[-1]
    total = windows.new_zeros((windows.shape[1], height, width), dtype=torch.float32)
    count = windows.new_zeros((height, width), dtype=torch.float32)
    for window, (y, x) in zip(windows, corners, strict=True):
        total[:, y : y + crop, x : x + crop] += window
        count[y : y + crop, x : x + crop] += 1
    return total / count


def fit_affine(values: Tensor, guide: Tensor) -> Tensor:
    """a·values + b, with a ≥ 0 and b by least squares against `guide` of the same shape.

    A window without contrast (a wall, the sky) cannot be fitted and takes the guide's mean.
    """
    mean, guide_mean = values.mean(), guide.mean()
    centred = values - mean
    variance = centred.square().mean()
    covariance = (centred * (guide - guide_mean)).mean()
    slope = torch.where(variance > 1e-12, covariance / variance.clamp_min(1e-12), 0.0)
    return centred * slope.clamp_min(0.0) + guide_mean


def label_pixels(scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Argmax of the scores [K, h, w] enlarged bilinearly to `size`, and its certainty.

    Returns labels [H, W] uint8 and certainty [H, W] float in 0..1: the winner's score over the
    sum of all scores, or over 1 where they sum to less, because no query claims the pixel.

    Enlarging all K maps is not needed. Where the four neighbours of a pixel agree on a class, no
    convex combination of their scores prefers another, so only pixels between disagreeing
    neighbours are computed class by class. The result is the same.
    """
    best, winner = scores.float().max(0)  # [h, w]
    total = scores.sum(0, dtype=torch.float32)  # [h, w]
    height, width = size
    if (height, width) == tuple(scores.shape[1:]):
        return winner.to(torch.uint8), best / total.clamp_min(1.0)
    planes = torch.stack([best, total])[None]  # [1, 2, h, w]
    best, total = F.interpolate(planes, size, mode="bilinear")[0]  # [H, W] each
    y0, y1, wy = _neighbours(scores.shape[1], height, scores.device)
    x0, x1, wx = _neighbours(scores.shape[2], width, scores.device)
    winner = winner.to(torch.uint8)
    labels = winner[y0][:, x0]  # [H, W]
    # A coarse map of "do these four agree" is looked up once for every fine pixel.
    down, right = winner.roll(-1, 0), winner.roll(-1, 1)
    differs = (winner != down) | (winner != right) | (winner != right.roll(-1, 0))  # [h, w]
    ys, xs = differs[y0][:, x0].nonzero(as_tuple=True)  # [E] each
    top, bottom, left, across = y0[ys], y1[ys], x0[xs], x1[xs]
    fraction_y, fraction_x = wy[ys], wx[xs]
    flat = scores.float().flatten(1)  # [K, h·w]
    columns = scores.shape[2]
    edge = torch.lerp(
        torch.lerp(flat[:, top * columns + left], flat[:, top * columns + across], fraction_x),
        torch.lerp(
            flat[:, bottom * columns + left], flat[:, bottom * columns + across], fraction_x
        ),
        fraction_y,
    )  # [K, E]
    edge_best, edge_winner = edge.max(0)
    labels[ys, xs] = edge_winner.to(torch.uint8)
    best[ys, xs] = edge_best
    return labels, best / total.clamp_min(1.0)


def _neighbours(coarse: int, fine: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper neighbour and the weight of the upper, of every fine position: [fine] each.

    Bilinear with half-pixel centres, clamped at the borders (torch's align_corners=False).
    """
    position = (torch.arange(fine, device=device, dtype=torch.float32) + 0.5) * (
        coarse / fine
    ) - 0.5
    position = position.clamp_min(0.0)
    lower = position.long().clamp_max(coarse - 1)
    return lower, (lower + 1).clamp_max(coarse - 1), position - lower


def metres_per_unit(frame: Frame, height: int, width: int, variant: Variant) -> float:
    """What the head's depth of a frame inferred at height x width is to be multiplied with.

    The ratio of the frame's focal length, at the size of inference, to that of the camera in whose
    metres the head answers (Metric3D, arXiv 2307.10984); 1 where the head knows no camera.
    """
    if variant.depth_head.focal_px is None or frame.focal_px is None:
        return 1.0
    shrink = math.sqrt(height / frame.height * width / frame.width)
    return frame.focal_px * shrink / variant.depth_head.focal_px


def finish_depth(
    depth: Tensor, size: tuple[int, int], labels: Tensor, variant: Variant, metres: float
) -> Tensor:
    """Depth [h, w] at `size`, [H, W] float32, nearest: nothing is interpolated across edges.

    Metric depth: multiplied with `metres`; +Inf in the sky and beyond the head's range, NaN where
    it is not a positive number (REP-117). Relative depth is left as it is.
    """
    depth = F.interpolate(depth[None, None], size, mode="nearest-exact")[0, 0]  # [H, W]
    limit_m = variant.depth_head.max_depth_m
    if limit_m is None:
        return depth
    beyond = depth >= 0.999 * limit_m
    sky = variant.labels.id_of("sky")
    if sky is not None:
        beyond |= labels == sky
    depth = torch.where(depth > 0, depth * metres, torch.nan)
    return torch.where(beyond, torch.inf, depth)
