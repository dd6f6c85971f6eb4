# SPDX-License-Identifier: Apache-2.0
"""Depth-aware learnable tokens (DepthForge, arXiv 2504.12753, section 3).

After every frozen block a handful of tokens look at the visual and the depth features and write
a small correction into the visual ones. The same tokens, over all layers, become the queries of
the mask decoder.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from depthforge_ros.variant import PATCH

SCALE_AT_START = 1e-3


class DepthTokens(nn.Module):
    """m tokens for each of L layers, of rank r: T_i = A_i·B_i."""

    def __init__(self, layers: int, tokens: int, rank: int, width: int, query_width: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(layers, tokens, rank))
        self.b = nn.Parameter(torch.empty(layers, rank, width))
        self.scale = nn.Parameter(torch.tensor(SCALE_AT_START))
        self.token_to_feature = nn.Linear(width, width)
        self.delta = nn.Linear(width, width)
        self.to_query = nn.Linear(width, query_width)
        self.merge = nn.Linear(3 * query_width, query_width)
        bound = math.sqrt(6 / (3 * PATCH * PATCH + math.sqrt(width * rank)))
        nn.init.uniform_(self.a, -bound, bound)
        nn.init.uniform_(self.b, -bound, bound)

    def forward(self, x: Tensor, depth: Tensor | None, layer: int, prefix: int = 1) -> Tensor:
        """Refine visual features x [B, P + N, C] by the patches' depth features [B, N, C].

        f ← f + s·W_f(w[1:]·W_t(T[1:]) + f) with w = softmax((f·Tᵀ + d·Tᵀ) / √C), and d = 0 if
        depth is None, as in Rein (arXiv 2312.04265). prefix: P, the class token and registers
        before the patches, which are returned unchanged.
        """
        tokens = self.a[layer] @ self.b[layer]  # [m, C]
        features = x[:, prefix:]  # [B, N, C]
        similarity = features @ tokens.T  # [B, N, m]
        if depth is not None:
            similarity = similarity + depth @ tokens.T
        weights = (similarity / math.sqrt(x.shape[-1])).softmax(-1)
        # The first token is where attention goes when nothing needs correcting.
        correction = weights[..., 1:] @ self.token_to_feature(tokens[1:])  # [B, N, C]
        refined = features + self.scale * self.delta(correction + features)
        return torch.cat([x[:, :prefix], refined], dim=1)  # [B, P + N, C]

    def queries(self) -> Tensor:
        """The queries of the mask decoder, from the tokens of all layers: [m, query width]."""
        tokens = self.to_query(self.a @ self.b)  # [L, m, query width]
        pooled = torch.stack([tokens.amax(0), tokens.mean(0), tokens[-1]], dim=-1)
        return self.merge(pooled.flatten(1))  # [m, query width]
