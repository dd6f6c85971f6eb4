# SPDX-License-Identifier: Apache-2.0
"""Mask2Former's transformer decoder (arXiv 2112.01527): queries look where their masks are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthforge_ros.network.pixel_decoder import ATTENDED_LEVELS, feed_forward, sine_positions
from depthforge_ros.variant import DecoderSize


@dataclass(frozen=True)
class MaskOutputs:
    """What the queries say before the first layer and after every layer.

    class_logits: [B, Q, K + 1] each, the last class is "nothing". mask_logits: [B, Q, h, w] each,
    at a quarter of the image's size.
    """

    class_logits: tuple[Tensor, ...]
    mask_logits: tuple[Tensor, ...]


class Attention(nn.Module):
    """Multi-head attention of queries to keys, with positions added to both but not to values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """query [B, Q, C]; key, value [B, N, C]; mask [B, 1, Q, N], True where to look."""
        C = query.shape[-1]
        weights, biases = self.in_proj.weight.split(C), self.in_proj.bias.split(C)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )  # [B, heads, Q or N, C / heads]
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # [B, Q, C]


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; a LayerNorm after each."""

    def __init__(self, size: DecoderSize) -> None:
        super().__init__()
        self.cross_attn = Attention(size.width, size.heads)
        self.norm1 = nn.LayerNorm(size.width)
        self.self_attn = Attention(size.width, size.heads)
        self.norm2 = nn.LayerNorm(size.width)
        self.ffn = feed_forward(size.width, size.decoder_ffn)
        self.norm3 = nn.LayerNorm(size.width)

    def forward(
        self, x: Tensor, position: Tensor, memory: Tensor, memory_position: Tensor, mask: Tensor
    ) -> Tensor:
        """x, position [B, Q, C]; memory [B, N, C]; memory_position [N, C] -> [B, Q, C]."""
        looked = self.cross_attn(x + position, memory + memory_position, memory, mask)
        x = self.norm1(x + looked)
        x = self.norm2(x + self.self_attn(x + position, x + position, x, None))
        return self.norm3(x + self.ffn(x))


class MaskDecoder(nn.Module):
    """Queries and memories -> a class and a mask for every query. classes: K, without "nothing"."""

    def __init__(self, classes: int, size: DecoderSize) -> None:
        super().__init__()
        C = size.width
        self.query_content = nn.Linear(C, C)
        self.level_embed = nn.Parameter(torch.empty(ATTENDED_LEVELS, C))
        self.layers = nn.ModuleList(DecoderLayer(size) for _ in range(size.decoder_layers))
        self.norm = nn.LayerNorm(C)
        self.class_head = nn.Linear(C, classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(C, C), nn.ReLU(), nn.Linear(C, C), nn.ReLU(), nn.Linear(C, C)
        )
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
        nn.init.normal_(self.level_embed)

    def forward(
        self, queries: Tensor, mask_features: Tensor, memories: list[Tensor]
    ) -> MaskOutputs:
        """queries [Q, C]; mask_features [B, C, h, w]; memories [B, C, h_i, w_i], coarse to fine."""
        B, C = mask_features.shape[:2]
        shapes = [memory.shape[2:] for memory in memories]
        positions = [sine_positions(h, w, C, mask_features).flatten(1).T for h, w in shapes]
        keys = [
            memory.flatten(2).transpose(1, 2) + embed
            for memory, embed in zip(memories, self.level_embed, strict=True)
        ]  # [B, h_i·w_i, C] each
        position = queries.expand(B, -1, -1)  # [B, Q, C]
        x = self.query_content(position)
        class_logits, mask_logits = [], []
        for index in range(len(self.layers) + 1):
            classes, masks = self._heads(x, mask_features)
            class_logits.append(classes)
            mask_logits.append(masks)
            if index < len(self.layers):
                level = index % ATTENDED_LEVELS
                mask = attention_mask(masks, shapes[level])
                x = self.layers[index](x, position, keys[level], positions[level], mask)
        return MaskOutputs(tuple(class_logits), tuple(mask_logits))

    def _heads(self, x: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(x)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_head(x), mask_features)
        return self.class_head(x), masks


def attention_mask(mask_logits: Tensor, size: torch.Size) -> Tensor:
    """Where each query may look on a level: [B, 1, Q, h·w] bool.

    A query looks inside its own mask (probability ≥ 0.5); one with an empty mask looks everywhere.
    """
    resized = F.interpolate(mask_logits.detach(), size, mode="bilinear", align_corners=False)
    inside = ~(resized.flatten(2).sigmoid() < 0.5)  # [B, Q, h·w]
    return (inside | ~inside.any(-1, keepdim=True))[:, None]
