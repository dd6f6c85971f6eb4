# SPDX-License-Identifier: Apache-2.0
"""The configurations that claim the settings of DepthForge's authors, against those settings."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT
from runs import config_of
from torch.optim.lr_scheduler import LinearLR, OneCycleLR, PolynomialLR

from depthforge_ros.learning.augment import PAD_COLOR, augment, scale_factor
from depthforge_ros.learning.config import Decay, TrainConfig, read_config
from depthforge_ros.learning.loop import decay_groups, learning_rate
from depthforge_ros.learning.losses import Unlabelled, labels_at, point_weights
from depthforge_ros.learning.samples import Sample
from depthforge_ros.learning.train_command import build_task

SMALL = ("cityscapes_to_acdc", "gta5_to_cityscapes_bdd100k_mapillary")
LARGE = "cityscapes_to_acdc_1024"


def config(name: str) -> TrainConfig:
    return read_config(ROOT / "config" / "train" / f"{name}.yaml")


def image(height: int, width: int) -> Sample:
    labels = np.arange(height * width, dtype=np.uint32).reshape(height, width) % 19
    rgb = np.zeros((height, width, 3), np.uint8)
    return Sample(rgb, labels.astype(np.uint8), None, "d", "clear", "n")


@pytest.mark.parametrize(
    ("name", "crop", "most"), [(SMALL[0], 512, 2048), (SMALL[1], 512, 2048), (LARGE, 1024, 4096)]
)
def test_the_short_side_is_one_of_sixteen_equal_steps_drawn_evenly(
    name: str, crop: int, most: int
) -> None:
    settings = config(name).augment
    assert settings.crop == crop
    steps = [int(crop * x * 0.1) for x in range(5, 21)]
    assert (steps[0], steps[-1]) == (crop // 2, 2 * crop)
    rng = np.random.default_rng(0)
    street = image(1024, 2048)
    drawn = Counter(round(1024 * scale_factor(street, rng, settings)) for _ in range(3200))
    assert sorted(drawn) == steps
    expected = 3200 / 16
    chi2 = sum((count - expected) ** 2 / expected for count in drawn.values())
    assert chi2 < 37.7  # 0.1 % of fair draws exceed it (15 degrees of freedom)
    wide = image(100, 800)  # the long side has a limit
    factors = [scale_factor(wide, rng, settings) for _ in range(200)]
    assert max(factors) * 800 == pytest.approx(most)


def test_small_images_are_padded_with_the_mean_after_the_photometric_step() -> None:
    settings = replace(config(SMALL[0]).augment, short_sides_px=(256,), photometric=1.0)
    for seed in range(4):
        sample = augment(image(256, 256), np.random.default_rng(seed), settings)
        assert sample.rgb.shape == (512, 512, 3)
        assert (sample.rgb[256:] == PAD_COLOR).all()
        assert (sample.rgb[:, 256:] == PAD_COLOR).all()
        assert (sample.labels[256:] == 255).all()
        assert (sample.labels[:256, :256] != 255).all()


@pytest.mark.parametrize(("name", "steps"), [*zip(SMALL, (40000, 50000), strict=True)])
def test_the_rate_is_one_cycle_from_a_tenth_to_a_hundredth(name: str, steps: int) -> None:
    settings = config(name)
    assert (settings.variant, settings.steps, settings.lr) == ("dinov2_l", steps, 1e-4)
    assert settings.load_variant().crop == settings.augment.crop == 512
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = OneCycleLR(
        optimiser, 1e-4, total_steps=steps, pct_start=0.1, div_factor=10, final_div_factor=10
    )
    for step in (0, 1, 1000, steps // 10 - 1, steps // 10, 20000, steps - 2, steps - 1):
        theirs.last_epoch = step
        assert learning_rate(step, settings) == pytest.approx(theirs.get_lr()[0], rel=1e-9)
    assert learning_rate(0, settings) == pytest.approx(1e-5)
    assert learning_rate(steps - 1, settings) == pytest.approx(1e-6)


def test_crops_of_1024_warm_up_linearly_and_decay_polynomially() -> None:
    settings = config(LARGE)
    assert (settings.lr, settings.batch, settings.steps) == (6e-5, 2, 40000)
    variant = settings.load_variant()
    assert (variant.crop, variant.stride) == (1024, 683)
    parameter = [torch.nn.Parameter(torch.zeros(1))]
    linear = LinearLR(torch.optim.SGD(parameter, lr=6e-5), 1e-6, 1.0, total_iters=9999)
    poly = PolynomialLR(torch.optim.SGD(parameter, lr=6e-5), total_iters=29999, power=0.9)
    for scheduler, begin, steps in ((linear, 0, (0, 1, 5000, 9999)), (poly, 10000, (0, 1, 29999))):
        for step in steps:
            scheduler.last_epoch = step
            expected = scheduler._get_closed_form_lr()[0]
            assert learning_rate(begin + step, settings) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("name", [*SMALL, LARGE])
def test_the_remaining_settings_are_theirs(name: str) -> None:
    settings = config(name)
    assert settings.batch == (2 if name == LARGE else 5)
    assert settings.weight_decay == 0.05
    assert settings.decay is Decay.PAPER
    assert not settings.autocast
    assert (settings.clip_norm, settings.ema, settings.accumulate) == (None, None, 1)
    losses = settings.losses
    assert (losses.classes, losses.mask, losses.dice, losses.no_object) == (2.0, 5.0, 5.0, 0.1)
    assert (losses.points, losses.oversample, losses.importance) == (12544, 3, 0.75)
    assert losses.unlabelled is Unlabelled.BACKGROUND
    augmented = settings.augment
    assert (augmented.max_class_share, augmented.flip, augmented.photometric) == (0.75, 0.5, 1.0)
    assert (augmented.adverse, augmented.rare) == (0.0, 0.0)
    assert (augmented.antialias, augmented.exhaustive) == (False, False)


def test_the_authors_decay_biases_but_no_norm_token_scale_or_level_embedding(
    tmp_path: Path,
) -> None:
    task = build_task(config_of(tmp_path))
    names = {id(p): n.removeprefix("network.") for n, p in task.named_parameters()}
    decayed, free = decay_groups(task, 0.05, Decay.PAPER)
    without = {names[id(p)] for p in free["params"]}
    # Their norms (LayerNorm and GroupNorm), and the keys of their paramwise_cfg.
    assert {n for n in without if "norm" not in n} == {
        "tokens.a", "tokens.b", "tokens.scale", "mask_decoder.level_embed",
    }  # fmt: skip
    withs = {names[id(p)] for p in decayed["params"]}
    assert not any("norm" in name for name in withs)
    assert {
        "tokens.delta.bias", "pixel_decoder.level_encoding", "mask_decoder.class_head.bias",
    } <= withs  # fmt: skip


def test_unlabelled_pixels_weigh_nothing_or_are_background() -> None:
    labels = torch.tensor([[[3, 255], [3, 255]]], dtype=torch.uint8)
    points = torch.tensor([[[0.25, 0.25], [0.5, 0.5], [0.75, 0.75]]])
    ids, shares = labels_at(labels, torch.tensor([0]), points)
    settings = config(SMALL[0]).losses
    assert point_weights(ids, shares, settings).tolist() == [[1.0, 1.0, 1.0]]
    ours = replace(settings, unlabelled=Unlabelled.IGNORED)
    assert point_weights(ids, shares, ours).tolist() == [[1.0, 0.5, 0.0]]
