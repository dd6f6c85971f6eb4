# SPDX-License-Identifier: Apache-2.0
"""Ways to sample features at places between pixels; they agree, runtimes differ.

All take value [B, N, heads, D], N counting the positions of all levels of `shapes` (h, w);
centres [N, 2] of the queries' positions, (x, y) in 0..1; offsets [B, N, heads, levels, points, 2]
from there in pixels of the sampled level; weights [B, N, heads, levels, points]; extents
[levels, 2], the (w, h) of `shapes` on the device. All return
Σ weight·value [B, N, heads·D], bilinear, 0 outside.
"""

from __future__ import annotations

from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor


class Sampling(Enum):
    """How deformable attention reads its samples."""

    GRID = "grid_sample"
    """PyTorch's own operator. Some releases of TensorRT compute it wrongly."""
    GATHER = "gather"
    """Rows picked by index, which every runtime has."""


def sample_by_grid(
    value: Tensor,
    centres: Tensor,
    offsets: Tensor,
    weights: Tensor,
    shapes: tuple[tuple[int, int], ...],
    extents: Tensor,
) -> Tensor:
    """By F.grid_sample, level by level."""
    B, _, heads, D = value.shape
    sampled = []
    for level, part in enumerate(value.split([h * w for h, w in shapes], dim=1)):
        h, w = shapes[level]
        corner = 2 * centres[:, None, None] - 1  # [N, 1, 1, 2], grid_sample's -1..1
        places = corner + offsets[:, :, :, level] * (2 / extents[level])  # [B, N, heads, points, 2]
        places = places.transpose(1, 2).flatten(0, 1)  # [B·heads, N, points, 2]
        part = part.permute(0, 2, 3, 1).reshape(B * heads, D, h, w)
        sampled.append(F.grid_sample(part, places, mode="bilinear", align_corners=False))
    samples = torch.cat(sampled, dim=-1)  # [B·heads, D, N, levels·points]
    weights = weights.flatten(3).transpose(1, 2).flatten(0, 1)[:, None]
    mixed = (samples * weights).sum(-1)  # [B·heads, D, N]
    return mixed.unflatten(0, (B, heads)).permute(0, 3, 1, 2).flatten(2)


def sample_by_gather(
    value: Tensor,
    centres: Tensor,
    offsets: Tensor,
    weights: Tensor,
    shapes: tuple[tuple[int, int], ...],
    extents: Tensor,
) -> Tensor:
    """By index: the four pixels around every place, each with its share."""
    B, N, heads, D = value.shape
    rows = value.transpose(1, 2).reshape(-1, D)  # [B·heads·N, D]
    first = torch.arange(B * heads, device=value.device).view(B, 1, heads, 1) * N
    mixed = torch.zeros_like(value)
    start = 0
    for level, (h, w) in enumerate(shapes):
        places = centres[:, None, None] * extents[level] - 0.5 + offsets[:, :, :, level]
        low = places.floor()  # [B, N, heads, points, 2]
        share = places - low
        x, y = low.unbind(-1)
        right, below = share.unbind(-1)
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            at_x, at_y = x + dx, y + dy
            part = (right if dx else 1 - right) * (below if dy else 1 - below)
            inside = (at_x >= 0) & (at_x < w) & (at_y >= 0) & (at_y < h)
            part = weights[:, :, :, level] * part * inside  # [B, N, heads, points]
            index = at_y.clamp(0, h - 1).long() * w + at_x.clamp(0, w - 1).long()
            index = (first + start + index).flatten()
            picked = rows.index_select(0, index).view(B, N, heads, -1, D)
            mixed = mixed + (part[..., None] * picked).sum(3)
        start += h * w
    return mixed.flatten(2)


def sample_by_bags(
    value: Tensor,
    centres: Tensor,
    offsets: Tensor,
    weights: Tensor,
    shapes: tuple[tuple[int, int], ...],
    extents: Tensor,
) -> Tensor:
    """By weighted sums of rows, F.embedding_bag: the fastest on a CPU, which stores no samples.

    Not for export: the batch is a loop.
    """
    B, N, heads, _ = value.shape
    each = heads, weights[0, 0, 0].numel()  # samples of a head: levels·points
    # With a border of zeros, one before and two behind, what is outside needs no condition.
    padded = [
        F.pad(part.unflatten(1, shape), (0, 0, 0, 0, 1, 2, 1, 2)).flatten(1, 2)
        for part, shape in zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
    ]
    rows = torch.cat(padded, dim=1)  # [B, padded positions, heads, D]
    starts = [sum(part.shape[1] for part in padded[:level]) for level in range(len(shapes))]

    def column(of_levels: list[int], dtype: torch.dtype) -> Tensor:
        """A number of every level for each of a position's samples: [heads·levels·points]."""
        numbers = torch.tensor(of_levels, dtype=dtype, device=value.device)
        return numbers.repeat_interleave(each[1] // len(shapes)).repeat(heads)

    width = column([w for _, w in shapes], value.dtype)
    height = column([h for h, _ in shapes], value.dtype)
    stride = column([(w + 3) * heads for _, w in shapes], torch.int32)
    head = torch.arange(heads, dtype=torch.int32, device=value.device).repeat_interleave(each[1])
    origin = head + heads * column(
        [start + w + 4 for start, (_, w) in zip(starts, shapes, strict=True)], torch.int32
    )  # the row of the pixel (0, 0)
    result = torch.empty_like(value)
    for image in range(B):
        x, y = offsets[image].flatten(1, 3).unbind(-1)  # [N, heads·levels·points] each
        x = torch.minimum((centres[:, :1] * width - 0.5 + x).clamp_min_(-1), width)
        y = torch.minimum((centres[:, 1:] * height - 0.5 + y).clamp_min_(-1), height)
        left, top = x.floor(), y.floor()
        right, below = x - left, y - top
        first = origin + top.int() * stride + left.int() * heads
        index = [first, first + heads, first + stride, first + stride + heads]
        lower = below * weights[image].flatten(1)
        upper = weights[image].flatten(1) - lower
        share = [upper - upper * right, upper * right, lower - lower * right, lower * right]
        index, share = (
            torch.stack([part.view(N, *each) for part in parts], dim=2).view(N * heads, -1)
            for parts in (index, share)
        )  # [N·heads, 4·levels·points] each
        result[image] = F.embedding_bag(
            index,
            rows[image].flatten(0, 1),  # [padded positions·heads, D]
            mode="sum",
            per_sample_weights=share,
        ).unflatten(0, (N, heads))
    return result.flatten(2)


SAMPLERS = {Sampling.GRID: sample_by_grid, Sampling.GATHER: sample_by_gather}
