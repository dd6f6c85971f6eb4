# SPDX-License-Identifier: Apache-2.0
"""Mask2Former's losses (arXiv 2112.01527) for semantic masks. Read `mask_losses` first.

Symbols: B batch, Q queries, K classes, T masks of one image (one for every class in it), P points.

Masks are compared at points, not densely: uniformly random ones for the matching, and for the
losses mostly those where a matched mask is least sure of itself (PointRend, arXiv 1912.08193).
All random points come from the caller's generators, one for each image, so the loss of an image
does not depend on the process or the batch that computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from depthforge_ros.frame import UNLABELLED
from depthforge_ros.network.mask_decoder import MaskOutputs


@dataclass(frozen=True)
class LossSettings:
    """Weights and sampling of arXiv 2112.01527, section 4.

    no_object: weight of the class "nothing" in the classification loss. points: P. oversample:
    candidates for every important point. importance: share of points chosen for uncertainty.
    """

    classes: float = 2.0
    no_object: float = 0.1
    mask: float = 5.0
    dice: float = 5.0
    points: int = 12544
    oversample: int = 3
    importance: float = 0.75

    def __post_init__(self) -> None:
        if self.points < 1 or self.oversample < 1:
            raise ValueError(
                f"points is {self.points}, oversample {self.oversample}; wanted at least 1"
            )
        if not 0.0 <= self.importance <= 1.0:
            raise ValueError(f"importance is {self.importance}; wanted 0..1")


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

    labels: [B, H, W] uint8 trainId; unlabelled pixels belong to no mask and weigh nothing.
    generators: B of them, on the outputs' device. mean_over_processes: the mean of a count over
    all training processes, so that averaged gradients equal those of one large batch.

    Raises ValueError where the number of generators is not B.
    """
    if len(generators) != len(labels):
        raise ValueError(f"{len(generators)} generators for {len(labels)} images")
    targets = [semantic_targets(image) for image in labels]
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
    """What is in one image. classes: [T] trainId. masks: [T, H, W] and labelled: [H, W], 0 or 1."""

    classes: Tensor
    masks: Tensor
    labelled: Tensor


def semantic_targets(labels: Tensor) -> Targets:
    """One mask for every class in labels [H, W]."""
    classes = labels.unique()
    classes = classes[classes != UNLABELLED].long()  # [T]
    masks = (labels[None] == classes[:, None, None]).float()  # [T, H, W]
    return Targets(classes, masks, (labels != UNLABELLED).float())


def _one_prediction(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: Sequence[Targets],
    generators: Sequence[torch.Generator],
    settings: LossSettings,
    mean_over_processes: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Class, mask and dice loss, unweighted, of class_logits [B, Q, K + 1], mask_logits
    [B, Q, h, w].
    """
    B, Q, nothing = class_logits.shape[0], class_logits.shape[1], class_logits.shape[2] - 1
    truth = torch.full((B, Q), nothing, dtype=torch.long, device=class_logits.device)
    mask_sum = class_logits.new_zeros(())
    dice_sum = class_logits.new_zeros(())
    for b, (target, generator) in enumerate(zip(targets, generators, strict=True)):
        queries, matched = match(class_logits[b], mask_logits[b], target, generator, settings)
        truth[b, queries] = target.classes[matched]
        if len(queries) == 0:
            continue
        logits = mask_logits[b, queries].float()  # [T, h, w]
        points = uncertain_points(logits, generator, settings)  # [T, P, 2]
        values = sample_points(logits, points)  # [T, P]
        wanted = sample_points(target.masks[matched], points)
        weight = sample_points(target.labelled.expand(len(queries), -1, -1), points)
        mask_sum = mask_sum + _binary_cross_entropy(values, wanted, weight).sum()
        dice_sum = dice_sum + _dice(values.sigmoid(), wanted, weight).sum()
    weights = class_logits.new_ones(nothing + 1)
    weights[nothing] = settings.no_object
    losses = F.cross_entropy(class_logits.flatten(0, 1), truth.flatten(), weights, reduction="sum")
    class_count = mean_over_processes(weights[truth].sum())
    mask_count = sum(len(target.classes) for target in targets)
    masks = mean_over_processes(class_logits.new_tensor(float(mask_count))).clamp_min(1.0)
    return losses / class_count, mask_sum / masks, dice_sum / masks


@torch.no_grad()
def match(
    class_logits: Tensor,
    mask_logits: Tensor,
    target: Targets,
    generator: torch.Generator,
    settings: LossSettings,
) -> tuple[Tensor, Tensor]:
    """The cheapest one-to-one assignment of queries to masks of one image (Hungarian method).

    Cost of query q for mask t at P shared random points x:
    -λ_cls·softmax(class_q)[c_t] + λ_mask·BCE(mask_q, mask_t) + λ_dice·dice(mask_q, mask_t).

    class_logits: [Q, K + 1]. mask_logits: [Q, h, w]. Returns the queries and the indices of their
    masks, both [min(Q, T)].
    """
    points = _random_points(1, settings.points, generator).expand(len(mask_logits), -1, -1)
    values = sample_points(mask_logits.float(), points)  # [Q, P]
    count = len(target.classes)
    wanted = sample_points(target.masks, points[:1].expand(count, -1, -1))  # [T, P]
    weight = sample_points(target.labelled[None], points[:1])  # [1, P]
    cost = matching_cost(class_logits.float(), values, target.classes, wanted, weight, settings)
    if not cost.isfinite().all():
        raise FloatingPointError("matching cost is not finite: the network's outputs are NaN")
    queries, masks = linear_sum_assignment(cost.cpu().numpy().astype(np.float64))
    device = class_logits.device
    return torch.as_tensor(queries, device=device), torch.as_tensor(masks, device=device)


def matching_cost(
    class_logits: Tensor,
    values: Tensor,
    classes: Tensor,
    wanted: Tensor,
    weight: Tensor,
    settings: LossSettings,
) -> Tensor:
    """Cost [Q, T] of class_logits [Q, K + 1] and mask logits `values` [Q, P] for classes [T] and
    masks `wanted` [T, P]; points count by `weight` [1, P].
    """
    of_class = -class_logits.softmax(-1)[:, classes]  # [Q, T]
    # BCE(x, y) = softplus(x) - x·y, split so that it is a matrix product.
    total = weight.sum().clamp_min(1.0)
    weighted = wanted * weight
    of_mask = ((F.softplus(values) * weight).sum(-1, keepdim=True) - values @ weighted.T) / total
    probability = values.sigmoid()
    overlap = probability @ weighted.T
    sizes = (probability * weight).sum(-1)[:, None] + weighted.sum(-1)[None]
    of_dice = 1 - (2 * overlap + 1) / (sizes + 1)
    return settings.classes * of_class + settings.mask * of_mask + settings.dice * of_dice


def uncertain_points(logits: Tensor, generator: torch.Generator, settings: LossSettings) -> Tensor:
    """Points [T, P, 2] for masks [T, h, w]: `importance`·P of the `oversample`·P random candidates
    with the smallest |logit|, the rest uniformly random (arXiv 1912.08193, section 3.1).
    """
    count = len(logits)
    with torch.no_grad():
        chosen = int(settings.importance * settings.points)
        candidates = _random_points(count, settings.oversample * settings.points, generator)
        certainty = sample_points(logits, candidates).abs()  # [T, oversample·P]
        nearest = certainty.topk(chosen, largest=False, sorted=False).indices[..., None]
        uncertain = candidates.gather(1, nearest.expand(-1, -1, 2))  # [T, chosen, 2]
        rest = _random_points(count, settings.points - chosen, generator)
    return torch.cat([uncertain, rest], dim=1)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Maps [N, h, w] at points [N, P, 2] (x, y in 0..1), bilinear: [N, P].

    The centre of the first pixel is at x = 0.5 / w. Borders are clamped, as they are where masks
    are enlarged for inference.
    """
    grid = (2 * points[:, None] - 1).to(maps.dtype)  # [N, 1, P, 2]
    sampled = F.grid_sample(maps[:, None], grid, padding_mode="border", align_corners=False)
    return sampled[:, 0, 0]  # [N, 1, 1, P] -> [N, P]


def _random_points(count: int, points: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, points, 2, generator=generator, device=generator.device)


def _binary_cross_entropy(values: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Mean over the points of -y·log σ(x) - (1 - y)·log(1 - σ(x)), for every mask: [T]."""
    losses = F.binary_cross_entropy_with_logits(values, wanted, weight, reduction="none")
    return losses.sum(-1) / weight.sum(-1).clamp_min(1.0)


def _dice(probability: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """1 - (2·Σ p·y + 1) / (Σ p + Σ y + 1) over the points, for every mask: [T]."""
    overlap = (probability * wanted * weight).sum(-1)
    sizes = ((probability + wanted) * weight).sum(-1)
    return 1 - (2 * overlap + 1) / (sizes + 1)
