# SPDX-License-Identifier: Apache-2.0
"""The self-check refuses every kind of wrong engine, each for its own reason."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
import torch
from paths import DATA

from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.engine.engine import CropOutput, Shape
from depthforge_ros.engine.load import load_network
from depthforge_ros.engine.self_check import IMAGES, check, check_images, self_check_folder
from depthforge_ros.street import HELD_OUT_SEEDS, StreetDrive
from depthforge_ros.variant import load_variant

SHAPES = (Shape(64, 96), Shape(64, 96, 3))
CPU = torch.device("cpu")


def tiny_network():
    """Random weights of a small network whose depth no ReLU hides."""
    network = load_network(load_variant(DATA / "tiny" / "tiny.yaml"), "untrained")
    with torch.no_grad():
        network.depth_head.out3.bias.fill_(1.0)
    return network


@pytest.fixture(scope="module")
def reference():
    return EagerEngine(tiny_network(), CPU)


class Altered:
    """An engine whose answers are altered before anybody sees them."""

    def __init__(self, engine, alter):
        self.variant, self.device = engine.variant, engine.device
        self._engine, self._alter = engine, alter

    def __call__(self, crops, *, depth):
        seen = self._engine(crops, depth=depth)
        scores, depth_map = seen.scores.clone(), seen.depth.clone()
        self._alter(scores, depth_map)
        return CropOutput(scores, depth_map)


def test_the_same_engine_passes(reference):
    verdict = check(EagerEngine(tiny_network(), CPU), reference, SHAPES)
    assert verdict.faults == ()
    assert verdict.agreement == 1.0
    assert verdict.depth_error < 1e-5
    assert verdict.score_error < 1e-5


def test_bf16_passes_and_differs(reference):
    verdict = check(EagerEngine(tiny_network(), CPU, "bf16"), reference, SHAPES)
    assert verdict.faults == ()
    assert 1e-5 < verdict.score_error < 0.1


def test_changed_weights_are_refused(reference):
    network = tiny_network()
    with torch.no_grad():
        torch.manual_seed(3)
        weight = network.mask_decoder.class_head.weight
        weight.add_(torch.randn_like(weight))
    verdict = check(EagerEngine(network, CPU), reference, SHAPES)
    assert "96x64, night: scores of" in verdict.faults[0]
    assert verdict.agreement < 0.99


def scale_scores(scores, depth):
    scores *= 1.5


def scale_depth(scores, depth):
    depth *= 1.02


def spoil_second_window(scores, depth):
    if len(scores) > 1:
        scores[1] = scores[0]
        depth[1] = depth[0]


def silence_class(scores, depth):
    scores[:, 1] = 0


def one_nan(scores, depth):
    scores[0, 0, 0, 0] = torch.nan


def endless_depth(scores, depth):
    depth[-1, -1, -1] = torch.inf


@pytest.mark.parametrize(
    ("alter", "where", "reason"),
    [
        (scale_scores, "96x64, night", "scores of all classes differ by up to"),
        (scale_depth, "96x64, night", "depth differs by 2.00%; allowed 1%"),
        (spoil_second_window, "96x64 batch 3, rain, image 2 of 3", "scores of "),
        (silence_class, "96x64, night", "scores of {class} differ by up to"),
        (one_nan, "96x64, night", "scores are not all finite numbers"),
        (endless_depth, "96x64, night", "depth are not all finite numbers"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_wrong_answers_are_refused_with_what_is_wrong(reference, alter, where, reason):
    verdict = check(Altered(reference, alter), reference, SHAPES)
    reason = reason.replace("{class}", reference.variant.labels.classes[1].name)
    assert any(fault.startswith(where) and reason in fault for fault in verdict.faults), verdict


@pytest.fixture(scope="module")
def nano():
    """The shipped network on the night image at 480x352: in fp32, and in bf16."""
    variant = load_variant("nano")
    network = load_network(variant, "")
    images = check_images(Shape(352, 480))
    answers = [EagerEngine(network, CPU, p)(images, depth=True) for p in ("fp32", "bf16")]
    return [Fixed(variant, answer.scores, answer.depth) for answer in answers]


def verdict_of_nano(nano, alter):
    reference, engine = nano
    return check(Altered(engine, alter), reference, [Shape(352, 480)], thorough=False)


def test_bf16_passes_with_trained_weights(nano):
    verdict = verdict_of_nano(nano, lambda scores, depth: None)
    assert verdict.faults == ()
    assert 0.9995 < verdict.agreement < 1
    assert 0.8 < verdict.class_iou < 1
    assert 0.005 < verdict.bin_error < 0.03


def farther(share, factor):
    """The nearest pixels, a share of all, moved away; hardly seen in the mean."""

    def alter(scores, depth):
        nearest = depth <= depth.flatten().kthvalue(int(share * depth.numel())).values
        depth[nearest] *= factor

    return alter


def erase_traffic_light(scores, depth):
    scores[:, 6] = 0


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (farther(0.05, 2.0), r"night: depth from 2\.\d+ to 3\.\d+ differs by 10\d\.\d% at the 95%"),
        (
            farther(0.08, 1.5),
            r"night: depth from 2\.\d+ to 3\.\d+ differs by 5[0-3]\.\d% at the 95%",
        ),
        (erase_traffic_light, r"night: IoU of traffic light is 0\.0% or more; expected 70%"),
    ],
    ids=["nearest_5_percent", "nearest_8_percent", "traffic_light"],
)
def test_small_faults_of_trained_networks_are_refused(nano, alter, reason):
    assert any(re.search(reason, fault) for fault in verdict_of_nano(nano, alter).faults)


class Fixed:
    """An engine that answers the same whatever it sees."""

    device = CPU

    backend = precision = "fixed"

    def __init__(self, variant, scores, depth=None):
        self.variant, self._scores = variant, scores
        self._depth = torch.ones(1, 64, 96) if depth is None else depth

    def __call__(self, crops, *, depth):
        return CropOutput(self._scores, self._depth)


def test_labels_are_compared_where_the_reference_is_decided(reference):
    scores = torch.full((1, 19, 64, 96), 0.1)
    scores[:, 0], scores[:, 1] = 0.5, 0.499
    level = scores.clone()
    level[:, 1] = 0.501
    variant = reference.variant
    assert check(Fixed(variant, level), Fixed(variant, scores), SHAPES[:1]).faults == ()
    scores[:, 1, :, 48:] = 0.4  # decided in the right half, and wrong in two columns of it
    seen = scores.clone()
    seen[:, 1, :, 48:50] = 0.51
    verdict = check(Fixed(variant, seen), Fixed(variant, scores), SHAPES[:1])
    assert verdict.agreement == pytest.approx(1 - 2 / 48)
    assert verdict.faults == ("96x64, night: labels agree on 95.83%; expected 99%",)


def test_wrong_sizes_are_refused(reference):
    small = Fixed(reference.variant, torch.zeros(1, 19, 32, 48))
    (fault,) = check(small, reference, SHAPES[:1]).faults
    assert "scores are (1, 19, 32, 48); expected (1, 19, 64, 96)" in fault


@pytest.mark.parametrize("name", IMAGES)
def test_the_shipped_images_are_streets_of_the_renderer(name):
    """How the files were made; rounding may differ between processors."""
    shipped = cv2.imread(str(self_check_folder() / f"{name}.png"))[..., ::-1]
    rendered = StreetDrive(HELD_OUT_SEEDS[0], name, 480, 360, frames=1)[0].rgb
    difference = np.abs(shipped.astype(int) - rendered)
    assert difference.mean() < 0.01
    assert (difference > 2).mean() < 1e-3


def test_images_are_reproducible_and_no_two_are_equal():
    images = check_images(Shape(64, 96, 4))
    assert images.shape == (4, 3, 64, 96)
    assert images.dtype == torch.uint8
    assert torch.equal(images, check_images(Shape(64, 96, 4)))
    assert images.float().std() > 20
    for first in range(4):
        for second in range(first):
            assert (images[first].float() - images[second].float()).abs().mean() > 5
