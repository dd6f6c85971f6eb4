# SPDX-License-Identifier: Apache-2.0
"""Augmentation: what moves together, what is random, and what the random depends on."""

import dataclasses

import numpy as np
import pytest

from depthforge_ros.learning.augment import (
    PAD_COLOR,
    AugmentSettings,
    adverse,
    augment,
    mixed_corners,
    photometric,
    resized,
)
from depthforge_ros.learning.batches import BatchStream, Share, load_batches
from depthforge_ros.learning.samples import Sample, UnreadableImageError

GEOMETRY = AugmentSettings(crop=64, scale=(0.5, 2.0), photometric=0.0, adverse=0.0)


def coded_sample(height: int = 96, width: int = 160) -> Sample:
    """Blocks of 16 pixels whose number stands in colour, label and depth alike."""
    y, x = np.mgrid[:height, :width] // 16
    block = (y * (width // 16) + x).astype(np.uint8)
    rgb = np.stack([block, block, block], axis=-1)
    return Sample(rgb, block % 19, block.astype(np.float32), "d", "clear", "n", 200.0)


@pytest.mark.parametrize("seed", range(8))
def test_colour_label_and_depth_of_a_pixel_stay_together(seed):
    sample = augment(coded_sample(), np.random.default_rng(seed), GEOMETRY)
    assert sample.rgb.shape == (64, 64, 3)
    known = sample.labels != 255
    assert known.mean() > 0.25
    depth = sample.depth_m[known]
    assert (sample.labels[known] == depth.astype(int) % 19).all()
    # Colour is interpolated at the edges of the blocks; inside them it is the block's number.
    assert np.mean(np.abs(sample.rgb[known][:, 0] - depth) < 0.5) > 0.7
    assert np.isnan(sample.depth_m[~known]).all()
    assert (sample.rgb[~known] == PAD_COLOR).all()


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_scaling_changes_the_focal_length_and_not_the_metres(factor):
    sample = coded_sample()
    scaled = resized(sample, factor)
    assert scaled.labels.shape == (96 * factor, 160 * factor)
    assert scaled.focal_px == 200.0 * factor
    assert set(np.unique(scaled.depth_m)) == set(np.unique(sample.depth_m))
    assert set(np.unique(scaled.labels)) <= set(range(19))


def test_short_side_comes_before_the_random_scale():
    settings = dataclasses.replace(GEOMETRY, short_side_px=48, scale=(1.0, 1.0))
    sample = augment(coded_sample(), np.random.default_rng(0), settings)
    assert sample.focal_px == 100.0
    assert (sample.labels[48:] == 255).all()  # 48 x 80 fits the crop only when padded
    assert (sample.labels[:48] != 255).all()


def test_flip_mirrors_and_has_the_probability_that_was_asked_for():
    sample = coded_sample(64, 64)
    always = dataclasses.replace(GEOMETRY, scale=(1.0, 1.0), flip=1.0)
    flipped = augment(sample, np.random.default_rng(0), always)
    for name in ("rgb", "labels", "depth_m"):
        np.testing.assert_array_equal(getattr(flipped, name), getattr(sample, name)[:, ::-1])
    half = dataclasses.replace(always, flip=0.5)
    rng = np.random.default_rng(0)
    count = sum(augment(sample, rng, half).labels[0, 0] != sample.labels[0, 0] for _ in range(200))
    assert 70 < count < 130


def one_corner(width: int = 640) -> Sample:
    """Road all over, but for one corner that is car: a random crop hardly ever finds it."""
    labels = np.zeros((320, width), np.uint8)
    labels[-40:, -40:] = 13
    rgb = np.zeros((320, width, 3), np.uint8)
    return Sample(rgb, labels, None, "d", "clear", "n")


@pytest.mark.parametrize("seed", range(5))
def test_no_crop_has_more_of_one_class_than_allowed_where_that_can_be(seed):
    settings = dataclasses.replace(GEOMETRY, scale=(1.0, 1.0))
    sample = augment(one_corner(), np.random.default_rng(seed), settings)
    share = np.bincount(sample.labels.ravel(), minlength=256)[:255].max() / (64 * 64)
    assert share <= 0.75
    plain = dataclasses.replace(one_corner(), labels=np.zeros((320, 640), np.uint8))
    assert (augment(plain, np.random.default_rng(seed), settings).labels == 0).all()


@pytest.mark.parametrize(("rare", "least", "most"), [(0.0, 0.0, 0.2), (1.0, 0.4, 0.7)])
def test_rare_crops_hold_every_class_of_the_image_about_as_often(rare, least, most):
    settings = dataclasses.replace(GEOMETRY, scale=(1.0, 1.0), max_class_share=1.0, rare=rare)
    crops = [augment(one_corner(), np.random.default_rng(n), settings) for n in range(100)]
    assert {crop.labels.shape for crop in crops} == {(64, 64)}
    assert least <= np.mean([(crop.labels == 13).any() for crop in crops]) <= most


def test_a_rare_crop_of_an_unlabelled_image_is_any_crop():
    unlabelled = dataclasses.replace(one_corner(), labels=np.full((320, 640), 255, np.uint8))
    settings = dataclasses.replace(GEOMETRY, rare=1.0)
    assert (augment(unlabelled, np.random.default_rng(0), settings).labels == 255).all()


def test_mixed_corners_are_those_that_counting_finds():
    rng = np.random.default_rng(1)
    labels = np.kron(rng.choice([0, 0, 0, 2, 255], (6, 9)), np.ones((20, 20))).astype(np.uint8)
    found = {tuple(corner) for corner in mixed_corners(labels, 64, 0.75).tolist()}
    expected = set()
    for y in {*range(0, 120 - 64, 16), 120 - 64}:
        for x in {*range(0, 180 - 64, 16), 180 - 64}:
            crop = labels[y : y + 64, x : x + 64]
            counts = [(crop == class_id).sum() for class_id in (0, 2)]
            if sum(counts) and max(counts) <= 0.75 * sum(counts):
                expected.add((y, x))
    assert found == expected
    assert 0 < len(expected) < 40


def test_unlabelled_pixels_do_not_count_towards_a_class():
    labels = np.full((64, 64), 255, np.uint8)
    labels[:8, :8], labels[:8, 8:16] = 0, 1
    assert mixed_corners(labels, 64, 0.5).tolist() == [[0, 0]]
    assert mixed_corners(np.full_like(labels, 255), 64, 0.5).tolist() == []


@pytest.mark.parametrize("change", [photometric, adverse])
def test_light_changes_only_the_image(change):
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    kept = rgb.copy()
    results = [change(rgb, np.random.default_rng(seed)) for seed in range(12)]
    np.testing.assert_array_equal(rgb, kept)
    assert all(image.shape == rgb.shape and image.dtype == np.uint8 for image in results)
    assert len({image.tobytes() for image in results}) >= 10
    np.testing.assert_array_equal(change(rgb, np.random.default_rng(3)), results[3])


class Numbered:
    """A source whose samples carry their index; index 3 cannot be read."""

    domain = "numbered"

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Sample:
        if index == 3:
            raise UnreadableImageError("three.png: truncated")
        labels = np.full((64, 96), index, np.uint8)
        labels[:, ::2] = 11
        return Sample(labels[..., None].repeat(3, 2), labels, None, "numbered", "clear", str(index))


def batches(share: Share, workers: int = 0, seed: int = 5) -> list:
    settings = AugmentSettings(crop=32, adverse=0.5)
    stream = BatchStream([Numbered(), Numbered()], [3.0, 1.0], settings, share, seed)
    return list(load_batches(stream, workers))


def test_a_sample_depends_on_its_number_alone():
    whole = batches(Share(batch=4, first=0, every=1, end=6))
    assert [batch.numbers for batch in whole] == [tuple(range(n, n + 4)) for n in range(0, 24, 4)]
    two_processes = [batches(Share(batch=4, first=rank, every=2, end=6)) for rank in (0, 1)]
    restarted = batches(Share(batch=4, first=3, every=1, end=6))
    in_workers = batches(Share(batch=4, first=0, every=1, end=6), workers=2)
    double = batches(Share(batch=8, first=0, every=1, end=3))

    def same(a, b) -> bool:
        return bool((a.images == b.images).all()) and bool((a.labels == b.labels).all())

    assert all(same(a, b) for a, b in zip(in_workers, whole, strict=True))
    assert all(same(a, b) for a, b in zip(restarted, whole[3:], strict=True))
    for rank in (0, 1):
        assert all(same(a, b) for a, b in zip(two_processes[rank], whole[rank::2], strict=True))
    assert (double[0].images[4:] == whole[1].images).all()
    other = batches(Share(batch=4, first=0, every=1, end=6), seed=6)
    assert not any(same(a, b) for a, b in zip(other, whole, strict=True))


def test_unreadable_images_are_replaced_and_told():
    made = batches(Share(batch=8, first=0, every=1, end=10))
    skipped = [text for batch in made for text in batch.skipped]
    assert skipped
    assert set(skipped) == {"three.png: truncated"}
    assert all(len(batch.names) == 8 and "numbered/3" not in batch.names for batch in made)
