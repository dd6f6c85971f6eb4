# SPDX-License-Identifier: Apache-2.0
"""Mask2Former's transformer decoder with constant queries: one class head, one full-size mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthforge_ros.network.deploy.layers import (
    Linear,
    Norm,
    linear,
    matrix,
    product,
    resized,
)
from depthforge_ros.network.mask_decoder import DecoderLayer, MaskDecoder
from depthforge_ros.network.pixel_decoder import ATTENDED_LEVELS, sine_positions


class DeployedDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; positions are in the biases.

    position: [Q, D], the queries' own. embed: [D], the embedding of the attended level.
    """

    def __init__(self, source: DecoderLayer, position: Tensor, embed: Tensor) -> None:
        super().__init__()
        self.heads = source.cross_attn.heads
        cross, own = source.cross_attn.in_proj, source.self_attn.in_proj
        q, k, v = cross.weight.chunk(3)
        q_bias, k_bias, v_bias = cross.bias.chunk(3)
        self.q, self.k = Linear(q, None), Linear(k, k_bias)
        self.v = Linear(v, v_bias + product(v, embed))
        self.register_buffer("q_position", product(position, q.T) + q_bias)
        self.cross_out = linear(source.cross_attn.out_proj)
        self.qkv = Linear(own.weight, None)
        positions = torch.cat([position, position, torch.zeros_like(position)])
        parts = [
            product(part, weight.T)
            for part, weight in zip(positions.chunk(3), own.weight.chunk(3), strict=True)
        ]
        self.register_buffer("qkv_position", torch.cat(parts, dim=-1) + own.bias)  # [Q, 3·D]
        self.own_out = linear(source.self_attn.out_proj)
        self.norms = nn.ModuleList(map(Norm, (source.norm1, source.norm2, source.norm3)))
        self.enter, self.leave = linear(source.ffn[0]), linear(source.ffn[2])

    def forward(self, x: Tensor, memory: Tensor, keyed: Tensor, mask: Tensor) -> Tensor:
        """x [B, Q, D]; memory, and keyed by positions, [B, N, D]; mask [B, 1, Q, N]."""
        q, k, v = self.q(x) + self.q_position, self.k(keyed), self.v(memory)
        x = self.norms[0](x + self.cross_out(self.attend(q, k, v, mask)))
        q, k, v = (self.qkv(x) + self.qkv_position).chunk(3, dim=-1)
        x = self.norms[1](x + self.own_out(self.attend(q, k, v, None)))
        return self.norms[2](x + self.leave(F.relu(self.enter(x))))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """q [B, Q, D]; k, v [B, N, D] -> [B, Q, D]."""
        q, k, v = (
            part.to(v.dtype).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v)
        )  # [B, heads, Q or N, D / heads] each
        return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


class DeployedMaskDecoder(nn.Module):
    """Memories -> classes and masks of the queries, which are constants.

    queries: [Q, D]. mask_feature: the 1×1 convolution that makes mask features; masks are linear in
    them, so it is folded into the mask head, and a level's masks come from features of its size.
    """

    def __init__(self, source: MaskDecoder, queries: Tensor, mask_feature: nn.Conv2d) -> None:
        super().__init__()
        embeds = source.level_embed.detach()
        self.register_buffer("start", source.query_content(queries).detach())
        self.register_buffer("level_embed", embeds)
        self.layers = nn.ModuleList(
            DeployedDecoderLayer(layer, queries, embeds[index % ATTENDED_LEVELS])
            for index, layer in enumerate(source.layers)
        )
        self.norm = Norm(source.norm)
        self.class_head = linear(source.class_head)
        first, second, last = (source.mask_head[index] for index in (0, 2, 4))
        self.mask_head = nn.Sequential(linear(first), nn.ReLU(), linear(second), nn.ReLU())
        # One row more than D: what the convolution's bias adds to a whole mask.
        feature = torch.cat([matrix(mask_feature).T, mask_feature.bias.detach()[None]])
        self.mask_last = Linear(product(feature, last.weight), product(feature, last.bias))

    def tables(self, shapes: tuple[tuple[int, int], ...]) -> list[Tensor]:
        """What is added to the memories for keys: [h·w, D] each, coarse to fine."""
        embeds = self.level_embed
        return [
            sine_positions(h, w, embeds.shape[1], embeds).flatten(1).T + embed
            for (h, w), embed in zip(shapes, embeds, strict=True)
        ]

    def forward(
        self,
        features: Tensor,
        memories: list[Tensor],
        tables: list[Tensor],
        shapes: tuple[tuple[int, int], ...],
    ) -> tuple[Tensor, Tensor]:
        """features [B, D, h, w]; memories [B, h_i·w_i, D] and tables, coarse to fine.

        Returns class logits [B, Q, K + 1] and mask logits [B, Q, h, w].
        """
        sized = [resized(features, shape).flatten(2) for shape in shapes]  # [B, D, h_i·w_i]
        keyed = [memory + table for memory, table in zip(memories, tables, strict=True)]
        x = self.start.expand(features.shape[0], -1, -1)  # [B, Q, D]
        for index, layer in enumerate(self.layers):
            level = index % ATTENDED_LEVELS
            inside = self.masks(self.norm(x), sized[level]) >= 0  # [B, Q, h_i·w_i]
            # A query with an empty mask looks everywhere. TensorRT knows `any` and not `all`.
            looks = inside | ~inside.any(-1, keepdim=True)
            x = layer(x, memories[level], keyed[level], looks[:, None])
        x = self.norm(x)
        masks = self.masks(x, features.flatten(2)).unflatten(2, features.shape[2:])
        return self.class_head(x), masks

    def masks(self, x: Tensor, features: Tensor) -> Tensor:
        """x [B, Q, D], features [B, D, n] -> mask logits [B, Q, n]."""
        last = self.mask_last(self.mask_head(x))  # [B, Q, D + 1]
        return last[..., :-1] @ features.to(last.dtype) + last[..., -1:]
