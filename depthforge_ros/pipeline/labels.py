# SPDX-License-Identifier: Apache-2.0
"""From coarse scores to a mask at the image's size, exactly and without enlarging every map."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from depthforge_ros.frame import UNLABELLED


def label_pixels(
    scores: Tensor, size: tuple[int, int], threshold: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return labels and confidence of scores [K, h, w] resized bilinearly to `size`.

    labels: argmax [H, W] uint8, 255 where the certainty is below the threshold. confidence:
    [H, W] uint8, 255 times the certainty, which is the best score over the sum of all scores, or
    over 1 if the sum is less, because no query covers the pixel.

    Not all K maps are resized. Where the four neighbours of a pixel have the same class, no convex
    combination of their scores has another, so only pixels between neighbours of different classes
    are computed class by class, and the labels are the same. Their confidence is exact; elsewhere
    it is that of the nearest coarse pixel.
    """
    scores = scores.float()
    best, winner = _best(scores)  # [h, w]
    total = scores.sum(0)  # [h, w]
    labels, confidence = _thresholded(winner, best, total, threshold)
    if size == tuple(scores.shape[1:]):
        return labels, confidence
    rows = _neighbours(scores.shape[1], size[0], scores.device)
    columns = _neighbours(scores.shape[2], size[1], scores.device)
    labels, confidence = (_resize_nearest(image, rows, columns) for image in (labels, confidence))
    cells = _cells_between_different(winner)
    y, x, inside = _fine_pixels(*cells, rows, columns)  # [n, oy, ox] each
    between = _Between(*cells, rows.weight[y[:, :, 0]], columns.weight[x[:, 0]])
    edge_best, edge_winner = between(scores).max(0)  # [n, oy, ox]
    edge_labels, edge_confidence = _thresholded(
        edge_winner, edge_best, between(total[None])[0], threshold
    )
    y, x = y[inside], x[inside]
    labels[y, x], confidence[y, x] = edge_labels[inside], edge_confidence[inside]
    return labels, confidence


def _best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of scores [K, ...] and the first class that has it: [...] each.

    On a CPU OpenCV takes a third of torch.max's time.
    """
    if scores.device.type != "cpu" or scores.dim() != 3:
        return scores.max(0)
    maps = scores.numpy()
    best = maps[0].copy()
    winner = np.zeros(best.shape, np.uint8)
    for index in range(1, len(maps)):
        better = cv2.compare(maps[index], best, cv2.CMP_GT)  # 255 where it is
        cv2.max(winner, cv2.bitwise_and(better, index), winner)  # type: ignore[call-overload]  # indices only rise
        cv2.max(maps[index], best, best)
    return torch.from_numpy(best), torch.from_numpy(winner)


def _thresholded(
    winner: Tensor, best: Tensor, total: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """Return labels and confidence as bytes from the best class, its score and the sum of all.

    Pixels whose scores are NaN are unlabelled with confidence 0.
    """
    certainty = best / total.clamp_min(1.0)
    labels = winner.to(torch.uint8).masked_fill(~(certainty >= threshold), UNLABELLED)
    return labels, certainty.nan_to_num(0.0).mul_(255).round_().to(torch.uint8)


@dataclass(frozen=True)
class _Neighbours:
    """Positions of `fine` pixels among `coarse` ones along one axis: [fine] each.

    Bilinear with half-pixel centres, clamped at the borders (torch's align_corners=False): between
    `lower` and the next one, with `weight` for the next one. first, count: [coarse], the range of
    fine pixels whose lower neighbour is that coarse one. max_count: the largest count.
    """

    lower: Tensor
    weight: Tensor
    nearest: Tensor
    first: Tensor
    count: Tensor
    max_count: int


@functools.lru_cache(maxsize=8)
def _neighbours(coarse: int, fine: int, device: torch.device) -> _Neighbours:
    centre = torch.arange(fine, device=device, dtype=torch.float32) + 0.5
    position = (centre * (coarse / fine) - 0.5).clamp_min(0.0)
    lower = position.long().clamp_max(coarse - 1)
    upper = (lower + 1).clamp_max(coarse - 1)
    weight = position - lower
    nearest = torch.where(weight < 0.5, lower, upper)
    count = torch.bincount(lower, minlength=coarse)
    first = count.cumsum(0) - count
    return _Neighbours(lower, weight, nearest, first, count, int(count.max()))


def _resize_nearest(image: Tensor, rows: _Neighbours, columns: _Neighbours) -> Tensor:
    """Resize a byte image [h, w] by nearest: [H, W]. OpenCV is the fastest on a CPU."""
    if image.device.type == "cpu":
        size = (len(columns.nearest), len(rows.nearest))
        fine = cv2.resize(image.numpy(), size, interpolation=cv2.INTER_NEAREST_EXACT)
        return torch.from_numpy(fine)
    return image.index_select(1, columns.nearest).index_select(0, rows.nearest)


def _cells_between_different(winner: Tensor) -> tuple[Tensor, Tensor]:
    """Return the upper left corners (y, x), [n] each, of cells of four pixels that differ."""
    differs = torch.zeros_like(winner, dtype=torch.bool)  # [h, w]
    across = winner[:, 1:] != winner[:, :-1]  # [h, w - 1]
    differs[:, :-1] |= across
    differs[:-1, :-1] |= across[1:]
    differs[:-1] |= winner[1:] != winner[:-1]
    rows, columns = differs.nonzero(as_tuple=True)
    return rows, columns


def _fine_pixels(
    cell_y: Tensor, cell_x: Tensor, rows: _Neighbours, columns: _Neighbours
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the fine pixels y, x of every cell, and whether they are inside: [n, oy, ox] each."""
    offset_y = torch.arange(rows.max_count, device=cell_y.device)
    offset_x = torch.arange(columns.max_count, device=cell_x.device)
    y = (rows.first[cell_y, None] + offset_y).clamp_max(len(rows.lower) - 1)  # [n, oy]
    x = (columns.first[cell_x, None] + offset_x).clamp_max(len(columns.lower) - 1)  # [n, ox]
    inside = (offset_y < rows.count[cell_y, None])[:, :, None]
    inside = inside & (offset_x < columns.count[cell_x, None])[:, None, :]  # [n, oy, ox]
    return y[:, :, None].expand_as(inside), x[:, None, :].expand_as(inside), inside


@dataclass(frozen=True)
class _Between:
    """Interpolates bilinearly inside cells: corners [n], weights [n, oy] and [n, ox]."""

    cell_y: Tensor
    cell_x: Tensor
    weight_y: Tensor
    weight_x: Tensor

    def __call__(self, maps: Tensor) -> Tensor:
        """Return maps [K, h, w] at the fine pixels of the cells: [K, n, oy, ox]."""
        below = (self.cell_y + 1).clamp_max(maps.shape[1] - 1)
        right = (self.cell_x + 1).clamp_max(maps.shape[2] - 1)

        def along(y: Tensor) -> Tensor:
            start, end = maps[:, y, self.cell_x], maps[:, y, right]  # [K, n] each
            return torch.lerp(start[:, :, None], end[:, :, None], self.weight_x)  # [K, n, ox]

        upper, lower = along(self.cell_y)[:, :, None], along(below)[:, :, None]
        return torch.lerp(upper, lower, self.weight_y[:, :, None])  # [K, n, oy, ox]
