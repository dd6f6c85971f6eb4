# SPDX-License-Identifier: Apache-2.0
"""The layers a deployed network is made of: weights without gradients, each in a type of its own.

Matrix products may run in half precision; norms, residuals and sampling positions
stay in the type the network came in, here called the wide type.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Product(nn.Module):
    """A layer whose arithmetic is that of its weight's type, whatever its input has.

    `cast` changes it, unless the layer was made `exact`.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, *, exact: bool = False) -> None:
        super().__init__()
        self.exact = exact
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())

    @property
    def dtype(self) -> torch.dtype:
        """Of the outputs."""
        return self.weight.dtype

    def cast(self, dtype: torch.dtype) -> None:
        """Take this type from now on. The tensors it was made of stay as they are."""
        if not self.exact:
            self.weight = self.weight.to(dtype)
            self.bias = None if self.bias is None else self.bias.to(dtype)


class Linear(Product):
    """W·x + b over the last dimension; weight [outputs, inputs]."""

    multiply: Callable[[Tensor, Tensor, Tensor | None], Tensor] = staticmethod(F.linear)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return self.multiply(x.to(self.dtype), self.weight, self.bias)


class Conv(Product):
    """A convolution with a stride and zero padding; weight [outputs, inputs, k, k]."""

    def __init__(self, source: nn.Conv2d) -> None:
        super().__init__(source.weight, source.bias)
        self.stride, self.padding = source.stride, source.padding

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, h', w']."""
        x = x.to(self.dtype)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class TransposedConv(Product):
    """A transposed convolution whose kernel is its stride; weight [inputs, outputs, k, k]."""

    def __init__(self, source: nn.ConvTranspose2d) -> None:
        super().__init__(source.weight, source.bias)
        self.stride = source.stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, k·h, k·w]."""
        return F.conv_transpose2d(x.to(self.dtype), self.weight, self.bias, self.stride)


class Norm(nn.Module):
    """A LayerNorm or GroupNorm in the wide type, whatever its input has."""

    weight: Tensor
    bias: Tensor

    def __init__(self, source: nn.LayerNorm | nn.GroupNorm) -> None:
        super().__init__()
        self.groups = source.num_groups if isinstance(source, nn.GroupNorm) else None
        self.eps = source.eps
        self.register_buffer("weight", source.weight.detach())
        self.register_buffer("bias", source.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] for a LayerNorm, [B, C, h, w] for a GroupNorm; the same shape."""
        x = x.to(self.weight.dtype)
        if self.groups is None:
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)


def linear(source: nn.Linear | nn.Conv2d, gain: Tensor | None = None) -> Linear:
    """A linear layer or 1×1 convolution as it is, its outputs times `gain` [outputs] if given."""
    weight, bias = matrix(source), source.bias
    if gain is None:
        return Linear(weight, bias)
    return Linear(gain[:, None] * weight, None if bias is None else gain * bias)


def matrix(source: nn.Linear | nn.Conv2d) -> Tensor:
    """The weight of a linear layer or 1×1 convolution: [outputs, inputs]."""
    return source.weight.detach().flatten(1)


def product(*matrices: Tensor) -> Tensor:
    """Their matrix product, rounded once: folding must not cost precision."""
    result = matrices[0].double()
    for other in matrices[1:]:
        result = result @ other.double()
    return result.to(matrices[0].dtype)


def as_map(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """[B, rows·columns, C] -> [B, C, rows, columns], a view: channels last in memory."""
    # In this order: unflattened last, a batch of one gets a stride that hides the memory's order.
    return tokens.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)


def as_tokens(maps: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h·w, C]."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, h, w] -> [B, C, *size], bilinear."""
    if tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
