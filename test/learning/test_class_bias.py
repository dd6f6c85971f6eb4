# SPDX-License-Identifier: Apache-2.0
"""The class head's bias is shifted to where mIoU is highest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from depthforge_ros.learning import class_bias
from depthforge_ros.learning.class_bias import Seen, best_shift, mean_iou, seen
from depthforge_ros.learning.samples import Sample
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.weights import read_weights, save_weights
from depthforge_ros.variant import load_variant

CLASSES = 3


def answers(logits: list[list[float]], truth: list[int], weight: list[float]) -> Seen:
    """One query a pixel, each sure of its own pixel; logits [P, K + 1]."""
    return Seen(
        torch.tensor(logits), torch.eye(len(logits)), torch.tensor(truth), torch.tensor(weight)
    )


def test_mean_iou_counts_the_pixels_that_each_kept_one_stands_for() -> None:
    image = answers([[3, 0, -9, -9], [3, 0, -9, -9], [0, 3, -9, -9]], [0, 1, 1], [10.0, 30.0, 10.0])
    # Class 0: 10 of 10 + 30. Class 1: 10 of 40. Class 2 occurs nowhere.
    assert mean_iou([image], torch.zeros(CLASSES)) == pytest.approx((0.25 + 0.25) / 2)
    assert mean_iou([image], torch.tensor([-4.0, 0, 0])) == pytest.approx((0 + 40 / 50) / 2)


def test_a_class_that_gets_too_much_is_lowered_until_it_stops() -> None:
    # Class 1 wins two pixels of class 0 by 0.5, and its own by 2.
    image = answers(
        [[0.0, 0.5, -9, -9], [0.0, 0.5, -9, -9], [0.0, 2.0, -9, -9]], [0, 0, 1], [50.0, 50.0, 5.0]
    )
    shift, before, after = best_shift([[image]], CLASSES)
    assert before == pytest.approx((0 + 5 / 105) / 2)
    assert after == 1.0
    assert 0.5 < shift[0] - shift[1] < 2.0
    assert shift[2] == 0


def test_nothing_moves_where_all_is_right() -> None:
    image = answers([[3.0, 0, 0, 0], [0.0, 3, 0, 0]], [0, 1], [1.0, 1.0])
    shift, before, after = best_shift([[image], [image]], CLASSES)
    assert before == after == 1.0
    assert not shift.any()


@pytest.fixture(scope="module")
def network() -> DepthForge:
    torch.manual_seed(0)
    return DepthForge(load_variant("nano")).eval()


def test_seen_gives_the_networks_scores_at_pixels_of_every_class(network: DepthForge) -> None:
    side = network.variant.crop
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    labels = np.zeros((side, side), np.uint8)
    labels[:2, :5], labels[-8:] = 11, 255
    sample = Sample(rgb, labels, None, "a", "clear", "image", None)
    image = seen(network, sample, rng)
    kept = class_bias.PIXELS_A_CLASS
    assert image.truth.tolist() == [0] * kept + [11] * 10
    assert image.weight[kept:].tolist() == [1.0] * 10
    assert image.weight[:kept].sum() == pytest.approx(side * side - 10 - 8 * side, rel=1e-4)
    with torch.inference_mode():
        scores, _ = network(torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None], depth=False)
    classes = image.class_logits.softmax(-1)[:, :-1]
    found = (image.masks @ classes)[kept:]  # the ten pixels of class 11, in some order
    expected = scores[0, :, :2, :5].flatten(1).T
    assert torch.allclose(found.sort(0).values, expected.sort(0).values, atol=1e-5)


def test_the_command_writes_weights_that_differ_in_the_bias_alone(
    network: DepthForge, tmp_path, monkeypatch, capsys
) -> None:
    before, after = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    save_weights(network.state_dict(), network.variant, before)
    shift = torch.linspace(-1, 1, 19)
    monkeypatch.setattr(class_bias, "best_shift", lambda groups, classes: (shift, 0.25, 0.5))
    assert class_bias.main(["nano", str(before), str(after), "--streets", "1"]) == 0
    assert "mIoU 25.0 -> 50.0 %" in capsys.readouterr().out
    old, new = read_weights(before)[0], read_weights(after)[0]
    name = "mask_decoder.class_head.bias"
    assert torch.allclose(new[name] - old[name], torch.cat([shift, torch.zeros(1)]), atol=1e-6)
    assert all(torch.equal(old[key], new[key]) for key in old if key != name)
