# SPDX-License-Identifier: Apache-2.0
"""The depth refinement decoder (DepthForge, arXiv 2504.12753): corrects the finest map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNEL_REDUCTION = 16


class RefinementDecoder(nn.Module):
    """Four maps through one shared gate, fused into the finest."""

    def __init__(self, width: int, levels: int = 4) -> None:
        super().__init__()
        narrow = width // CHANNEL_REDUCTION
        self.channel_gate = nn.Sequential(
            nn.Conv2d(width, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, width, 1), nn.Sigmoid()
        )
        self.spatial_gate = nn.Sequential(nn.Conv2d(width, 1, 3, padding=1), nn.Sigmoid())
        self.fuse = nn.Conv2d(levels * width, width, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Maps [B, C, h_i, w_i], fine to coarse -> corrected finest map [B, C, h_0, w_0]."""
        finest = levels[0]
        gated = []
        for level in levels:
            level = _resized(level, finest.shape[2:])  # [B, C, h_0, w_0]
            level = level * self.channel_gate(level)
            gated.append(level * self.spatial_gate(level))
        return finest + self.fuse(torch.cat(gated, dim=1))


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
