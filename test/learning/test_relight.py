# SPDX-License-Identifier: Apache-2.0
"""Daylight relit as night, snow, rain and fog."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from depthforge_ros.learning.augment import AugmentSettings, augment
from depthforge_ros.learning.label_ids import BUILDING, CAR, ROAD, SIDEWALK, SKY
from depthforge_ros.learning.relight import CHANGES, relight
from depthforge_ros.learning.relight.view import View, luma
from depthforge_ros.learning.samples import Sample

HEIGHT, WIDTH, FOCAL_PX, HEIGHT_M = 128, 160, 150.0, 1.4
CENTRE = ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)


@pytest.fixture(scope="module")
def day() -> Sample:
    """A road between two walls under a bright sky, a car on it."""
    labels = np.full((HEIGHT, WIDTH), SKY, np.uint8)
    depth_m = np.full((HEIGHT, WIDTH), np.inf, np.float32)
    v = np.arange(HEIGHT) - CENTRE[1]
    with np.errstate(divide="ignore"):
        ground = np.where(v > 2, FOCAL_PX * HEIGHT_M / np.maximum(v, 1e-3), np.inf)
    rows = ground < 80
    labels[rows], depth_m[rows] = ROAD, ground[rows, None]
    labels[rows, :20] = SIDEWALK
    labels[20:68, :50], depth_m[20:68, :50] = BUILDING, 40.0
    labels[60:80, 80:110], depth_m[60:80, 80:110] = CAR, 12.0
    rgb = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
    rgb[labels == SKY] = (200, 220, 250)
    rgb[labels == CAR] = (150, 40, 40)
    rgb = rgb + np.random.default_rng(0).integers(0, 20, rgb.shape, dtype=np.uint8)
    return Sample(rgb, labels, depth_m, "camvid", "clear", "one", FOCAL_PX)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_follows_from_its_seed_and_leaves_the_view_alone(day: Sample, name: str) -> None:
    view = View.of(day, CENTRE)
    light = view.light.copy()
    first, again, other = (CHANGES[name](view, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.dtype == np.uint8
    assert first.shape == day.rgb.shape
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(view.light, light)


def test_places_are_those_of_a_pinhole_camera(day: Sample) -> None:
    view = View.of(day, CENTRE)
    on_road = day.labels == ROAD
    np.testing.assert_allclose(view.y_m[on_road], HEIGHT_M, rtol=1e-4)
    left = view.x_m[100, 0]
    assert left == pytest.approx(-CENTRE[0] * day.depth_m[100, 0] / FOCAL_PX, rel=1e-4)


def test_at_night_the_sky_is_darker_than_the_ground_and_by_day_it_is_not(day: Sample) -> None:
    view = View.of(day, CENTRE)
    darker = 0
    for seed in range(12):
        brightness = luma(CHANGES["night"](view, np.random.default_rng(seed)).astype(np.float32))
        darker += brightness[view.sky].mean() < brightness[view.ground].mean()
    assert darker >= 9
    by_day = luma(day.rgb.astype(np.float32))
    assert by_day[view.sky].mean() > by_day[view.ground].mean()


def test_fog_takes_contrast_from_what_is_far(day: Sample) -> None:
    sample = dataclasses.replace(
        day, rgb=day.rgb.copy(), labels=day.labels.copy(), depth_m=day.depth_m.copy()
    )
    stripes = np.arange(WIDTH) % 2 == 0
    for top, depth in ((20, 200.0), (90, 3.0)):
        sample.rgb[top : top + 20, stripes] = 40
        sample.rgb[top : top + 20, ~stripes] = 160
        sample.depth_m[top : top + 20] = depth
    sample.labels[20:40] = BUILDING
    far, near = [], []
    for seed in range(8):
        rgb = CHANGES["fog"](View.of(sample, CENTRE), np.random.default_rng(seed)).astype(float)
        step = np.abs(np.diff(rgb[..., 1], axis=1))
        far.append(step[22:38].mean())
        near.append(step[92:108].mean())
    assert np.mean(far) < 0.5 * np.mean(near)


def test_snow_makes_the_sidewalk_brighter_than_a_cleared_road_never_darker(day: Sample) -> None:
    view = View.of(day, CENTRE)
    brighter = 0
    for seed in range(12):
        brightness = luma(CHANGES["snow"](view, np.random.default_rng(seed)).astype(np.float32))
        brighter += brightness[day.labels == SIDEWALK].mean() > brightness[view.ground].mean()
    assert brighter >= 9


def test_what_cannot_be_relit_is_left_to_the_other_augmentations(day: Sample) -> None:
    rng = np.random.default_rng(0)
    for change in ({"depth_m": None}, {"focal_px": None}, {"condition": "night"}):
        assert relight(dataclasses.replace(day, **change), CENTRE, rng) is None
    snowy = dataclasses.replace(day, condition="snow")
    assert {relight(snowy, CENTRE, rng).condition for _ in range(4)} == {"night"}


def test_a_crop_is_relit_with_the_geometry_of_the_whole_image(
    day: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Sample, tuple[float, float]]] = []

    def noted(sample: Sample, centre: tuple[float, float], rng: np.random.Generator) -> Sample:
        seen.append((sample, centre))
        return sample

    monkeypatch.setattr("depthforge_ros.learning.augment.relight", noted)
    settings = AugmentSettings(crop=64, scale=(1.0, 1.0), relight=1.0, flip=0.0)
    augment(day, np.random.default_rng(4), settings)
    ((crop, centre),) = seen
    on_road = crop.labels == ROAD
    assert on_road.any()
    v = np.nonzero(on_road)[0] - centre[1]
    np.testing.assert_allclose(v * crop.depth_m[on_road] / FOCAL_PX, HEIGHT_M, rtol=1e-3)


def test_a_relight_share_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"relight is 1\.5; expected 0\.\.1"):
        AugmentSettings(crop=64, relight=1.5)
