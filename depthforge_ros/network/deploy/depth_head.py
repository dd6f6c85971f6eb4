# SPDX-License-Identifier: Apache-2.0
"""Depth Anything V2's head with its 1×1 convolutions before the enlargements."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthforge_ros.frame import DepthKind
from depthforge_ros.network.deploy.layers import Conv, TransposedConv, as_map, as_tokens, linear
from depthforge_ros.network.depth_head import DepthHead, Fusion, ResidualUnit
from depthforge_ros.variant import PATCH


class DeployedUnit(nn.Module):
    """Two pre-activated 3×3 convolutions and a residual."""

    def __init__(self, source: ResidualUnit) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(source.conv1), Conv(source.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, h, w] -> [B, F, h, w]."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class DeployedFusion(nn.Module):
    """Adds a skip connection, refines, projects and enlarges, in this order."""

    def __init__(self, source: Fusion) -> None:
        super().__init__()
        self.skip_unit = None if source.skip_unit is None else DeployedUnit(source.skip_unit)
        self.unit = DeployedUnit(source.unit)
        self.out = linear(source.out_conv)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """x, skip [B, F, h, w] -> [B, F, *size]."""
        if self.skip_unit is not None and skip is not None:
            x = x + self.skip_unit(skip)
        x = self.unit(x)
        x = as_map(self.out(as_tokens(x)), x.shape[2], x.shape[3])
        return F.interpolate(x, size, mode="bilinear", align_corners=True)


class DeployedDepthHead(nn.Module):
    """Four feature maps of the depth encoder -> depth at the image's size."""

    def __init__(self, source: DepthHead) -> None:
        super().__init__()
        self.kind, self.max_depth_m = source.kind, source.max_depth_m
        self.projects = nn.ModuleList(map(linear, source.projects))
        enlarge4, enlarge2, same, halve = source.resizes
        self.resizes = nn.ModuleList(
            [TransposedConv(enlarge4), TransposedConv(enlarge2), same, Conv(halve)]
        )
        self.skips = nn.ModuleList(map(Conv, source.skips))
        self.fusions = nn.ModuleList(map(DeployedFusion, source.fusions))
        self.out1, self.out2, self.out3 = Conv(source.out1), Conv(source.out2), Conv(source.out3)

    def forward(self, tokens: list[Tensor], rows: int, columns: int) -> Tensor:
        """Normalised tokens [B, rows·columns, C], shallow to deep, without the class token.

        Returns depth [B, 16·rows, 16·columns]: inverse depth ≥ 0 (relative) or metres (metric).
        """
        maps = [
            skip(resize(as_map(project(x), rows, columns)))
            for x, project, resize, skip in zip(
                tokens, self.projects, self.resizes, self.skips, strict=True
            )
        ]  # ×4, ×2, ×1, ×0.5
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        sizes = [(2 * sizes[0][0], 2 * sizes[0][1]), *sizes]
        x = maps[3]
        for level in (3, 2, 1, 0):
            x = self.fusions[level](x, None if level == 3 else maps[level], sizes[level])
        x = self.out1(x)  # [B, F / 2, 8·rows, 8·columns]
        x = F.interpolate(x, (PATCH * rows, PATCH * columns), mode="bilinear", align_corners=True)
        x = self.out3(F.relu(self.out2(x)))[:, 0]  # [B, 16·rows, 16·columns]
        if self.kind is DepthKind.METRIC:
            assert self.max_depth_m is not None  # a metric head has a range
            return torch.sigmoid(x) * self.max_depth_m
        return F.relu(x)
