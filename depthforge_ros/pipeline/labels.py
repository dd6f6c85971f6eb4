# SPDX-License-Identifier: Apache-2.0
"""From coarse scores to a mask at the image's size: the argmax of the enlarged scores.

On a CPU only pixels between different classes are enlarged, whose number the host must know. On
other devices all pixels are, so that the host waits for nothing and a CUDA graph can hold the work;
labels and confidence are the same.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from depthforge_ros.frame import UNLABELLED

BAND_ELEMENTS = 1 << 23
"""Enlarged scores at once, 32 MiB: a band of rows, so that the largest images need little memory.
"""


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
    rows = neighbours(scores.shape[1], size[0], scores.device)
    columns = neighbours(scores.shape[2], size[1], scores.device)
    if scores.device.type != "cpu":
        return label_every_pixel(scores, rows, columns, threshold)
    best, winner = _best(scores)  # [h, w]
    total = scores.sum(0)  # [h, w]
    labels, confidence = _thresholded(winner, best, total, threshold)
    if size == tuple(scores.shape[1:]):
        return labels, confidence
    labels, confidence = (_resize_nearest(image, size) for image in (labels, confidence))
    cell_y, cell_x = _differs(winner).nonzero(as_tuple=True)  # [n] each
    ranges = _ranges(scores.shape[1], size[0]), _ranges(scores.shape[2], size[1])
    y, x, inside = _fine_pixels(cell_y, cell_x, *ranges)  # [n, oy, ox] each
    between = _Between(cell_y, cell_x, rows.weight[y[:, :, 0]], columns.weight[x[:, 0]])
    edge_best, edge_winner = between(scores).max(0)  # [n, oy, ox]
    edge_labels, edge_confidence = _thresholded(
        edge_winner, edge_best, between(total[None])[0], threshold
    )
    y, x = y[inside], x[inside]
    labels[y, x], confidence[y, x] = edge_labels[inside], edge_confidence[inside]
    return labels, confidence


def label_every_pixel(
    scores: Tensor, rows: Neighbours, columns: Neighbours, threshold: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return what `label_pixels` returns, [H, W] each, by operations of static shape.

    scores: [K, h, w] float32. rows, columns: of h to H and w to W. threshold: a number, or a tensor
    [] float32 on the device.
    """
    best, winner = scores.max(0)  # [h, w]
    total = scores.sum(0)  # [h, w]
    coarse = _thresholded(winner, best, total, threshold)
    if (len(rows.lower), len(columns.lower)) == tuple(scores.shape[1:]):
        return coarse
    labels, confidence = (
        image.index_select(1, columns.nearest).index_select(0, rows.nearest) for image in coarse
    )
    maps = torch.cat([scores, total[None]])  # [K + 1, h, w]
    maps = torch.lerp(
        maps.index_select(2, columns.lower), maps.index_select(2, columns.upper), columns.weight
    )  # [K + 1, h, W]
    differs = _differs(winner).index_select(1, columns.lower)  # [h, W]
    step = max(1, BAND_ELEMENTS // (len(maps) * len(columns.lower)))
    bands = []
    for band in zip(
        *(part.split(step) for part in (rows.lower, rows.upper, rows.weight, labels, confidence)),
        strict=True,
    ):
        lower, upper, weight, *nearest = band
        fine = torch.lerp(
            maps.index_select(1, lower), maps.index_select(1, upper), weight[:, None]
        )  # [K + 1, band, W]
        best, winner = fine[:-1].max(0)  # [band, W]
        between = _thresholded(winner, best, fine[-1], threshold)
        edge = differs.index_select(0, lower)  # [band, W]
        bands.append([torch.where(edge, a, b) for a, b in zip(between, nearest, strict=True)])
    labels, confidence = (torch.cat(parts) for parts in zip(*bands, strict=True))
    return labels, confidence


def _best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of scores [K, h, w] and the first class that has it: [h, w] each.

    OpenCV takes a third of torch.max's time.
    """
    maps = scores.numpy()
    best = maps[0].copy()
    winner = np.zeros(best.shape, np.uint8)
    for index in range(1, len(maps)):
        better = cv2.compare(maps[index], best, cv2.CMP_GT)  # 255 where it is
        cv2.max(winner, cv2.bitwise_and(better, index), winner)  # type: ignore[call-overload]  # indices only rise
        cv2.max(maps[index], best, best)
    return torch.from_numpy(best), torch.from_numpy(winner)


def _thresholded(
    winner: Tensor, best: Tensor, total: Tensor, threshold: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return labels and confidence as bytes from the best class, its score and the sum of all.

    Pixels whose scores are NaN are unlabelled with confidence 0.
    """
    certainty = best / total.clamp_min(1.0)
    labels = winner.to(torch.uint8).masked_fill(~(certainty >= threshold), UNLABELLED)
    return labels, certainty.nan_to_num(0.0).mul_(255).round_().to(torch.uint8)


@dataclass(frozen=True)
class Neighbours:
    """Positions of `fine` pixels among `coarse` ones along one axis: [fine] each.

    Bilinear with half-pixel centres, clamped at the borders (torch's align_corners=False): between
    `lower` and `upper`, with `weight` for `upper`.
    """

    lower: Tensor
    upper: Tensor
    weight: Tensor
    nearest: Tensor


@dataclass(frozen=True)
class _Ranges:
    """The fine pixels whose lower neighbour is a coarse one: first and count, [coarse] each.

    max_count: the largest count. fine: the number of fine pixels.
    """

    first: Tensor
    count: Tensor
    max_count: int
    fine: int


@functools.lru_cache(maxsize=8)
def neighbours(coarse: int, fine: int, device: torch.device) -> Neighbours:
    """Return the positions of so many fine pixels among coarse ones."""
    centre = torch.arange(fine, device=device, dtype=torch.float32) + 0.5
    position = (centre * (coarse / fine) - 0.5).clamp_min(0.0)
    lower = position.long().clamp_max(coarse - 1)
    upper = (lower + 1).clamp_max(coarse - 1)
    weight = position - lower
    return Neighbours(lower, upper, weight, _nearest(coarse, fine).to(device))


def _nearest(coarse: int, fine: int) -> Tensor:
    """Return the coarse pixel nearest to each fine one, [fine]: OpenCV's, which breaks ties."""
    pixels = np.arange(coarse, dtype=np.int32)[None]  # [1, coarse]
    found = cv2.resize(pixels, (fine, 1), interpolation=cv2.INTER_NEAREST_EXACT)
    return torch.from_numpy(found[0]).long()


@functools.lru_cache(maxsize=8)
def _ranges(coarse: int, fine: int) -> _Ranges:
    count = torch.bincount(
        neighbours(coarse, fine, torch.device("cpu")).lower, minlength=coarse
    )  # [coarse]
    return _Ranges(count.cumsum(0) - count, count, int(count.max()), fine)


def _resize_nearest(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a byte image [h, w] to [H, W] by nearest. OpenCV is the fastest on a CPU."""
    fine = cv2.resize(image.numpy(), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return torch.from_numpy(fine)


def _differs(winner: Tensor) -> Tensor:
    """Return, at the upper left corner of each cell of four pixels, whether they differ: [h, w]."""
    differs = torch.zeros_like(winner, dtype=torch.bool)  # [h, w]
    across = winner[:, 1:] != winner[:, :-1]  # [h, w - 1]
    differs[:, :-1] |= across
    differs[:-1, :-1] |= across[1:]
    differs[:-1] |= winner[1:] != winner[:-1]
    return differs


def _fine_pixels(
    cell_y: Tensor, cell_x: Tensor, rows: _Ranges, columns: _Ranges
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the fine pixels y, x of every cell, and whether they are inside: [n, oy, ox] each."""
    offset_y = torch.arange(rows.max_count, device=cell_y.device)
    offset_x = torch.arange(columns.max_count, device=cell_x.device)
    y = (rows.first[cell_y, None] + offset_y).clamp_max(rows.fine - 1)  # [n, oy]
    x = (columns.first[cell_x, None] + offset_x).clamp_max(columns.fine - 1)  # [n, ox]
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
