# SPDX-License-Identifier: Apache-2.0
"""Both encoders, folded: LayerScale into what precedes it, normalisation into the patches.

DINOv2's and EVA02's blocks become one kind. A convolutional stem keeps its normalisation apart,
because its zero padding means the mean of the images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthforge_ros.network.deploy.layers import Conv, Linear, Norm, as_tokens, linear
from depthforge_ros.network.eva import EvaBlock, EvaTransformer, rotary_tables, rotated
from depthforge_ros.network.vit import (
    Block,
    ConvStem,
    PatchEmbedding,
    SwiGlu,
    VisionTransformer,
)
from depthforge_ros.network.weights.resample import resample_positions


@dataclass(frozen=True)
class EncoderTables:
    """What an encoder adds for one size of images.

    prefix: [1, P, C] class token and registers with their positions. patches: [N, C] positions
    and the bias of the patch embedding. rotation: cos and sin [N, C / heads] each, or none.
    """

    prefix: Tensor
    patches: Tensor
    rotation: tuple[Tensor, ...]


class FeedForward(nn.Module):
    """MLP with a GELU, or gated by a SiLU, with a LayerNorm inside where EVA02 has one."""

    def __init__(self, enter: Linear, leave: Linear, *, gated: bool, norm: Norm | None) -> None:
        super().__init__()
        self.enter, self.leave, self.gated = enter, leave, gated
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        if self.gated:
            gate, x = self.enter(x).chunk(2, dim=-1)  # [B, N, hidden] each
            x = F.silu(gate) * x
        else:
            x = self.enter_gelu(x)
        return self.leave(x if self.norm is None else self.norm(x))

    def enter_gelu(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, hidden], of an MLP that is not gated."""
        return F.gelu(self.enter(x))


class DeployedBlock(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual in the wide type."""

    mix: Callable[[Tensor, Tensor, Tensor], Tensor] = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, source: Block | EvaBlock) -> None:
        super().__init__()
        self.heads = source.attn.heads
        self.norm1, self.norm2 = Norm(source.norm1), Norm(source.norm2)
        if isinstance(source, EvaBlock):
            attn, mlp = source.attn, source.mlp
            self.qkv = Linear(
                torch.cat([attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight]),
                torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias]),
            )
            self.proj = linear(attn.proj)
            enter = Linear(
                torch.cat([mlp.w1.weight, mlp.w2.weight]), torch.cat([mlp.w1.bias, mlp.w2.bias])
            )
            self.ffn = FeedForward(enter, linear(mlp.w3), gated=True, norm=Norm(mlp.ffn_ln))
            return
        gated = isinstance(source.mlp, SwiGlu)
        enter, leave = (
            (source.mlp.w12, source.mlp.w3) if gated else (source.mlp.fc1, source.mlp.fc2)
        )
        self.qkv = linear(source.attn.qkv)
        self.proj = linear(source.attn.proj, source.ls1.gamma.detach())
        leave = linear(leave, source.ls2.gamma.detach())
        self.ffn = FeedForward(linear(enter), leave, gated=gated, norm=None)

    def forward(self, x: Tensor, rotation: tuple[Tensor, ...]) -> Tensor:
        """x [B, P + N, C]; rotation: cos and sin [N, C / heads], or nothing."""
        x = x + self.attend(self.norm1(x), rotation)
        return x + self.ffn(self.norm2(x))

    def attend(self, x: Tensor, rotation: tuple[Tensor, ...]) -> Tensor:
        """[B, P + N, C] -> [B, P + N, C]."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))  # [B, P + N, 3, heads, C / heads]
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, P + N, C / heads] each
        if rotation:
            q, k = rotated(q, *rotation), rotated(k, *rotation)
        x = self.mix(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class Residual(nn.Module):
    """x + layers(x)."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] -> [B, c, h, w]."""
        return x + self.layers(x)


def stem_layers(source: nn.Module) -> nn.Module:
    """The layers of a stem, made of ours."""
    if isinstance(source, nn.Conv2d):
        return Conv(source)
    if isinstance(source, nn.GroupNorm):
        return Norm(source)
    if isinstance(source, nn.Sequential):
        return nn.Sequential(*map(stem_layers, source))
    return Residual(stem_layers(source.layers)) if hasattr(source, "layers") else source


class Encoder(nn.Module):
    """A folded encoder; its blocks are called one by one, as tokens work between them."""

    def __init__(
        self, source: VisionTransformer | EvaTransformer, mean: Tensor, std: Tensor
    ) -> None:
        super().__init__()
        self.grid = source.grid
        self.blocks = nn.ModuleList(DeployedBlock(block) for block in source.blocks)
        self.register_buffer("cls_token", source.cls_token.detach())
        self.register_buffer("pos_embed", source.pos_embed.detach())
        registers = source.register_tokens
        self.register_buffer("registers", None if registers is None else registers.detach())
        self.rotary_width = source.head_width if isinstance(source, EvaTransformer) else None
        embed = source.patch_embed
        self.stages: nn.ModuleList | None = None
        if isinstance(embed, ConvStem):
            self.register_buffer("mean", mean.detach())
            self.register_buffer("std", std.detach())
            self.stages = nn.ModuleList(map(stem_layers, embed.stages))
            self.patches = Conv(embed.proj)
            bias = embed.proj.bias
        else:
            self.patches, bias = normalising(embed, mean, std)
        self.register_buffer("patch_bias", bias.detach())
        self.patches.bias = None  # it is in the table of positions

    def tables(self, rows: int, columns: int) -> EncoderTables:
        """What the encoder adds for a grid of rows × columns patches."""
        antialias = self.registers is not None
        table = resample_positions(
            self.pos_embed, (rows, columns), self.grid, antialias=antialias
        )  # [1, 1 + N, C]
        prefix = self.cls_token + table[:, :1]
        if self.registers is not None:
            prefix = torch.cat([prefix, self.registers], dim=1)
        rotation = ()
        if self.rotary_width is not None:
            rotation = rotary_tables(rows, columns, self.rotary_width, table.device)
        return EncoderTables(prefix, table[0, 1:] + self.patch_bias, rotation)

    def embed(self, images: Tensor, tables: EncoderTables) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Images [B, 3, H, W] RGB 0..255 -> [B, P + N, C], and what a stem saw at 1/4 and 1/8."""
        wide = tables.patches.dtype
        x, finer = images.to(wide), ()
        if self.stages is not None:
            half = self.stages[0]((x - self.mean) / self.std)  # [B, c0, H / 2, W / 2]
            quarter = self.stages[1](half)  # [B, c1, H / 4, W / 4]
            x = self.stages[2](quarter)  # [B, c2, H / 8, W / 8]
            finer = (quarter, x)
        patches = as_tokens(self.patches(x)).to(wide) + tables.patches  # [B, N, C]
        prefix = tables.prefix.expand(patches.shape[0], -1, -1)
        return torch.cat([prefix, patches], dim=1), finer


def normalising(source: PatchEmbedding, mean: Tensor, std: Tensor) -> tuple[Conv, Tensor]:
    """The patch embedding of (x - mean) / std as one of x, and its bias [C].

    Exact in the wide type: in a narrow one the large bias would be a difference of roundings.
    """
    conv = Conv(source)
    weight = source.weight.double() / std.double()
    shift = (weight * mean.double()).sum((1, 2, 3))  # [C]
    conv.weight = weight.to(source.weight.dtype).detach()
    conv.exact = True
    return conv, (source.bias.double() - shift).to(source.bias.dtype)
