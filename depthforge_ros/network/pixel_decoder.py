# SPDX-License-Identifier: Apache-2.0
"""Mask2Former's pixel decoder: multi-scale deformable attention (arXiv 2010.04159), one FPN step.

"Levels" of this file run coarse to fine, as the decoder reads them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthforge_ros.variant import DecoderSize

ATTENDED_LEVELS = 3


class ConvNorm(nn.Module):
    """Convolution and GroupNorm; a ReLU if requested."""

    def __init__(
        self, inputs: int, size: DecoderSize, kernel: int, *, bias: bool, relu: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, size.width, kernel, padding=kernel // 2, bias=bias)
        self.norm = nn.GroupNorm(size.groups, size.width)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, C, h, w]."""
        x = self.norm(self.conv(x))
        return F.relu(x) if self.relu else x


class DeformableAttention(nn.Module):
    """Every position samples a few learnt places on every level."""

    def __init__(self, size: DecoderSize) -> None:
        super().__init__()
        self.heads, self.points = size.heads, size.points
        samples = size.heads * ATTENDED_LEVELS * size.points
        self.sampling_offsets = nn.Linear(size.width, 2 * samples)
        self.attention_weights = nn.Linear(size.width, samples)
        self.value_proj = nn.Linear(size.width, size.width)
        self.output_proj = nn.Linear(size.width, size.width)
        self._init_offsets()

    def _init_offsets(self) -> None:
        """Head h looks into direction h, point p at distance p + 1 (the paper's start)."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)  # [heads, 2]
        directions = directions / directions.abs().amax(-1, keepdim=True)
        offsets = directions.view(-1, 1, 1, 2).repeat(1, ATTENDED_LEVELS, self.points, 1)
        offsets = offsets * torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, value: Tensor, reference: Tensor, shapes: list[tuple[int, int]]
    ) -> Tensor:
        """query, value [B, N, C]; reference [N, 2] in 0..1 (x, y); shapes (h, w) a level.

        N counts the positions of all levels. Returns [B, N, C].
        """
        B, N, C = query.shape
        value = self.value_proj(value).view(B, N, self.heads, C // self.heads)
        offsets = self.sampling_offsets(query).view(
            B, N, self.heads, ATTENDED_LEVELS, self.points, 2
        )
        weights = self.attention_weights(query).view(B, N, self.heads, -1).softmax(-1)
        extents = query.new_tensor([(w, h) for h, w in shapes])  # [levels, 2]
        places = reference.view(1, N, 1, 1, 1, 2) + offsets / extents.view(1, 1, 1, -1, 1, 2)
        places = 2 * places - 1  # grid_sample's -1..1
        sampled = []
        for level, part in enumerate(value.split([h * w for h, w in shapes], dim=1)):
            h, w = shapes[level]
            part = part.permute(0, 2, 3, 1).reshape(B * self.heads, C // self.heads, h, w)
            place = places[:, :, :, level].transpose(1, 2).flatten(0, 1)  # [B·heads, N, points, 2]
            sampled.append(
                F.grid_sample(part, place.to(part.dtype), mode="bilinear", align_corners=False)
            )  # [B·heads, C / heads, N, points]
        samples = torch.cat(sampled, dim=-1)  # [B·heads, C / heads, N, levels·points]
        weights = weights.transpose(1, 2).reshape(B * self.heads, 1, N, -1)
        mixed = (samples * weights).sum(-1)  # [B·heads, C / heads, N]
        return self.output_proj(mixed.view(B, C, N).transpose(1, 2))


class EncoderLayer(nn.Module):
    """Deformable attention and feed-forward, each followed by a LayerNorm."""

    def __init__(self, size: DecoderSize) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(size)
        self.norm1 = nn.LayerNorm(size.width)
        self.ffn = feed_forward(size.width, size.encoder_ffn)
        self.norm2 = nn.LayerNorm(size.width)

    def forward(
        self, x: Tensor, position: Tensor, reference: Tensor, shapes: list[tuple[int, int]]
    ) -> Tensor:
        """x [B, N, C], position [N, C], reference [N, 2] -> [B, N, C]."""
        x = self.norm1(x + self.self_attn(x + position, x, reference, shapes))
        return self.norm2(x + self.ffn(x))


class PixelDecoder(nn.Module):
    """Four backbone maps -> mask features at the finest and three memories for the mask decoder."""

    def __init__(self, inputs: int, size: DecoderSize) -> None:
        super().__init__()
        self.input_convs = nn.ModuleList(
            ConvNorm(inputs, size, 1, bias=True) for _ in range(ATTENDED_LEVELS)
        )
        self.level_encoding = nn.Parameter(torch.empty(ATTENDED_LEVELS, size.width))
        self.layers = nn.ModuleList(EncoderLayer(size) for _ in range(size.encoder_layers))
        self.lateral_conv = ConvNorm(inputs, size, 1, bias=False)
        self.output_conv = ConvNorm(size.width, size, 3, bias=False, relu=True)
        self.mask_feature = nn.Conv2d(size.width, size.width, 1)
        nn.init.normal_(self.level_encoding)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Maps [B, inputs, h_i, w_i], fine to coarse.

        Returns mask features [B, C, h_0, w_0] and memories [B, C, h, w], coarse to fine.
        """
        maps = [conv(x) for conv, x in zip(self.input_convs, reversed(levels[1:]), strict=True)]
        shapes = [(x.shape[2], x.shape[3]) for x in maps]
        positions = [
            (sine_positions(h, w, x.shape[1], x) + encoding.view(-1, 1, 1)).flatten(1).T
            for x, (h, w), encoding in zip(maps, shapes, self.level_encoding, strict=True)
        ]
        position = torch.cat(positions)  # [N, C]
        reference = torch.cat([pixel_centres(h, w, maps[0]) for h, w in shapes])  # [N, 2]
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)  # [B, N, C]
        for layer in self.layers:
            x = layer(x, position, reference, shapes)
        memories = [
            part.transpose(1, 2).unflatten(2, shape)
            for part, shape in zip(x.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
        ]  # [B, C, h, w] each
        lateral = self.lateral_conv(levels[0])  # [B, C, h_0, w_0]
        above = F.interpolate(memories[-1], lateral.shape[2:], mode="bilinear", align_corners=False)
        return self.mask_feature(self.output_conv(lateral + above)), memories


def feed_forward(width: int, hidden: int) -> nn.Sequential:
    """Linear, ReLU, linear: [..., width] -> [..., width]."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


def pixel_centres(h: int, w: int, like: Tensor) -> Tensor:
    """(x, y) in 0..1 of every pixel's centre, row by row: [h·w, 2]."""
    y = (torch.arange(h, device=like.device, dtype=torch.float32) + 0.5) / h
    x = (torch.arange(w, device=like.device, dtype=torch.float32) + 0.5) / w
    return torch.stack([x.expand(h, w), y.view(-1, 1).expand(h, w)], -1).view(-1, 2)


def sine_positions(h: int, w: int, width: int, like: Tensor) -> Tensor:
    """DETR's normalised sine encoding (arXiv 2005.12872): [width, h, w], y first.

    Positions count from 1 and are scaled to 2π at the far edge; temperature 10000.
    """
    half = width // 2
    channel = torch.arange(half, device=like.device, dtype=torch.float32)
    wavelength = 10000 ** (2 * (channel // 2).floor() / half)

    def encoded(side: int) -> Tensor:
        at = torch.arange(1, side + 1, device=like.device, dtype=torch.float32)
        phase = (at / (side + 1e-6) * 2 * math.pi).view(-1, 1) / wavelength  # [side, half]
        return torch.stack([phase[:, 0::2].sin(), phase[:, 1::2].cos()], dim=2).flatten(1)

    y, x = encoded(h).T, encoded(w).T  # [half, h], [half, w]
    return torch.cat([y[:, :, None].expand(-1, -1, w), x[:, None, :].expand(-1, h, -1)])
