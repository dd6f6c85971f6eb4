# SPDX-License-Identifier: Apache-2.0
"""Road users and signs of one image pasted into another."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from depthforge_ros.learning.augment import AugmentSettings
from depthforge_ros.learning.batches import BatchStream, Share
from depthforge_ros.learning.label_ids import BUILDING, ROAD, SKY, TRUCK
from depthforge_ros.learning.mix import mixed, mixes, toned
from depthforge_ros.learning.samples import Sample

SIZE = 64


def wall_at(depth_m: float, value: int) -> Sample:
    """A facade under a sky: one grey, one depth."""
    rgb = np.full((SIZE, SIZE, 3), value, np.uint8)
    labels = np.full((SIZE, SIZE), BUILDING, np.uint8)
    depth = np.full((SIZE, SIZE), depth_m, np.float32)
    labels[:16], depth[:16] = SKY, np.inf
    return Sample(rgb, labels, depth, "a", "clear", "wall", 60.0)


def with_truck(depth_m: float) -> Sample:
    """A truck of RGB (200, 40, 40) over sky and wall, on a road 8 m away."""
    sample = wall_at(40.0, 100)
    sample.labels[48:], sample.depth_m[48:] = ROAD, 8.0
    sample.labels[10:40, 20:50], sample.depth_m[10:40, 20:50] = TRUCK, depth_m
    sample.rgb[10:40, 20:50] = (200, 40, 40)
    return dataclasses.replace(sample, domain="b")


def pasted(sample: Sample, other: Sample) -> Sample:
    """The first of the seeds that pastes the truck, or the last sample."""
    for seed in range(20):
        result = mixed(sample, other, np.random.default_rng(seed))
        if (result.labels == TRUCK).any():
            return result
    return result


def test_a_truck_comes_with_its_colour_label_and_depth_and_nothing_else() -> None:
    sample = wall_at(30.0, 100)
    result = pasted(sample, with_truck(12.0))
    truck = np.zeros((SIZE, SIZE), bool)
    truck[10:40, 20:50] = True
    assert np.array_equal(result.labels == TRUCK, truck)
    assert (result.depth_m[truck] == 12.0).all()
    assert np.array_equal(result.labels[~truck], sample.labels[~truck])
    assert np.array_equal(result.depth_m[~truck], sample.depth_m[~truck])
    assert np.array_equal(result.rgb[~truck], sample.rgb[~truck])
    inside = result.rgb[15:35, 25:45].astype(int)
    assert (inside[..., 0] > 2 * inside[..., 1]).all()
    assert (sample.labels != TRUCK).all()  # the given sample is unchanged


def test_what_stands_behind_the_samples_own_wall_is_hidden_by_it() -> None:
    result = pasted(wall_at(10.0, 100), with_truck(12.0))
    truck = result.labels == TRUCK
    assert truck[10:16, 20:50].all()  # before the sky
    assert not truck[16:].any()


def test_brightness_follows_the_image_it_is_pasted_into() -> None:
    dark, bright = (pasted(wall_at(30.0, value), with_truck(12.0)) for value in (40, 200))
    reds = [result.rgb[20:30, 30:40, 0].mean() for result in (dark, bright)]
    assert reds[0] < 0.8 * reds[1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"condition": "dusk"}, True),
        ({"condition": "night"}, False),
        ({"depth_m": None}, False),
    ],
)
def test_only_daylight_with_depth_mixes(change: dict, expected: bool) -> None:
    assert mixes(dataclasses.replace(wall_at(30.0, 100), **change)) is expected


class Source:
    """One sample for ever."""

    def __init__(self, sample: Sample) -> None:
        self.sample, self.domain = sample, sample.domain

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return self.sample


@pytest.mark.parametrize(("mix", "least", "most"), [(0.0, 0, 0), (1.0, 5, 60)])
def test_a_stream_mixes_its_sources_as_often_as_asked(mix: float, least: int, most: int) -> None:
    sources = [Source(wall_at(30.0, 100)), Source(with_truck(12.0))]
    settings = AugmentSettings(crop=SIZE, scale=(1.0, 1.0), flip=0.0, photometric=0.0, mix=mix)
    stream = BatchStream(sources, (1.0, 1.0), settings, Share(1, 0, 1, 0), seed=3)
    samples = [stream.sample(number, []) for number in range(60)]
    walls = [sample for sample in samples if sample.domain == "a"]
    assert len(walls) > 15
    assert least <= sum((sample.labels == TRUCK).any() for sample in walls) <= most
    again = stream.sample(7, [])
    assert np.array_equal(again.rgb, samples[7].rgb)


def test_toned_takes_mean_and_spread_of_the_others_colours() -> None:
    rng = np.random.default_rng(2)
    sample, other = wall_at(30.0, 100), wall_at(30.0, 100)
    grey = rng.normal(100, 12, (SIZE, SIZE, 1)).repeat(3, axis=2)
    sample = dataclasses.replace(sample, rgb=grey.clip(0, 255).astype(np.uint8))
    warm = rng.normal(1, 0.1, (SIZE, SIZE, 1)) * (150, 110, 70)
    other = dataclasses.replace(other, rgb=warm.clip(0, 255).astype(np.uint8))
    result = toned(sample, other, 1.0)
    assert np.allclose(result.rgb.mean((0, 1)), other.rgb.mean((0, 1)), atol=4)
    assert result.labels is sample.labels
    assert result.depth_m is sample.depth_m
    half = toned(sample, other, 0.5).rgb.mean((0, 1))
    assert (np.sign(half - sample.rgb.mean((0, 1))) == (1, 1, -1)).all()
    assert np.abs(toned(sample, other, 0.0).rgb.astype(int) - sample.rgb).max() <= 1
