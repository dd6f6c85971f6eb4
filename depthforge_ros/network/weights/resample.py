# SPDX-License-Identifier: Apache-2.0
"""Resamples published encoders from 14-pixel patches on a square grid to 16-pixel ones on any grid.

Both are interpolated as the authors of DepthForge do it: bicubic, corners not aligned, to a given
size (not by a factor), without antialiasing. DINOv2 trained its encoders with registers with
antialiased position tables, so theirs stay that.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from depthforge_ros.variant import PATCH


def resample_kernel(kernel: Tensor, side: int = PATCH) -> Tensor:
    """Return a patch embedding's kernel for another patch: [C, 3, h, w] -> [C, 3, side, side]."""
    if tuple(kernel.shape[2:]) == (side, side):
        return kernel
    return F.interpolate(kernel, (side, side), mode="bicubic", align_corners=False)


def resample_positions(
    table: Tensor,
    grid: tuple[int, int],
    stored: tuple[int, int] | None = None,
    *,
    antialias: bool = False,
) -> Tensor:
    """Return a position table for another grid: [1, 1 + h·w, C] -> [1, 1 + rows·columns, C].

    The first position is the class token's and stays. grid: rows and columns expected. stored: rows
    and columns the table has; a square where it is not given. Raise ValueError naming the number
    of positions if that cannot be.
    """
    positions = table.shape[1] - 1
    if stored is None:
        side = math.isqrt(positions)
        stored = (side, side)
    if stored[0] * stored[1] != positions:
        raise ValueError(
            f"position table has {positions} patches, which is not {stored[0]} × {stored[1]}"
        )
    if stored == grid:
        return table
    patches = table[:, 1:].unflatten(1, stored).permute(0, 3, 1, 2)  # [1, C, h, w]
    patches = F.interpolate(
        patches, grid, mode="bicubic", align_corners=False, antialias=antialias
    )  # [1, C, rows, columns]
    patches = patches.flatten(2).transpose(1, 2)  # [1, rows·columns, C]
    return torch.cat([table[:, :1], patches], dim=1)  # [1, 1 + rows·columns, C]
