# SPDX-License-Identifier: Apache-2.0
"""The plain vision transformer of DINOv2 (arXiv 2304.07193), patch 16.

It serves twice: as the visual encoder and as the encoder of Depth Anything V2. Blocks are called
one by one from depthforge.py, because tokens refine the features between them. eva.py holds the
other kind of visual encoder, which begins with the same patches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthforge_ros.network.weights.resample import resample_positions
from depthforge_ros.variant import PATCH, STEM_GROUPS, VitSize

MLP_RATIO = 4
NORM_EPS = 1e-6


class LayerScale(nn.Module):
    """A learnt gain for every channel of a residual branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return x * self.gamma


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        B, N, C = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, N, C / heads] each
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGlu(nn.Module):
    """DINOv2-g's gated feed-forward (arXiv 2002.05202): w3(silu(w1·x)·w2·x), w1 and w2 as one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = (int(MLP_RATIO * width * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        gate, x = self.w12(x).chunk(2, dim=-1)  # [B, N, hidden] each
        return self.w3(F.silu(gate) * x)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with a LayerScale and a residual."""

    def __init__(self, width: int, heads: int, *, swiglu: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, NORM_EPS)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, NORM_EPS)
        self.mlp = SwiGlu(width) if swiglu else Mlp(width)
        self.ls2 = LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class StemBlock(nn.Module):
    """Two pre-activated 3×3 convolutions and a residual (arXiv 1603.05027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(STEM_GROUPS, channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(STEM_GROUPS, channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] -> [B, c, h, w]."""
        return x + self.layers(x)


class ConvStem(nn.Module):
    """Four strided convolutions in place of the linear patch embedding (arXiv 2106.14881).

    A transformer trained on thousands of frames, not millions, learns far sooner with it, and its
    finer maps keep the thin things that a 16-pixel patch swallows. GroupNorm, not BatchNorm: a
    night image is normalised by its own statistics, not by those of the day.

    finer: whether the maps at 1/4 and 1/8 are offered too.
    """

    def __init__(self, size: VitSize, *, finer: bool) -> None:
        super().__init__()
        channels, width = size.stem, size.width
        inputs = (3, *channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False),
                nn.GroupNorm(STEM_GROUPS, wide),
                nn.GELU(),
                *(StemBlock(wide) for _ in range(blocks)),
            )
            for narrow, wide, blocks in zip(inputs[:-1], channels, size.stem_blocks, strict=True)
        )
        self.proj = nn.Conv2d(channels[-1], width, 3, stride=2, padding=1)
        self.finer = nn.ModuleList(
            nn.Conv2d(channels[index], width, 1) for index in ((1, 2) if finer else ())
        )

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Images [B, 3, H, W] -> patches [B, C, H/16, W/16]; maps [B, C, …] at 1/4 and 1/8."""
        half = self.stages[0](images)  # [B, c0, H / 2, W / 2]
        quarter = self.stages[1](half)  # [B, c1, H / 4, W / 4]
        eighth = self.stages[2](quarter)  # [B, c2, H / 8, W / 8]
        finer = zip(self.finer, (quarter, eighth), strict=False)
        return self.proj(eighth), tuple(conv(seen) for conv, seen in finer)


class PatchEmbedding(nn.Conv2d):
    """The published linear embedding of 16-pixel patches; it has no finer maps to offer."""

    def __init__(self, width: int) -> None:
        super().__init__(3, width, PATCH, PATCH)

    def forward(  # type: ignore[override]  # it has finer maps where a convolution has none
        self, images: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Images [B, 3, H, W] -> patches [B, C, H/16, W/16] and no finer maps."""
        return super().forward(images), ()


class PatchEncoder(nn.Module):
    """What every encoder begins with: patches, class token, registers, position table.

    grid: side of the position table, patches. finer: whether a convolutional stem, where there is
    one, also hands out its finer maps.
    """

    def __init__(self, size: VitSize, grid: int, *, finer: bool = False) -> None:
        super().__init__()
        self.grid = (grid, grid)
        self.patch_embed = ConvStem(size, finer=finer) if size.stem else PatchEmbedding(size.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, size.registers, size.width)) if size.registers else None
        )
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, size.width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Normalised images [B, 3, H, W] -> class token, R registers, patches [B, 1 + R + N, C].

        And, where a convolutional stem offers them, maps [B, C, …] at 1/4 and 1/8 of the image.
        """
        x, finer = self.patch_embed(images)  # [B, C, H / 16, W / 16]
        positions = self.positions(x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)  # [B, N, C]
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # [B, 1 + N, C]
        x = x + positions
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(x.shape[0], -1, -1)  # [B, R, C]
            x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)  # [B, 1 + R + N, C]
        return x, finer

    def positions(self, rows: int, columns: int) -> Tensor:
        """The position table for a grid of rows × columns patches: [1, 1 + rows·columns, C]."""
        antialias = self.register_tokens is not None  # as the published ones were trained
        return resample_positions(self.pos_embed, (rows, columns), self.grid, antialias=antialias)

    def rotation(self, rows: int, columns: int) -> tuple[Tensor, ...]:
        """What the blocks want beside the features: nothing, unless positions are rotary."""
        return ()

    def set_grid(self, rows: int, columns: int) -> None:
        """Make the position table of this grid the encoder's own, so that none is resampled."""
        table = self.positions(rows, columns).detach()
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        self.grid = (rows, columns)
        self.set_constants()

    def set_constants(self) -> None:
        """Fill what no checkpoint holds: here nothing."""


class VisionTransformer(PatchEncoder):
    """DINOv2's encoder; the final norm is the caller's."""

    def __init__(self, size: VitSize, grid: int, *, finer: bool = False) -> None:
        super().__init__(size, grid, finer=finer)
        self.blocks = nn.ModuleList(
            Block(size.width, size.heads, swiglu=size.swiglu) for _ in range(size.blocks)
        )
        self.norm = nn.LayerNorm(size.width, NORM_EPS)
