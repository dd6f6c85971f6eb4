# SPDX-License-Identifier: Apache-2.0
"""From the depth head's answer to a depth image in metres, or to relative depth as it is."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from depthforge_ros.frame import Frame
from depthforge_ros.ground import SKY_SHARE
from depthforge_ros.variant import Variant

RANGE_SHARE = 0.999
"""Depth beyond this share of the head's range is beyond range."""


def metres_per_unit(frame: Frame, height: int, width: int, variant: Variant) -> float:
    """Return the factor from the head's depth to metres, for a frame inferred at height x width.

    It is the frame's focal length at the size of inference over the focal length that the head was
    trained for (Metric3D, arXiv 2307.10984); 1 if the head has none or the frame's is unknown.
    """
    if variant.depth_head.focal_px is None or frame.focal_px is None:
        return 1.0
    shrink = math.sqrt(height / frame.height * width / frame.width)
    return frame.focal_px * shrink / variant.depth_head.focal_px


def finish_depth(
    depth: Tensor,
    size: tuple[int, int],
    labels: Tensor,
    variant: Variant,
    metres: float | Tensor,
) -> Tensor:
    """Resize depth [..., h, w] to [..., H, W] float32 by nearest: edges are not interpolated.

    size: H, W. labels: [..., H, W]. Metric depth is multiplied by `metres`, a number or a tensor
    [..., 1, 1]. It is +Inf beyond the head's range, and in the sky if
    the depth there is far; NaN in the sky if the depth is near, and where depth is not a positive
    number (REP-117): a white truck labelled as sky must not become free space. Relative depth is
    only resized.
    """
    limit_m = variant.depth_head.max_depth_m
    flat = depth.reshape(-1, 1, *depth.shape[-2:])  # [n, 1, h, w]
    depth = F.interpolate(flat, size, mode="nearest-exact").view(*depth.shape[:-2], *size)
    if limit_m is None:
        return depth
    beyond = depth >= RANGE_SHARE * limit_m
    unknown = ~(depth > 0)
    sky = variant.labels.id_of("sky")
    if sky is not None:
        is_sky, far = labels == sky, depth > SKY_SHARE * limit_m
        beyond |= is_sky & far
        unknown |= is_sky & ~far
    return (depth * metres).masked_fill_(beyond, torch.inf).masked_fill_(unknown, torch.nan)
