# SPDX-License-Identifier: Apache-2.0
"""From patches to levels, and the depth refinement decoder, folded with the convolutions behind it.

Whoever reads a level reads it through a 1×1 convolution first, and those commute with bilinear
resizing: they run on the patches, before these are enlarged. The refined finest map itself is never
made, only its projection to the decoder's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from depthforge_ros.network.deploy.layers import (
    Linear,
    as_map,
    as_tokens,
    linear,
    matrix,
    product,
    resized,
)
from depthforge_ros.network.deploy.strips import Strip, resized_strip, strips_of
from depthforge_ros.network.pixel_decoder import PixelDecoder
from depthforge_ros.network.refinement import RefinementDecoder


@dataclass(frozen=True)
class Level:
    """One level as its readers see it, and whole for the gates.

    whole: [B, C, h, w]; the finest level's still to be enlarged, where no stem adds to it.
    gate: [B, C / 16, h, w], what the channel gate's first layer makes of it. narrow: [B, D, h, w],
    its projection to the decoder's width D.
    """

    whole: Tensor
    gate: Tensor
    narrow: Tensor


class LevelReader(nn.Module):
    """Patches, and what a stem saw, as a level.

    gate: the channel gate's first layer, C to C / 16. project: the 1×1 convolution to width D.
    finer: the stem's 1×1 convolution to C, None where there is none. finest: whether the size of
    this level is the one at which the gates work.
    """

    def __init__(
        self, gate: nn.Conv2d, project: nn.Conv2d, finer: nn.Conv2d | None, *, finest: bool
    ) -> None:
        super().__init__()
        self.finest = finest
        self.widths = (gate.out_channels, project.out_channels)
        read = torch.cat([matrix(gate), matrix(project)])  # [C / 16 + D, C]
        zero = gate.bias.new_zeros(project.out_channels)
        bias = torch.cat([gate.bias, zero if project.bias is None else project.bias])
        self.seen = self.read_seen = None
        if finer is not None:
            self.seen = linear(finer)
            self.read_seen = Linear(product(read, matrix(finer)), None)
            bias = bias + product(read, finer.bias)
        self.read = Linear(read, bias)

    def forward(
        self, patches: Tensor, seen: Tensor | None, grid: tuple[int, int], size: tuple[int, int]
    ) -> Level:
        """patches [B, rows·columns, C] of grid (rows, columns); seen [B, c, *size]."""
        whole = as_map(patches, *grid)  # [B, C, rows, columns]
        if self.seen is not None or not self.finest:
            whole = resized(whole, size)  # [B, C, h, w]
        if size[0] < grid[0]:  # smaller than the patches: the fewer positions are read
            read = as_map(self.read(as_tokens(whole)), *size)
        else:
            read = resized(as_map(self.read(patches), *grid), size)  # [B, C / 16 + D, h, w]
        if self.seen is not None and self.read_seen is not None and seen is not None:
            tokens = as_tokens(seen)  # [B, h·w, c]
            whole = whole + as_map(self.seen(tokens), *size)
            read = read + as_map(self.read_seen(tokens), *size)
        gate, narrow = read.split(self.widths, dim=1)
        return Level(whole, gate, narrow)


class DeployedRefinement(nn.Module):
    """Σ_i s_i·M_i·(c_i·x_i) with M_i = W_lateral·W_fuse,i; c_i, s_i the two gates of level x_i.

    The spatial gate is one number a position, so it commutes with M_i, and the 3×3 convolution that
    makes it is nine 1×1 ones whose outputs are shifted: they are nine more rows of M_i.
    """

    TAPS = 9

    def __init__(self, source: RefinementDecoder, lateral: nn.Conv2d) -> None:
        super().__init__()
        self.strip_elements: int | None = None  # all at once
        self.channel_gate = linear(source.channel_gate[2])
        spatial = source.spatial_gate[0]
        taps = spatial.weight.detach()[0].flatten(1).T  # [9, C]
        width = spatial.in_channels
        self.fuse = nn.ModuleList(
            Linear(torch.cat([product(matrix(lateral), part), taps]), None)
            for part in matrix(source.fuse).split(width, dim=1)
        )
        bias = product(matrix(lateral), source.fuse.bias)  # [D]
        self.register_buffer("bias", bias.view(-1, 1, 1))
        self.register_buffer("spatial_bias", spatial.bias.detach())
        shifts = torch.eye(self.TAPS, dtype=taps.dtype, device=taps.device)
        self.register_buffer("shifts", shifts.view(1, self.TAPS, 3, 3))

    def forward(self, levels: list[Level]) -> Tensor:
        """Levels, fine to coarse -> projection of the refined finest map [B, D, h_0, w_0]."""
        height, width = levels[0].narrow.shape[2:]
        strips = strips_of(height, width, levels[0].whole.shape[1], self.strip_elements)
        result = levels[0].narrow + self.bias
        for level, fuse in zip(levels, self.fuse, strict=True):
            parts = [self.fused(level, fuse, strip) for strip in strips]
            fused = as_map(torch.cat(parts, dim=1), height, width).to(result.dtype)
            taps = fused[:, -self.TAPS :]
            spatial = torch.conv2d(taps, self.shifts, self.spatial_bias, padding=1).sigmoid()
            result = result + spatial * fused[:, : -self.TAPS]
        return result

    def fused(self, level: Level, fuse: Linear, strip: Strip) -> Tensor:
        """M·(c·x) of a strip of the enlarged level: [B, rows·w_0, D + 9]."""
        hidden = as_tokens(resized_strip(level.gate, strip)).relu()  # [B, rows·w_0, C / 16]
        gate = self.channel_gate(hidden).sigmoid()  # [B, rows·w_0, C]
        return fuse(as_tokens(resized_strip(level.whole, strip)).to(gate.dtype) * gate)


def level_readers(
    refinement: RefinementDecoder, decoder: PixelDecoder, finer: nn.ModuleList
) -> nn.ModuleList:
    """A reader for every level, fine to coarse. finer: a stem's convolutions, for the finest."""
    projections = [decoder.lateral_conv, *reversed(decoder.input_convs)]
    stems = [*finer, *[None] * (len(projections) - len(finer))]
    return nn.ModuleList(
        LevelReader(refinement.channel_gate[0], project.conv, stem, finest=index == 0)
        for index, (project, stem) in enumerate(zip(projections, stems, strict=True))
    )
