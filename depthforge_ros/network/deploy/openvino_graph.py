# SPDX-License-Identifier: Apache-2.0
"""A folded network rewritten for OpenVINO's CPU plugin. The numbers stay the same.

Each replacement removes operators that the profile of the plain graph shows as slow: gathers and
reductions over a few values, concatenations and splits along the innermost dimension, and the
enlargement of every query's mask in a layout that the next operator does not take.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthforge_ros.network.deploy.layers import Linear
from depthforge_ros.network.deploy.network import Folded
from depthforge_ros.network.deploy.pixel_decoder import DeployedAttention, PixelTables
from depthforge_ros.network.depthforge import semantic_scores
from depthforge_ros.network.pixel_decoder import ATTENDED_LEVELS

SCALE = 4
"""Mask logits have a quarter of the image's size."""
BEFORE = (0.375, 0.125, 0.0, 0.0)
AFTER = (0.0, 0.0, 0.125, 0.375)
"""Bilinear weights, with half-pixel centres, of the previous and the next of two pixels for the
four pixels between them; the own pixel has the rest."""


def rewrite_for_openvino(folded: Folded) -> Folded:
    """Replace modules and functions of a folded network in place and return it. For export only."""
    folded.scores = scores_by_rows
    for layer in folded.pixel_decoder.layers:
        layer.attention = PlanarAttention(layer.attention)
    return folded


class PlanarAttention(nn.Module):
    """Deformable attention with positions innermost: [B·heads, D, points, N] samples.

    OpenVINO's GridSample takes value maps [B·heads, D, h, w], and products and sums over points
    then run along contiguous positions.
    """

    def __init__(self, source: DeployedAttention) -> None:
        super().__init__()
        self.heads, self.points = source.heads, source.points
        offsets = source.widths[0]
        order = torch.arange(offsets).view(self.heads, ATTENDED_LEVELS, self.points, 2)
        order = order.transpose(0, 1).flatten()  # by level, then head, point, (x, y)
        weight, bias = source.look.weight, source.look.bias
        assert bias is not None
        self.offsets = Linear(weight[:offsets][order], bias[:offsets][order], exact=True)
        self.weights = Linear(weight[offsets:], bias[offsets:], exact=True)
        self.value, self.output = source.value, source.output

    def forward(self, x: Tensor, tables: PixelTables) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        B, N, _ = x.shape
        query = x + tables.positions
        scale = (2 / tables.extents)[:, None].expand(-1, self.heads * self.points, -1).flatten()
        corner = (2 * tables.centres - 1).repeat(1, len(scale) // 2)  # [N, levels·heads·points·2]
        places = self.offsets(query) * scale + corner  # in grid_sample's -1..1
        places = places.view(B, N, ATTENDED_LEVELS, self.heads, self.points, 2)
        grids = places.permute(2, 0, 3, 4, 1, 5).flatten(1, 2)  # [levels, B·heads, points, N, 2]
        weights = self.weights(query).transpose(1, 2).reshape(B * self.heads, -1, N).softmax(1)
        planes = self.value(x).to(x.dtype).transpose(1, 2).reshape(B * self.heads, -1, N)
        result: Tensor | None = None
        parts = planes.split([h * w for h, w in tables.shapes], dim=2)
        for level, (part, (h, w)) in enumerate(zip(parts, tables.shapes, strict=True)):
            maps = part.unflatten(2, (h, w))  # [B·heads, D, h, w]
            samples = F.grid_sample(maps, grids[level], mode="bilinear", align_corners=False)
            own = weights[:, level * self.points : (level + 1) * self.points]
            mixed = (samples * own[:, None]).sum(2)  # [B·heads, D, N]
            result = mixed if result is None else result + mixed
        assert result is not None
        return self.output(result.reshape(B, -1, N).transpose(1, 2))


def scores_by_rows(class_logits: Tensor, mask_logits: Tensor, size: torch.Size) -> Tensor:
    """`semantic_scores` with the enlargement as a product along columns and a sum along rows.

    Both keep [B, Q, rows, columns]; the sum and the sigmoid are one pass over the large maps.
    """
    B, queries, h, w = mask_logits.shape
    if tuple(size) != (SCALE * h, SCALE * w):
        return semantic_scores(class_logits, mask_logits, size)
    eye = torch.eye(w, dtype=mask_logits.dtype)[None]  # [1, w, w]
    widen = F.interpolate(eye, SCALE * w, mode="linear", align_corners=False)[0]  # [w, 4·w]
    wide = (mask_logits @ widen)[:, :, :, None]  # [B, Q, h, 1, 4·w]
    above = torch.cat([wide[:, :, :1], wide[:, :, :-1]], dim=2)
    below = torch.cat([wide[:, :, 1:], wide[:, :, -1:]], dim=2)
    before, after = (
        torch.tensor(weights, dtype=mask_logits.dtype).view(SCALE, 1) for weights in (BEFORE, AFTER)
    )
    masks = (wide + before * (above - wide) + after * (below - wide)).sigmoid()
    classes = class_logits.softmax(-1)[..., :-1].transpose(1, 2)  # [B, K, Q]
    return (classes @ masks.reshape(B, queries, -1)).unflatten(2, tuple(size))
