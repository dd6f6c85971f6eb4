# SPDX-License-Identifier: Apache-2.0
"""Mask2Former's losses against hand-computed cases and plain float64 loops."""

import itertools
import math

import numpy as np
import pytest
import torch

from depthforge_ros.learning.losses import (
    LossSettings,
    labels_at,
    mask_losses,
    match,
    matching_cost,
    sample_points,
    semantic_targets,
    uncertain_points,
)
from depthforge_ros.network.mask_decoder import MaskOutputs


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bilinear(image: np.ndarray, x: float, y: float) -> float:
    """Value at x, y in 0..1 with pixel centres at half-integers and clamped borders."""
    height, width = image.shape
    column = min(max(x * width - 0.5, 0.0), width - 1.0)
    row = min(max(y * height - 0.5, 0.0), height - 1.0)
    left, top = min(int(column), width - 2), min(int(row), height - 2)
    wx, wy = column - left, row - top
    upper = (1 - wx) * image[top, left] + wx * image[top, left + 1]
    lower = (1 - wx) * image[top + 1, left] + wx * image[top + 1, left + 1]
    return float((1 - wy) * upper + wy * lower)


def point_losses(logits, truth, weights) -> tuple[float, float]:
    """BCE and dice of one mask from lists of points, in Python floats."""
    bce = overlap = sizes = 0.0
    for x, y, w in zip(logits, truth, weights, strict=True):
        p = 1 / (1 + math.exp(-x))
        bce -= w * (y * math.log(p) + (1 - y) * math.log(1 - p))
        overlap += w * p * y
        sizes += w * (p + y)
    return bce / sum(weights), 1 - (2 * overlap + 1) / (sizes + 1)


def constant_case() -> tuple[MaskOutputs, torch.Tensor]:
    """An image all of class 1. Query 1 says class 1 with p = 1/2 and a mask of logit 2 all over."""
    class_logits = torch.tensor([[[0.0, 0.0, 0.0], [0.0, math.log(2.0), 0.0]]])  # [1, 2, 3]
    mask_logits = torch.stack([torch.full((4, 4), -3.0), torch.full((4, 4), 2.0)])[None]
    labels = torch.ones(1, 16, 16, dtype=torch.uint8)
    return MaskOutputs((class_logits,), (mask_logits,)), labels


def test_hand_computed_case():
    outputs, labels = constant_case()
    losses = mask_losses(outputs, labels, [seeded()], LossSettings(points=64))
    # Query 1 is matched, query 0 is "nothing" with weight 0.1; the classes are averaged by weight.
    classes = (math.log(2) + 0.1 * math.log(3)) / 1.1
    p = 1 / (1 + math.exp(-2))
    dice = 1 - (2 * 64 * p + 1) / (64 * p + 64 + 1)
    assert losses.classes.item() == pytest.approx(2 * classes, rel=1e-5)
    assert losses.mask.item() == pytest.approx(-5 * math.log(p), rel=1e-5)
    assert losses.dice.item() == pytest.approx(5 * dice, rel=1e-4)
    assert losses.total.item() == pytest.approx(2 * classes - 5 * math.log(p) + 5 * dice, rel=1e-5)


def test_every_prediction_is_supervised():
    outputs, labels = constant_case()
    settings = LossSettings(points=64)
    once = mask_losses(outputs, labels, [seeded()], settings).total
    worse = MaskOutputs(outputs.class_logits, tuple(masks - 1 for masks in outputs.mask_logits))
    other = mask_losses(worse, labels, [seeded()], settings).total
    both = MaskOutputs(
        outputs.class_logits + worse.class_logits, outputs.mask_logits + worse.mask_logits
    )
    assert other > once
    total = mask_losses(both, labels, [seeded()], settings).total
    assert total.item() == pytest.approx((once + other).item(), rel=1e-6)


def random_case(seed: int, images: int = 2, queries: int = 5, classes: int = 4):
    g = seeded(seed)
    outputs = MaskOutputs(
        (torch.randn(images, queries, classes + 1, generator=g),),
        (3 * torch.randn(images, queries, 6, 8, generator=g),),
    )
    labels = torch.randint(0, 3, (images, 24, 32), generator=g).to(torch.uint8)
    labels[:, :5, :7] = 255
    return outputs, labels


def test_losses_agree_with_plain_loops():
    """Points and matching are taken from the module, of one image at a time; every formula is
    recomputed in float64.
    """
    settings = LossSettings(points=40)
    outputs, labels = random_case(3)
    labels[1][labels[1] == 2] = 1  # another number of masks than in the first image
    losses = mask_losses(outputs, labels, [seeded(7), seeded(8)], settings)

    class_sum = class_weight = mask_sum = dice_sum = 0.0
    masks = 0
    for b, g in enumerate((seeded(7), seeded(8))):
        target = semantic_targets(labels[b : b + 1])
        logits = outputs.mask_logits[0][b]
        found = match(outputs.class_logits[0][b : b + 1], logits[None], target, [g], settings)
        points = uncertain_points(logits[found.queries], found.counts, [g], settings).numpy()
        truth = dict(zip(found.queries.tolist(), found.classes.tolist(), strict=True))
        for q in range(5):
            row = outputs.class_logits[0][b, q].double().numpy()
            weight = 1.0 if q in truth else 0.1
            class_sum += weight * (np.log(np.exp(row).sum()) - row[truth.get(q, 4)])
            class_weight += weight
        image = labels[b].numpy()
        for i, (q, k) in enumerate(truth.items()):
            expected = (image == k).astype(np.float64)
            labelled = (image != 255).astype(np.float64)
            mask = logits[q].double().numpy()
            parts = [[bilinear(m, x, y) for x, y in points[i]] for m in (mask, expected, labelled)]
            bce, dice = point_losses(*parts)
            mask_sum, dice_sum, masks = mask_sum + bce, dice_sum + dice, masks + 1
    assert losses.classes.item() == pytest.approx(2 * class_sum / class_weight, rel=1e-5)
    assert losses.mask.item() == pytest.approx(5 * mask_sum / masks, rel=1e-5)
    assert losses.dice.item() == pytest.approx(5 * dice_sum / masks, rel=1e-5)


def test_many_points_approach_the_dense_losses():
    """With uniform points, the sampled BCE and dice converge to those over all pixels."""
    labels = torch.zeros(1, 32, 32, dtype=torch.uint8)
    labels[:, :, 20:] = 1
    ramp = torch.linspace(-4, 4, 32).expand(32, 32)
    outputs = MaskOutputs(
        (torch.tensor([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]]),), (torch.stack([-ramp, ramp])[None],)
    )
    settings = LossSettings(points=200_000, importance=0.0)
    losses = mask_losses(outputs, labels, [seeded()], settings)
    bce = dice = 0.0
    for k, logits in enumerate((-ramp, ramp)):
        expected = (labels[0] == k).double()
        p = logits.double().sigmoid()
        bce -= (expected * p.log() + (1 - expected) * (1 - p).log()).mean().item() / 2
        dice += (1 - 2 * (p * expected).sum() / (p + expected).sum()).item() / 2
    assert losses.mask.item() == pytest.approx(5 * bce, rel=0.01)
    assert losses.dice.item() == pytest.approx(5 * dice, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_matching_is_the_cheapest_of_all_permutations(seed):
    settings = LossSettings(points=50)
    outputs, labels = random_case(seed)
    target = semantic_targets(labels[:1])
    assert target.present[0].tolist() == [0, 1, 2]
    class_logits, mask_logits = outputs.class_logits[0][0], outputs.mask_logits[0][0]
    points = torch.rand(1, 50, 2, generator=seeded(seed)).numpy()[0]
    labelled = (labels[0] != 255).double().numpy()
    weights = [bilinear(labelled, x, y) for x, y in points]
    cost = np.zeros((5, 3))
    for q, t in itertools.product(range(5), range(3)):
        k = int(target.present[0][t])
        logits = [bilinear(mask_logits[q].double().numpy(), x, y) for x, y in points]
        expected = [bilinear((labels[0] == k).double().numpy(), x, y) for x, y in points]
        bce, dice = point_losses(logits, expected, weights)
        row = np.exp(class_logits[q].double().numpy())
        cost[q, t] = -2 * row[k] / row.sum() + 5 * bce + 5 * dice
    best = min(
        itertools.permutations(range(5), 3), key=lambda p: sum(cost[q, t] for t, q in enumerate(p))
    )
    found = match(class_logits[None], mask_logits[None], target, [seeded(seed)], settings)
    assert found.counts == (3,)
    assert found.images.tolist() == [0, 0, 0]
    matched = dict(zip(found.classes.tolist(), found.queries.tolist(), strict=True))
    assert matched == dict(enumerate(best))


def test_matching_cost_of_constant_masks():
    values = torch.tensor([[[0.0, 0.0], [4.0, -4.0]]])  # [B, Q, P]
    expected = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # [B, K, P]
    logits, weight = torch.zeros(1, 2, 3), torch.ones(1, 1, 2)
    cost = matching_cost(logits, values, expected, weight, LossSettings())[0]
    p = 1 / (1 + math.exp(-4))
    sure = 5 * math.log1p(math.exp(-4)) + 5 * (1 - (2 * p + 1) / (p + (1 - p) + 1 + 1))
    unsure = 5 * math.log(2) + 5 * (1 - 2 / 3)
    assert cost[:, 0].tolist() == pytest.approx([unsure - 2 / 3, sure - 2 / 3], rel=1e-5)
    assert cost[0, 1] == cost[0, 0]
    assert cost[1, 1] > 5 * (4 + math.log1p(math.exp(-4)))  # sure of the opposite


def test_uncertain_points_are_the_most_uncertain_candidates():
    settings = LossSettings(points=100)
    logits = torch.linspace(-5, 5, 64).expand(1, 16, 64)  # 0 in the middle column
    points = uncertain_points(logits, [1], [seeded(1)], settings)
    assert points.shape == (1, 100, 2)
    candidates = torch.rand(1, 300, 2, generator=seeded(1))
    distance = (candidates[0, :, 0] - 0.5).abs()
    expected = candidates[0, distance.argsort()[:75], 0].sort().values
    assert torch.equal(points[0, :75, 0].sort().values, expected)
    assert (points[0, :75, 0] - 0.5).abs().max() < 0.2
    assert points[0, 75:, 0].min() < 0.2  # the rest is spread over the image
    assert points[0, 75:, 0].max() > 0.8


def test_points_of_an_image_are_drawn_by_its_own_generator():
    settings = LossSettings(points=8)
    logits = torch.randn(3, 6, 8, generator=seeded(2))
    together = uncertain_points(logits, [2, 1], [seeded(3), seeded(4)], settings)
    first = uncertain_points(logits[:2], [2], [seeded(3)], settings)
    second = uncertain_points(logits[2:], [1], [seeded(4)], settings)
    assert torch.equal(together, torch.cat([first, second]))


def test_points_are_bilinear_with_pixel_centres_at_half():
    maps = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    points = torch.tensor([[[0.25, 0.25], [0.5, 0.5], [0.75, 0.25], [0.0, 1.0]]])
    assert sample_points(maps, points)[0, 0].tolist() == pytest.approx([0.0, 1.5, 1.0, 2.0])


def test_shares_of_labels_are_what_sampling_the_mask_of_a_class_gives():
    labels = torch.randint(0, 3, (2, 7, 9), generator=seeded(5)).to(torch.uint8)
    labels[:, 3] = 255
    points = torch.rand(3, 200, 2, generator=seeded(6))
    points[0, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    images = torch.tensor([1, 0, 1])
    ids, shares = labels_at(labels, images, points)
    assert (shares >= 0).all()
    for label in (0, 1, 2, 255):
        masks = (labels == label).float()[images, None]  # [3, 1, 7, 9]
        expected = sample_points(masks, points)[:, 0]
        assert (shares * (ids == label)).sum(1) == pytest.approx(expected, abs=2e-6)


def test_unlabelled_pixels_weigh_nothing():
    outputs, labels = constant_case()
    labels[:, :, 8:] = 255
    settings = LossSettings(points=512, importance=0.0)
    clean = mask_losses(outputs, labels, [seeded()], settings)
    for masks in outputs.mask_logits:
        masks[..., 3:] = -50.0  # far inside the unlabelled half
    wrong = mask_losses(outputs, labels, [seeded()], settings)
    assert wrong.total.item() == pytest.approx(clean.total.item(), rel=1e-6)


def test_an_image_without_labels_teaches_only_nothing():
    outputs, labels = random_case(0)
    class_logits = outputs.class_logits[0].requires_grad_()
    labels[:] = 255
    losses = mask_losses(outputs, labels, [seeded(), seeded()], LossSettings(points=16))
    log_nothing = class_logits.detach().double().log_softmax(-1)[..., 4]
    assert losses.total.item() == pytest.approx(-2 * log_nothing.mean().item(), rel=1e-5)
    losses.total.backward()
    assert class_logits.grad.isfinite().all()


def test_mean_over_processes_makes_two_halves_one_batch():
    outputs, labels = random_case(5)
    labels[1][labels[1] == 2] = 1  # another number of masks than in the first image
    settings = LossSettings(points=32)
    whole = mask_losses(outputs, labels, [seeded(0), seeded(1)], settings).total

    def half(b: int, mean) -> torch.Tensor:
        part = MaskOutputs(
            tuple(x[b : b + 1] for x in outputs.class_logits),
            tuple(x[b : b + 1] for x in outputs.mask_logits),
        )
        return mask_losses(part, labels[b : b + 1], [seeded(b)], settings, mean).total

    counts: list[list[torch.Tensor]] = [[], []]
    for b in (0, 1):
        half(b, lambda count, b=b: counts[b].append(count) or count)
    means = [(first + second) / 2 for first, second in zip(*counts, strict=True)]
    assert counts[0] != counts[1]
    halves = []
    for b in (0, 1):
        left = iter(means)
        halves.append(half(b, lambda _, left=left: next(left)))
    assert (sum(halves) / 2).item() == pytest.approx(whole.item(), rel=1e-6)


def test_broken_outputs_are_refused():
    outputs, labels = random_case(0)
    outputs.mask_logits[0][0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        mask_losses(outputs, labels, [seeded(), seeded()], LossSettings(points=16))
    with pytest.raises(ValueError, match="1 generators for 2 images"):
        mask_losses(outputs, labels, [seeded()], LossSettings())
    with pytest.raises(ValueError, match=r"importance is 1\.5"):
        LossSettings(importance=1.5)
