# SPDX-License-Identifier: Apache-2.0
"""Depth Anything V2's DPT head (arXiv 2406.09414, 2103.13413) on the depth encoder's features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthforge_ros.frame import DepthKind
from depthforge_ros.variant import PATCH, DepthHeadSize

LAST_WIDTH = 32


class ResidualUnit(nn.Module):
    """Two pre-activated 3×3 convolutions and a residual."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, h, w] -> [B, F, h, w]."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Adds a skip connection to the path from below, refines and enlarges it."""

    def __init__(self, features: int, *, skip: bool) -> None:
        super().__init__()
        self.skip_unit = ResidualUnit(features) if skip else None
        self.unit = ResidualUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """x, skip [B, F, h, w] -> [B, F, *size]."""
        if self.skip_unit is not None and skip is not None:
            x = x + self.skip_unit(skip)
        x = self.unit(x)
        x = F.interpolate(x, size, mode="bilinear", align_corners=True)
        return self.out_conv(x)


class DepthHead(nn.Module):
    """Four feature maps of the depth encoder -> depth at the image's size."""

    def __init__(self, width: int, size: DepthHeadSize) -> None:
        super().__init__()
        c0, c1, _, c3 = size.channels
        features = size.features
        self.kind, self.max_depth_m = size.kind, size.max_depth_m
        self.projects = nn.ModuleList(nn.Conv2d(width, c, 1) for c in size.channels)
        self.resizes = nn.ModuleList(
            [
                nn.ConvTranspose2d(c0, c0, 4, 4),
                nn.ConvTranspose2d(c1, c1, 2, 2),
                nn.Identity(),
                nn.Conv2d(c3, c3, 3, 2, 1),
            ]
        )
        self.skips = nn.ModuleList(
            nn.Conv2d(c, features, 3, padding=1, bias=False) for c in size.channels
        )
        self.fusions = nn.ModuleList(Fusion(features, skip=level < 3) for level in range(4))
        self.out1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.out2 = nn.Conv2d(features // 2, LAST_WIDTH, 3, padding=1)
        self.out3 = nn.Conv2d(LAST_WIDTH, 1, 1)

    def forward(self, tokens: list[Tensor], rows: int, columns: int) -> Tensor:
        """Normalised tokens [B, rows·columns, C], shallow to deep, without the class token.

        Returns depth [B, 16·rows, 16·columns]: inverse depth ≥ 0 (relative) or metres (metric).
        """
        maps = []
        for x, project, resize, skip in zip(
            tokens, self.projects, self.resizes, self.skips, strict=True
        ):
            x = x.transpose(1, 2).unflatten(2, (rows, columns))  # [B, C, rows, columns]
            maps.append(skip(resize(project(x))))  # ×4, ×2, ×1, ×0.5
        x = maps[3]
        for level in (3, 2, 1, 0):
            h, w = maps[level].shape[2:]
            finer = (
                (maps[level - 1].shape[2], maps[level - 1].shape[3]) if level else (2 * h, 2 * w)
            )
            x = self.fusions[level](x, None if level == 3 else maps[level], finer)
        x = self.out1(x)  # [B, F / 2, 8·rows, 8·columns]
        x = F.interpolate(x, (PATCH * rows, PATCH * columns), mode="bilinear", align_corners=True)
        x = self.out3(F.relu(self.out2(x)))[:, 0]  # [B, 16·rows, 16·columns]
        if self.kind is DepthKind.METRIC:
            return torch.sigmoid(x) * self.max_depth_m
        return F.relu(x)
