# SPDX-License-Identifier: Apache-2.0
"""Large maps strip by strip: what a processor's cache holds need not go through its memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Strip:
    """Rows first..first + rows of a map of height × width."""

    height: int
    width: int
    first: int
    rows: int


def strips_of(height: int, width: int, channels: int, elements: int | None) -> list[Strip]:
    """Strips of a map [channels, height, width] of about so many elements each; None: one."""
    rows = height if elements is None else max(1, round(elements / (width * channels)))
    return [
        Strip(height, width, first, min(rows, height - first)) for first in range(0, height, rows)
    ]


def resized_strip(x: Tensor, strip: Strip) -> Tensor:
    """A strip of a map [B, C, h, w] resized to the strip's map, bilinear: [B, C, rows, width]."""
    h = x.shape[2]
    if strip.rows == strip.height:
        if tuple(x.shape[2:]) == (strip.height, strip.width):
            return x
        return F.interpolate(x, (strip.height, strip.width), mode="bilinear", align_corners=False)
    if h == strip.height:
        part = x[:, :, strip.first : strip.first + strip.rows]
    else:
        wide = x.dtype if x.dtype == torch.float64 else torch.float32
        row = torch.arange(strip.first, strip.first + strip.rows, device=x.device, dtype=wide)
        place = ((row + 0.5) * (h / strip.height) - 0.5).clamp_min(0)
        above = place.long()
        below = (above + 1).clamp_max(h - 1)
        share = (place - above).to(x.dtype).view(-1, 1, 1)
        lines = x.permute(0, 2, 3, 1)  # [B, h, w, C]
        part = lines[:, above].lerp(lines[:, below], share).permute(0, 3, 1, 2)
    if x.shape[3] == strip.width:
        return part
    return F.interpolate(part, (strip.rows, strip.width), mode="bilinear", align_corners=False)
