# SPDX-License-Identifier: Apache-2.0
"""Mask2Former's losses (arXiv 2112.01527) for semantic masks. Read `mask_losses` first.

Symbols: B batch, Q queries, K classes, T masks of one image (one for every class in it), N matched
masks of the whole batch, P points.

Masks are compared at points, not densely: uniformly random ones for the matching, and for the
losses mostly those where a matched mask is least sure of itself (PointRend, arXiv 1912.08193).
All random points come from the caller's generators, one for each image, so the loss of an image
does not depend on the process or the batch that computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from depthforge_ros.frame import UNLABELLED
from depthforge_ros.network.mask_decoder import MaskOutputs


class Unlabelled(Enum):
    """What unlabelled pixels mean for the masks."""

    IGNORED = "ignored"
    BACKGROUND = "background"


@dataclass(frozen=True)
class LossSettings:
    """Weights and sampling of arXiv 2112.01527, section 4.

    no_object: weight of the class "nothing" in the classification loss. points: P. oversample:
    candidates for every important point. importance: share of points chosen for uncertainty.
    unlabelled: what unlabelled pixels are: `ignored` weighs them nothing, `background` makes them
    0 in every mask, as mmdetection 3.3.0 and so the paper's authors do.
    """

    classes: float = 2.0
    no_object: float = 0.1
    mask: float = 5.0
    dice: float = 5.0
    points: int = 12544
    oversample: int = 3
    importance: float = 0.75
    unlabelled: Unlabelled = Unlabelled.IGNORED

    def __post_init__(self) -> None:
        if self.points < 1 or self.oversample < 1:
            raise ValueError(
                f"points is {self.points}, oversample {self.oversample}; expected at least 1"
            )
        if not 0.0 <= self.importance <= 1.0:
            raise ValueError(f"importance is {self.importance}; expected 0..1")


@dataclass(frozen=True)
class MaskLosses:
    """Scalars, weighted and summed over predictions; total is their sum."""

    total: Tensor
    classes: Tensor
    mask: Tensor
    dice: Tensor


def mask_losses(
    outputs: MaskOutputs,
    labels: Tensor,
    generators: Sequence[torch.Generator],
    settings: LossSettings,
    mean_over_processes: Callable[[Tensor], Tensor] = lambda count: count,
) -> MaskLosses:
    """The losses after every decoder layer, added up.

    labels: [B, H, W] uint8 trainId; unlabelled pixels belong to no mask, see LossSettings.
    generators: B of them, on the outputs' device. mean_over_processes: the mean of a count over
    all training processes, so that averaged gradients equal those of one large batch.

    Raise ValueError if the number of generators is not B.
    """
    if len(generators) != len(labels):
        raise ValueError(f"{len(generators)} generators for {len(labels)} images")
    targets = semantic_targets(labels)
    zero = outputs.class_logits[0].new_zeros((), dtype=torch.float32)
    classes, mask, dice = zero, zero, zero
    for class_logits, mask_logits in zip(outputs.class_logits, outputs.mask_logits, strict=True):
        parts = _one_prediction(
            class_logits.float(), mask_logits, targets, generators, settings, mean_over_processes
        )
        classes, mask, dice = classes + parts[0], mask + parts[1], dice + parts[2]
    classes, mask, dice = settings.classes * classes, settings.mask * mask, settings.dice * dice
    return MaskLosses(classes + mask + dice, classes, mask, dice)


@dataclass(frozen=True)
class Targets:
    """Targets of a batch. labels: [B, H, W] uint8 trainId, on the outputs' device. present: the
    classes of each image, B arrays [T] on the host.
    """

    labels: Tensor
    present: tuple[np.ndarray, ...]


def semantic_targets(labels: Tensor) -> Targets:
    """One mask for every class in each of labels [B, H, W]."""
    found = torch.zeros(len(labels), UNLABELLED + 1, dtype=torch.bool, device=labels.device)
    found.scatter_(1, labels.flatten(1).long(), True)  # [B, 256]
    present = found[:, :UNLABELLED].cpu().numpy()
    return Targets(labels, tuple(np.flatnonzero(row) for row in present))


def _one_prediction(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: Targets,
    generators: Sequence[torch.Generator],
    settings: LossSettings,
    mean_over_processes: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Class, mask and dice loss, unweighted, of class_logits [B, Q, K + 1], mask_logits
    [B, Q, h, w].
    """
    B, Q, nothing = class_logits.shape[0], class_logits.shape[1], class_logits.shape[2] - 1
    matches = match(class_logits, mask_logits, targets, generators, settings)
    truth = torch.full((B, Q), nothing, dtype=torch.long, device=class_logits.device)
    truth[matches.images, matches.queries] = matches.classes
    mask_sum = class_logits.new_zeros(())
    dice_sum = class_logits.new_zeros(())
    if sum(matches.counts):
        logits = mask_logits[matches.images, matches.queries].float()  # [N, h, w]
        points = uncertain_points(logits, matches.counts, generators, settings)  # [N, P, 2]
        values = sample_points(logits[:, None], points)[:, 0]  # [N, P]
        ids, shares = labels_at(targets.labels, matches.images, points)  # [N, 4, P]
        masks = (shares * (ids == matches.classes[:, None, None])).sum(1)  # [N, P]
        weight = point_weights(ids, shares, settings)  # [N, P]
        mask_sum = _binary_cross_entropy(values, masks, weight).sum()
        dice_sum = _dice(values.sigmoid(), masks, weight).sum()
    weights = class_logits.new_ones(nothing + 1)
    weights[nothing] = settings.no_object
    losses = F.cross_entropy(class_logits.flatten(0, 1), truth.flatten(), weights, reduction="sum")
    class_count = mean_over_processes(weights[truth].sum())
    mask_count = sum(len(classes) for classes in targets.present)
    masks = mean_over_processes(class_logits.new_tensor(float(mask_count))).clamp_min(1.0)
    return losses / class_count, mask_sum / masks, dice_sum / masks


@dataclass(frozen=True)
class Matches:
    """Which query is to answer for which class: images, queries, classes [N] int64, one image after
    another; counts: how many of them are of each image.
    """

    images: Tensor
    queries: Tensor
    classes: Tensor
    counts: tuple[int, ...]


@torch.no_grad()
def match(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: Targets,
    generators: Sequence[torch.Generator],
    settings: LossSettings,
) -> Matches:
    """The cheapest one-to-one assignment of queries to the masks of each image (Hungarian method),
    at P random points of the image.

    class_logits: [B, Q, K + 1]. mask_logits: [B, Q, h, w]. min(Q, T) queries of an image are
    matched. The costs of all images reach the host in one copy.
    """
    B, K = class_logits.shape[0], class_logits.shape[2] - 1
    points = _random_points([1] * B, settings.points, generators)  # [B, P, 2]
    values = sample_points(mask_logits.float(), points)  # [B, Q, P]
    ids, shares = labels_at(targets.labels, torch.arange(B, device=points.device), points)
    masks = values.new_zeros(B, K + 1, settings.points)  # the last row: unlabelled
    masks = masks.scatter_add_(1, ids.clamp_max(K), shares)[:, :K]
    weight = point_weights(ids, shares, settings)[:, None]  # [B, 1, P]
    costs = matching_cost(class_logits.float(), values, masks, weight, settings).cpu().numpy()
    queries, classes = [], []
    for cost, present in zip(costs.astype(np.float64), targets.present, strict=True):
        if not np.isfinite(cost).all():
            raise FloatingPointError("matching cost is not finite: the network's outputs are NaN")
        rows, columns = linear_sum_assignment(cost[:, present])
        queries.append(rows)
        classes.append(present[columns])
    counts = tuple(len(rows) for rows in queries)
    table = np.stack(
        [np.repeat(np.arange(B), counts), np.concatenate(queries), np.concatenate(classes)]
    )
    images, chosen, named = torch.from_numpy(table).to(class_logits.device)
    return Matches(images, chosen, named, counts)


def matching_cost(
    class_logits: Tensor,
    values: Tensor,
    masks: Tensor,
    weight: Tensor,
    settings: LossSettings,
) -> Tensor:
    """Cost [B, Q, K] of query q for the mask of class k at points x:
    -λ_cls·softmax(class_q)[k] + λ_mask·BCE(mask_q, mask_k) + λ_dice·dice(mask_q, mask_k).

    class_logits: [B, Q, K + 1]. values: mask logits [B, Q, P]. masks: masks [B, K, P]. weight: of
    the points [B, 1, P].
    """
    of_class = -class_logits.softmax(-1)[..., :-1]  # [B, Q, K]
    # BCE(x, y) = softplus(x) - x·y, split so that it is a matrix product.
    total = weight.sum(-1, keepdim=True).clamp_min(1.0)  # [B, 1, 1]
    weighted = (masks * weight).mT  # [B, P, K]
    of_mask = ((F.softplus(values) * weight).sum(-1, keepdim=True) - values @ weighted) / total
    probability = values.sigmoid()
    overlap = probability @ weighted
    sizes = (probability * weight).sum(-1, keepdim=True) + weighted.sum(-2, keepdim=True)
    of_dice = 1 - (2 * overlap + 1) / (sizes + 1)
    return settings.classes * of_class + settings.mask * of_mask + settings.dice * of_dice


def uncertain_points(
    logits: Tensor,
    counts: Sequence[int],
    generators: Sequence[torch.Generator],
    settings: LossSettings,
) -> Tensor:
    """Points [N, P, 2] for masks [N, h, w]: `importance`·P of the `oversample`·P random candidates
    with the smallest |logit|, the rest uniformly random (arXiv 1912.08193, section 3.1).

    counts: how many of the masks are of each image, whose generator draws their points.
    """
    with torch.no_grad():
        chosen = int(settings.importance * settings.points)
        candidates = _random_points(counts, settings.oversample * settings.points, generators)
        certainty = sample_points(logits[:, None], candidates)[:, 0].abs()  # [N, oversample·P]
        nearest = certainty.topk(chosen, largest=False, sorted=False).indices[..., None]
        uncertain = candidates.gather(1, nearest.expand(-1, -1, 2))  # [N, chosen, 2]
        rest = _random_points(counts, settings.points - chosen, generators)
    return torch.cat([uncertain, rest], dim=1)


def labels_at(labels: Tensor, images: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The four pixels around each point, and their bilinear shares: both [N, 4, P].

    labels: [B, H, W]. images: [N], the image of each row of points [N, P, 2] (x, y in 0..1). What
    `sample_points` gives of a class's mask is the sum of the shares of its pixels; no mask of a
    whole image is ever made. ids: int64 trainId. shares: float32.
    """
    H, W = labels.shape[1:]
    x = (points[..., 0] * W - 0.5).clamp(0, W - 1)  # [N, P]
    y = (points[..., 1] * H - 0.5).clamp(0, H - 1)
    left, top = x.floor(), y.floor()
    x, y = x - left, y - top
    left, top = left.long(), top.long()
    right, below = (left + 1).clamp_max(W - 1), (top + 1).clamp_max(H - 1)
    pixels = torch.stack([top * W + left, top * W + right, below * W + left, below * W + right], 1)
    shares = torch.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], 1)
    ids = labels.flatten(1)[images[:, None, None], pixels]  # [N, 4, P]
    return ids.long(), shares


def point_weights(ids: Tensor, shares: Tensor, settings: LossSettings) -> Tensor:
    """Return the weight of each point, from what `labels_at` gave: [N, 4, P] -> [N, P]."""
    if settings.unlabelled is Unlabelled.BACKGROUND:
        return shares.sum(1)
    return (shares * (ids != UNLABELLED)).sum(1)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Maps [N, C, h, w] at points [N, P, 2] (x, y in 0..1), bilinear: [N, C, P].

    The centre of the first pixel is at x = 0.5 / w. Borders are clamped, as they are where masks
    are enlarged for inference.
    """
    grid = (2 * points[:, None] - 1).to(maps.dtype)  # [N, 1, P, 2]
    sampled = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    return sampled[:, :, 0]  # [N, C, 1, P] -> [N, C, P]


def _random_points(
    counts: Sequence[int], points: int, generators: Sequence[torch.Generator]
) -> Tensor:
    """Points [N, P, 2] in 0..1: `counts` rows of each generator, one after another."""
    return torch.cat(
        [
            torch.rand(count, points, 2, generator=generator, device=generator.device)
            for count, generator in zip(counts, generators, strict=True)
        ]
    )


def _binary_cross_entropy(values: Tensor, masks: Tensor, weight: Tensor) -> Tensor:
    """Mean over the points of -y·log σ(x) - (1 - y)·log(1 - σ(x)), for every mask: [T]."""
    losses = F.binary_cross_entropy_with_logits(values, masks, weight, reduction="none")
    return losses.sum(-1) / weight.sum(-1).clamp_min(1.0)


def _dice(probability: Tensor, masks: Tensor, weight: Tensor) -> Tensor:
    """1 - (2·Σ p·y + 1) / (Σ p + Σ y + 1) over the points, for every mask: [T]."""
    overlap = (probability * masks * weight).sum(-1)
    sizes = ((probability + masks) * weight).sum(-1)
    return 1 - (2 * overlap + 1) / (sizes + 1)
