# SPDX-License-Identifier: Apache-2.0
"""Displays, posters and doorways on the facades of training images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from depthforge_ros.learning.augment import AugmentSettings, augment
from depthforge_ros.learning.facades import can_have_displays, with_displays
from depthforge_ros.learning.label_ids import BUILDING, ROAD, SKY
from depthforge_ros.learning.samples import Sample

SIZE, FOCAL_PX, GREY = 96, 80.0, 110
CENTRE = ((SIZE - 1) / 2, (SIZE - 1) / 2)


def street(condition: str = "clear") -> Sample:
    """A wall 12 m ahead, road before it, sky above: one grey."""
    labels = np.full((SIZE, SIZE), BUILDING, np.uint8)
    depth = np.full((SIZE, SIZE), 12.0, np.float32)
    labels[:20], depth[:20] = SKY, np.inf
    labels[58:], depth[58:] = ROAD, 6.0
    rgb = np.full((SIZE, SIZE, 3), GREY, np.uint8)
    return Sample(rgb, labels, depth, "a", condition, "wall", FOCAL_PX)


@pytest.mark.parametrize("condition", ["clear", "dusk", "night"])
def test_only_pixels_of_facades_change_and_nothing_else_of_the_sample(condition: str) -> None:
    sample = street(condition)
    changed = np.zeros((SIZE, SIZE), bool)
    for seed in range(12):
        result = with_displays(sample, CENTRE, np.random.default_rng(seed))
        assert np.array_equal(result.labels, sample.labels)
        assert np.array_equal(result.depth_m, sample.depth_m)
        changed |= (result.rgb != sample.rgb).any(-1)
    assert (sample.labels[changed] == BUILDING).all()
    assert changed.sum() > 0.3 * (sample.labels == BUILDING).sum()
    assert (sample.rgb == GREY).all()  # the given sample is unchanged


def test_a_board_on_a_wall_across_the_view_is_upright_and_has_its_size_in_metres() -> None:
    sample = street()
    sizes = []
    for seed in range(60):
        result = with_displays(sample, CENTRE, np.random.default_rng(seed))
        rows, columns = np.nonzero((result.rgb != sample.rgb).any(-1))
        if len(rows):
            metre = FOCAL_PX / 12.0
            sizes.append((np.ptp(columns) / metre, np.ptp(rows) / metre))
    widest, tallest = np.array(sizes).max(0)
    # The wall is 14.3 m wide and 5.6 m high in the image; one board alone at most 7 m and 4 m.
    assert 7.0 < widest <= 14.4
    assert 2.0 < tallest <= 5.7
    assert min(width for width, _ in sizes) < 3.0


def test_displays_glow_at_night_and_follow_the_light_by_day() -> None:
    dark = street("night")
    dark = dataclasses.replace(dark, rgb=np.full_like(dark.rgb, 12))
    day = dataclasses.replace(dark, condition="clear")
    brightest = [
        max(
            with_displays(sample, CENTRE, np.random.default_rng(seed)).rgb.max()
            for seed in range(9)
        )
        for sample in (dark, day)
    ]
    assert brightest[0] > 100
    assert brightest[1] < 50


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"condition": "night"}, True),
        ({"condition": "fog"}, False),
        ({"depth_m": None}, False),
        ({"focal_px": None}, False),
    ],
)
def test_only_samples_with_geometry_and_without_weather(change: dict, expected: bool) -> None:
    assert can_have_displays(dataclasses.replace(street(), **change)) is expected


def test_an_image_without_houses_stays_as_it_is() -> None:
    sample = street()
    sample = dataclasses.replace(sample, labels=np.full_like(sample.labels, ROAD))
    result = with_displays(sample, CENTRE, np.random.default_rng(1))
    assert np.array_equal(result.rgb, sample.rgb)


def test_augment_puts_displays_where_asked_and_draws_nothing_where_not() -> None:
    plain = AugmentSettings(crop=SIZE, scale=(1.0, 1.0), flip=0.0, photometric=0.0)
    without = augment(street(), np.random.default_rng(5), plain)
    assert (without.rgb == GREY).all()
    asked = dataclasses.replace(plain, displays=1.0)
    changed = sum(
        (augment(street(), np.random.default_rng(seed), asked).rgb != GREY).any()
        for seed in range(10)
    )
    assert changed >= 8
    with pytest.raises(ValueError, match=r"displays is 1.5; expected 0..1"):
        dataclasses.replace(plain, displays=1.5)
