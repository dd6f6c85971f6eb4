# SPDX-License-Identifier: Apache-2.0
"""Resizing images, cutting them into windows and putting those together again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from depthforge_ros.pipeline.transfer import Transfer


def resize_rgb(
    rgb: np.ndarray, height: int, width: int, device: torch.device, antialias: bool = True
) -> Tensor:
    """Return an image [H, W, 3] uint8 as [1, 3, height, width] uint8 on the device."""
    return resize_frame(Transfer(device).upload(host_tensor(rgb)), height, width, antialias)


def host_tensor(rgb: np.ndarray) -> Tensor:
    """Return an array as a tensor with its memory, or a copy if the array is read-only."""
    return torch.from_numpy(rgb if rgb.flags.writeable else rgb.copy())


def resize_frame(image: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """Resize an image [H, W, 3] uint8 to [1, 3, height, width] uint8."""
    return resize_uint8(image.permute(2, 0, 1)[None], height, width, antialias)


def resize_uint8(image: Tensor, height: int, width: int, antialias: bool = True) -> Tensor:
    """Resize [B, 3, H, W] uint8 bilinearly; CUDA has no uint8 kernel for antialiasing."""
    if image.shape[2:] == (height, width):
        return image.contiguous()
    source = image if image.device.type == "cpu" else image.float()
    resized = F.interpolate(source, (height, width), mode="bilinear", antialias=antialias)
    if resized.dtype != torch.uint8:
        resized = resized.round_().clamp_(0, 255).to(torch.uint8)
    return resized.contiguous()


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along the first dimension; a single tensor is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def window_corners(height: int, width: int, crop: int, stride: int) -> list[tuple[int, int]]:
    """Return top-left corners (y, x) of windows covering the image; the last ones move inwards."""

    def starts(side: int) -> list[int]:
        count = max(side - crop + stride - 1, 0) // stride + 1
        return [min(index * stride, side - crop) for index in range(count)]

    return [(y, x) for y in starts(height) for x in starts(width)]


def merge_windows(
    windows: Tensor, corners: list[tuple[int, int]], height: int, width: int
) -> Tensor:
    """Average windows [n, C, crop, crop] where they overlap: [C, height, width] float32."""
    crop = windows.shape[-1]
    total = windows.new_zeros((windows.shape[1], height, width), dtype=torch.float32)
    count = windows.new_zeros((height, width), dtype=torch.float32)
    for window, (y, x) in zip(windows, corners, strict=True):
        total[:, y : y + crop, x : x + crop] += window
        count[y : y + crop, x : x + crop] += 1
    return total / count


def fit_affine(values: Tensor, guide: Tensor) -> Tensor:
    """Return a·values + b, with a ≥ 0 and b by least squares against `guide` of the same shape.

    A window without contrast (a wall, the sky) cannot be fitted and gets the guide's mean.
    """
    mean, guide_mean = values.mean(), guide.mean()
    centred = values - mean
    variance = centred.square().mean()
    covariance = (centred * (guide - guide_mean)).mean()
    slope = torch.where(variance > 1e-12, covariance / variance.clamp_min(1e-12), 0.0)
    return centred * slope.clamp_min(0.0) + guide_mean
