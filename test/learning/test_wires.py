# SPDX-License-Identifier: Apache-2.0
"""Overhead wires in training images, and the star that a bright lamp draws."""

from __future__ import annotations

import dataclasses

import numpy as np

from depthforge_ros.learning.augment import AugmentSettings, augment
from depthforge_ros.learning.label_ids import BUILDING, CAR, ROAD, SKY
from depthforge_ros.learning.relight.camera import star
from depthforge_ros.learning.samples import Sample
from depthforge_ros.learning.wires import with_wires

SIZE, GREY = 96, 180
CENTRE = (47.5, 47.5)


def street() -> Sample:
    """Sky over a far house over a road; a near house on the left, a car on the right: one grey."""
    labels = np.full((SIZE, SIZE), SKY, np.uint8)
    depth = np.full((SIZE, SIZE), np.inf, np.float32)
    labels[36:54], depth[36:54] = BUILDING, 30.0
    labels[54:], depth[54:] = ROAD, 6.0
    labels[:54, :20], depth[:54, :20] = BUILDING, 5.0
    labels[:54, 80:], depth[:54, 80:] = CAR, 20.0
    rgb = np.full((SIZE, SIZE, 3), GREY, np.uint8)
    return Sample(rgb, labels, depth, "a", "clear", "street", 80.0)


def test_wires_darken_sky_and_far_houses_alone_and_change_neither_labels_nor_depth() -> None:
    sample = street()
    changed = np.zeros((SIZE, SIZE), bool)
    for seed in range(40):
        result = with_wires(sample, CENTRE, np.random.default_rng(seed))
        assert result.labels is sample.labels
        assert result.depth_m is sample.depth_m
        assert (result.rgb <= GREY).all()
        changed |= (result.rgb < GREY).any(-1)
    assert changed[:36, 20:80].mean() > 0.5
    assert changed[36:54, 20:80].any()
    assert not changed[54:].any()  # road
    assert not changed[:, :20].any()  # a house that is nearer than the wires
    assert not changed[:, 80:].any()  # a car


def test_wires_are_thin() -> None:
    shares = [
        (with_wires(street(), CENTRE, np.random.default_rng(seed)).rgb < GREY - 20).any(-1).mean()
        for seed in range(30)
    ]
    assert 0.001 < np.mean(shares) < 0.08


def test_wires_hang_where_the_depth_is_unknown() -> None:
    sample = dataclasses.replace(street(), depth_m=None)
    results = [with_wires(sample, CENTRE, np.random.default_rng(seed)) for seed in range(30)]
    assert any((result.rgb[:36, :20] < GREY).any() for result in results)


def test_augment_hangs_wires_where_asked() -> None:
    settings = AugmentSettings(crop=SIZE, scale=(1.0, 1.0), flip=0.0, photometric=0.0, wires=1.0)
    dark = [
        (augment(street(), np.random.default_rng(seed), settings).rgb < GREY).any()
        for seed in range(12)
    ]
    assert sum(dark) >= 9


def test_a_stars_rays_pass_through_the_source_and_keep_its_colour() -> None:
    bright = np.zeros((SIZE, SIZE, 3), np.float32)
    bright[48, 48] = (4.0, 2.0, 1.0)
    rays = star(bright, np.random.default_rng(3))
    lit = rays.sum(-1) > 1e-4 * rays.sum()
    assert rays[48, 48, 0] == rays[..., 0].max() > 0
    assert 5 < lit.sum() < 0.1 * SIZE * SIZE
    assert np.allclose(rays[lit][:, 0], 2 * rays[lit][:, 1], rtol=1e-3)
    distance = np.hypot(*(np.argwhere(lit) - 48).T)
    assert distance.max() > 0.03 * SIZE
