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
from depthforge_ros.network.deploy.tiled_resize import Strip, resized_strip, strips_of
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


class Reading(nn.Module):
    """A 1×1 convolution of a level: of the patches before they are resized, and of what a stem saw.

    finer: the stem's own convolution, None where there is none.
    """

    def __init__(self, source: nn.Conv2d, finer: nn.Conv2d | None) -> None:
        super().__init__()
        weight, bias = matrix(source), source.bias
        self.seen = None
        if finer is not None:
            self.seen = Linear(product(weight, matrix(finer)), None)
            shift = product(weight, finer.bias)
            bias = shift if bias is None else bias + shift
        self.patches = Linear(weight, bias)

    def forward(self, patches: Tensor, seen: Tensor | None, size: tuple[int, int]) -> Tensor:
        """patches [B, C, rows, columns], seen [B, c, *size] -> [B, outputs, *size]."""
        read = self.patches(as_tokens(patches))
        result = resized(as_map(read, patches.shape[2], patches.shape[3]), size)
        if self.seen is not None and seen is not None:
            result = result + as_map(self.seen(as_tokens(seen)), *size)
        return result


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
        self.seen = None if finer is None else linear(finer)
        self.gate, self.narrow = Reading(gate, finer), Reading(project, finer)

    def forward(
        self, patches: Tensor, seen: Tensor | None, grid: tuple[int, int], size: tuple[int, int]
    ) -> Level:
        """patches [B, rows·columns, C] of grid (rows, columns); seen [B, c, *size]."""
        whole = as_map(patches, *grid)  # [B, C, rows, columns]
        if self.seen is not None or not self.finest:
            whole = resized(whole, size)  # [B, C, h, w]
        # Of a level smaller than the patches, the fewer positions are read.
        source = whole if size[0] < grid[0] else as_map(patches, *grid)
        gate, narrow = self.gate(source, seen, size), self.narrow(source, seen, size)
        if self.seen is not None and seen is not None:
            whole = whole + as_map(self.seen(as_tokens(seen)), *size)
        return Level(whole, gate, narrow)


class DeployedRefinement(nn.Module):
    """Σ_i s_i·M_i·(c_i·x_i) with M_i = W_lateral·W_fuse,i; c_i, s_i the two gates of level x_i.

    The spatial gate is one number a position, so it commutes with M_i, and the 3×3 convolution that
    makes it is nine 1×1 ones whose outputs are shifted.
    """

    TAPS = 9

    def __init__(self, source: RefinementDecoder, lateral: nn.Conv2d) -> None:
        super().__init__()
        self.strip_elements: int | None = None  # all at once
        self.channel_gate = linear(source.channel_gate[2])
        spatial = source.spatial_gate[0]
        taps = spatial.weight.detach()[0].flatten(1).T  # [9, C]
        width = spatial.in_channels
        self.taps = Linear(taps, None)
        self.fuse = nn.ModuleList(
            Linear(product(matrix(lateral), part), None)
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
            whole = level.whole.to(self.channel_gate.dtype)
            parts = [self.fused(whole, level.gate, fuse, strip) for strip in strips]
            fused, taps = (
                as_map(torch.cat(part, dim=1), height, width).to(result.dtype)
                for part in zip(*parts, strict=True)
            )  # [B, D, h_0, w_0], [B, 9, h_0, w_0]
            spatial = torch.conv2d(taps, self.shifts, self.spatial_bias, padding=1).sigmoid()
            result = result + spatial * fused
        return result

    def fused(
        self, whole: Tensor, gate: Tensor, fuse: Linear, strip: Strip
    ) -> tuple[Tensor, Tensor]:
        """M·(c·x) of a strip of an enlarged level [B, rows·w_0, D], and its taps [B, …, 9]."""
        hidden = as_tokens(resized_strip(gate, strip)).relu()  # [B, rows·w_0, C / 16]
        weight = self.channel_gate(hidden).sigmoid()  # [B, rows·w_0, C]
        gated = as_tokens(resized_strip(whole, strip)) * weight
        return fuse(gated), self.taps(gated)


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
