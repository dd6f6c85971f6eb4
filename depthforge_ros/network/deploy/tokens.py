# SPDX-License-Identifier: Apache-2.0
"""Depth-aware tokens, folded: everything that depends on weights alone is computed once."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from depthforge_ros.network.deploy.layers import Linear, product
from depthforge_ros.network.depth_tokens import DepthTokens


class DeployedTokens(nn.Module):
    """f ← f + softmax((f + d)·T_iᵀ / √C)·V_i + s·(W_f·f + b), with T_i and V_i constants.

    V_i = s·W_f·W_t(T_i), its first row 0: the first token writes nothing. The residual stays
    outside the matrix s·W_f: 1 + s·w would lose s·w in half precision.
    """

    def __init__(self, source: DepthTokens) -> None:
        super().__init__()
        scale = source.scale.detach()
        delta, write = source.delta, source.token_to_feature
        width = delta.in_features
        self.look = nn.ModuleList()
        self.write = nn.ModuleList()
        for a, b in zip(source.a.detach(), source.b.detach(), strict=True):
            tokens = product(a, b)  # [m, C]
            features = product(tokens, write.weight.T) + write.bias
            values = scale * product(features, delta.weight.T)  # [m, C]
            values = torch.cat([torch.zeros_like(values[:1]), values[1:]])
            self.look.append(Linear(tokens / math.sqrt(width), None))
            self.write.append(Linear(values.T.contiguous(), scale * delta.bias))
        self.delta = Linear(scale * delta.weight, None)

    def forward(self, x: Tensor, depth: Tensor | None, layer: int, prefix: int = 1) -> Tensor:
        """Refine x [B, P + N, C] by depth [B, N, C], if any; the first `prefix` = P tokens stay."""
        features = x[:, prefix:]  # [B, N, C]
        seen = features if depth is None else features + depth
        weights = self.look[layer](seen).to(x.dtype).softmax(-1)  # [B, N, m]
        refined = features + self.delta(features) + self.write[layer](weights)
        return torch.cat([x[:, :prefix], refined], dim=1)  # [B, P + N, C]
