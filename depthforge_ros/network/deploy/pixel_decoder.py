# SPDX-License-Identifier: Apache-2.0
"""Mask2Former's pixel decoder for one way of sampling; positions come as tables.

Its 1×1 convolutions are in the readers of the levels, before them; its last one is in the mask
decoder's head, behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthforge_ros.network.deploy.layers import (
    Conv,
    Linear,
    Norm,
    as_map,
    as_tokens,
    linear,
    resized,
)
from depthforge_ros.network.deploy.sampling import SAMPLERS, Sampling
from depthforge_ros.network.pixel_decoder import (
    ATTENDED_LEVELS,
    DeformableAttention,
    EncoderLayer,
    PixelDecoder,
    pixel_centres,
    sine_positions,
)


@dataclass(frozen=True)
class PixelTables:
    """What the pixel decoder adds for one size. shapes: (h, w) of the levels, coarse to fine.

    positions: [N, D], N counting the positions of all levels. centres: [N, 2], (x, y) in 0..1.
    extents: [levels, 2], (w, h); a table too, since numbers that become a tensor in every frame are
    a copy to the GPU in every frame, which cannot be recorded in a CUDA graph.
    """

    shapes: tuple[tuple[int, int], ...]
    positions: Tensor
    centres: Tensor
    extents: Tensor


class DeployedAttention(nn.Module):
    """Deformable attention. Where to look is decided in the wide type."""

    def __init__(self, source: DeformableAttention, sampling: Sampling) -> None:
        super().__init__()
        self.heads, self.points = source.heads, source.points
        self.sample = SAMPLERS[sampling]
        offsets, weights = source.sampling_offsets, source.attention_weights
        self.widths = (offsets.out_features, weights.out_features)
        self.look = Linear(
            torch.cat([offsets.weight, weights.weight]),
            torch.cat([offsets.bias, weights.bias]),
            exact=True,
        )
        self.value = linear(source.value_proj)
        self.output = linear(source.output_proj)

    def forward(self, x: Tensor, tables: PixelTables) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        offsets, weights = self.look(x + tables.positions).split(self.widths, dim=-1)
        each = (self.heads, ATTENDED_LEVELS, self.points)
        offsets = offsets.unflatten(2, (*each, 2))
        weights = weights.unflatten(2, (self.heads, -1)).softmax(-1).unflatten(3, each[1:])
        value = self.value(x).to(x.dtype).unflatten(2, (self.heads, -1))
        places = (tables.centres, offsets, weights, tables.shapes, tables.extents)
        return self.output(self.sample(value, *places))


class DeployedEncoderLayer(nn.Module):
    """Deformable attention and feed-forward, each followed by a LayerNorm."""

    def __init__(self, source: EncoderLayer, sampling: Sampling) -> None:
        super().__init__()
        self.attention = DeployedAttention(source.self_attn, sampling)
        self.norm1, self.norm2 = Norm(source.norm1), Norm(source.norm2)
        self.enter, self.leave = linear(source.ffn[0]), linear(source.ffn[2])

    def forward(self, x: Tensor, tables: PixelTables) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = self.norm1(x + self.attention(x, tables))
        return self.norm2(x + self.leave(F.relu(self.enter(x))))


class DeployedPixelDecoder(nn.Module):
    """Projected maps -> features for masks and three memories."""

    def __init__(self, source: PixelDecoder, sampling: Sampling) -> None:
        super().__init__()
        self.input_norms = nn.ModuleList(Norm(conv.norm) for conv in source.input_convs)
        self.lateral_norm = Norm(source.lateral_conv.norm)
        self.layers = nn.ModuleList(DeployedEncoderLayer(one, sampling) for one in source.layers)
        self.output_conv = Conv(source.output_conv.conv)
        self.output_norm = Norm(source.output_conv.norm)
        self.register_buffer("level_encoding", source.level_encoding.detach())

    def tables(self, shapes: tuple[tuple[int, int], ...]) -> PixelTables:
        """What the decoder adds for levels of these sizes, coarse to fine."""
        encoding = self.level_encoding
        positions = [
            sine_positions(h, w, encoding.shape[1], encoding).flatten(1).T + own
            for (h, w), own in zip(shapes, encoding, strict=True)
        ]
        centres = [pixel_centres(h, w, encoding) for h, w in shapes]
        extents = encoding.new_tensor([(w, h) for h, w in shapes])
        return PixelTables(
            shapes, torch.cat(positions), torch.cat(centres).to(encoding.dtype), extents
        )

    def forward(
        self, finest: Tensor, levels: list[Tensor], tables: PixelTables
    ) -> tuple[Tensor, list[Tensor]]:
        """finest: [B, D, h_0, w_0], the refined map; levels: [B, D, h, w] each, coarse to fine.

        Returns features [B, D, h_0, w_0], to which mask heads of `deploy` apply, and memories
        [B, h·w, D], coarse to fine.
        """
        maps = [norm(level) for norm, level in zip(self.input_norms, levels, strict=True)]
        x = torch.cat([as_tokens(level) for level in maps], dim=1)  # [B, N, D]
        for layer in self.layers:
            x = layer(x, tables)
        memories = list(x.split([h * w for h, w in tables.shapes], dim=1))
        lateral = self.lateral_norm(finest)  # [B, D, h_0, w_0]
        above = as_map(memories[-1], *tables.shapes[-1])
        above = resized(above, (finest.shape[2], finest.shape[3]))
        return F.relu(self.output_norm(self.output_conv(lateral + above))), memories
