# SPDX-License-Identifier: Apache-2.0
"""EVA02's encoder (arXiv 2303.11331), patch 16.

Against DINOv2's: positions also rotate queries and keys, the feed-forward is gated with a norm
inside, keys have no bias, and residuals no LayerScale. There is no final norm, because nothing
reads past the blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthforge_ros.network.vit import NORM_EPS, PatchEncoder
from depthforge_ros.variant import VitSize

FFN_RATIO = 8 / 3
PRETRAINED_GRID = 16
"""Side of the grid, in patches, whose rotary positions the encoder was trained with."""

ROTARY_BASE = 10000.0


class RotaryAttention(nn.Module):
    """Multi-head self-attention whose queries and keys are rotated by their patch's position."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, 1 + N, C]; cos, sin [N, C / heads] -> [B, 1 + N, C]."""
        q, k, v = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (
                F.linear(x, self.q_proj.weight, self.q_bias),
                self.k_proj(x),
                F.linear(x, self.v_proj.weight, self.v_bias),
            )
        )  # [B, heads, 1 + N, C / heads] each
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))  # [B, 1 + N, C]


class GatedFfn(nn.Module):
    """w3(norm(silu(w1·x)·w2·x)): SwiGLU (arXiv 2002.05202) with a LayerNorm inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = int(width * FFN_RATIO)
        self.w1 = nn.Linear(width, hidden)
        self.w2 = nn.Linear(width, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, NORM_EPS)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        return self.w3(self.ffn_ln(F.silu(self.w1(x)) * self.w2(x)))


class EvaBlock(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, NORM_EPS)
        self.attn = RotaryAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, NORM_EPS)
        self.mlp = GatedFfn(width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, 1 + N, C]; cos, sin [N, C / heads] -> [B, 1 + N, C]."""
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class EvaTransformer(PatchEncoder):
    """EVA02's blocks behind the common patches. grid: side of the position table, patches."""

    def __init__(self, size: VitSize, grid: int) -> None:
        super().__init__(size, grid)
        self.head_width = size.width // size.heads
        self.blocks = nn.ModuleList(EvaBlock(size.width, size.heads) for _ in range(size.blocks))
        empty = torch.empty(grid * grid, self.head_width)
        self.register_buffer("cos", empty, persistent=False)
        self.register_buffer("sin", empty.clone(), persistent=False)
        self.set_constants()

    def set_constants(self) -> None:
        """Fill the rotary tables of the encoder's own grid, which no checkpoint needs to hold."""
        self.cos, self.sin = rotary_tables(*self.grid, self.head_width, self.pos_embed.device)

    def rotation(self, rows: int, columns: int) -> tuple[Tensor, ...]:
        """cos and sin for a grid of rows × columns patches: [rows·columns, C / heads] each."""
        if (rows, columns) == self.grid:
            return self.cos, self.sin
        return rotary_tables(rows, columns, self.head_width, self.pos_embed.device)


def rotary_tables(
    rows: int, columns: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """cos and sin of every patch's angles: [rows·columns, width] each.

    The first half of the channels turns with the row, the second with the column; two neighbours
    share an angle (arXiv 2104.09864). Either side of the grid is stretched to the 16 positions of
    the pretraining, as the absolute table is.
    """
    pairs = width // 4  # a side
    exponent = torch.arange(pairs, device=device, dtype=torch.float32) / pairs
    frequency = ROTARY_BASE**-exponent  # [pairs]

    def angles(count: int) -> Tensor:
        at = torch.arange(count, device=device, dtype=torch.float32) / count * PRETRAINED_GRID
        return (at[:, None] * frequency).repeat_interleave(2, dim=1)  # [count, width / 2]

    by_row = angles(rows)[:, None].expand(-1, columns, -1)  # [rows, columns, width / 2]
    by_column = angles(columns)[None].expand(rows, -1, -1)  # [rows, columns, width / 2]
    angle = torch.cat([by_row, by_column], dim=-1).flatten(0, 1)  # [rows·columns, width]
    return angle.cos(), angle.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn every pair of channels of the patches by its angle; the class token stays.

    x: [B, heads, 1 + N, D]; cos, sin: [N, D].
    """
    patches = x[:, :, 1:]  # [B, heads, N, D]
    even, odd = patches.unflatten(-1, (-1, 2)).unbind(-1)  # [B, heads, N, D / 2] each
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)  # [B, heads, N, D]
    patches = (patches * cos + turned * sin).to(x.dtype)
    return torch.cat([x[:, :, :1], patches], dim=2)
