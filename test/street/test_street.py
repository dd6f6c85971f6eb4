# SPDX-License-Identifier: Apache-2.0
"""Street scenes: exact truth, repeatable, and each condition what its name says."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from depthforge_ros.street import (
    CONDITIONS,
    HELD_OUT_SEEDS,
    TRAIN_SEEDS,
    StreetDrive,
)
from depthforge_ros.street.camera import Camera
from depthforge_ros.street.lighting import make_lighting
from depthforge_ros.street.mesh import Mat, MeshBuilder
from depthforge_ros.street.raster import FIRST_PRIM, GBuffer, draw_mesh
from depthforge_ros.street.shade import Surface
from depthforge_ros.street.weather import add_air

SIZE = {"width": 160, "height": 96}


def linear(rgb: np.ndarray) -> np.ndarray:
    return (rgb / 255.0) ** 2.2


@pytest.fixture(scope="module")
def by_condition() -> dict:
    """Frame 5 of two streets under every condition."""
    return {
        (seed, condition): StreetDrive(seed=seed, condition=condition, **SIZE)[5]
        for seed in (3, 14)
        for condition in CONDITIONS
    }


def test_a_seed_repeats_and_another_differs():
    first, again = (StreetDrive(seed=7, condition="rain", **SIZE)[3] for _ in range(2))
    other = StreetDrive(seed=8, condition="rain", **SIZE)[3]
    assert first.rgb.tobytes() == again.rgb.tobytes()
    assert first.labels.tobytes() == again.labels.tobytes()
    assert first.depth_m.tobytes() == again.depth_m.tobytes()
    assert (first.labels != other.labels).mean() > 0.05
    assert first.rgb.dtype == np.uint8
    assert first.labels.dtype == np.uint8
    assert first.depth_m.dtype == np.float32


def test_another_process_gives_the_same_bytes():
    code = (
        "import hashlib; from depthforge_ros.street import StreetDrive;"
        "f = StreetDrive(seed=5, condition='snow', width=96, height=64)[2];"
        "print(hashlib.sha256(f.rgb.tobytes() + f.depth_m.tobytes()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_indexing_equals_iteration_in_any_order():
    drive = StreetDrive(seed=21, condition="snow", width=96, height=64, frames=4, rate_hz=5.0)
    assert len(drive) == 4
    backwards = {i: drive[i] for i in (3, 1, 0, 2)}
    for i, frame in enumerate(drive):
        assert frame.rgb.tobytes() == backwards[i].rgb.tobytes()
        assert frame.labels.tobytes() == backwards[i].labels.tobytes()
        assert frame.depth_m.tobytes() == backwards[i].depth_m.tobytes()
        assert frame.stamp_ns - drive[0].stamp_ns == i * 200_000_000
    assert drive[-1].stamp_ns == backwards[3].stamp_ns
    with pytest.raises(IndexError, match="frame 4 is not in a drive of 4 frames"):
        drive[4]


def test_a_drive_moves_and_stays_coherent():
    drive = StreetDrive(seed=2, rate_hz=100.0, **SIZE)
    a, b, later = drive[0], drive[1], drive[50]
    assert not np.array_equal(a.rgb, b.rgb)
    near, far = ((a.labels != f.labels).mean() for f in (b, later))
    assert near < 0.05
    assert far > 2 * near
    steps = [drive.camera(i).position[0] for i in range(60)]
    assert (np.diff(steps) > 0).all()


def test_a_long_drive_does_not_run_out_of_street():
    drive = StreetDrive(seed=2, frames=1200, **SIZE)
    last = drive[1199]
    ids, counts = np.unique(last.labels, return_counts=True)
    share = dict(zip(ids.tolist(), (counts / last.labels.size).tolist(), strict=True))
    assert share[0] > 0.15
    assert share[2] > 0.02
    assert len(ids) >= 8


def test_fifteen_classes_and_more_over_a_few_streets():
    seen: set[int] = set()
    for seed in range(6):
        drive = StreetDrive(seed=seed, width=320, height=192)
        for i in (0, 30):
            ids, counts = np.unique(drive[i].labels, return_counts=True)
            seen |= set(ids[counts >= 4].tolist())
    assert seen <= {*range(19), 255}
    assert len(seen - {255}) >= 15
    assert {0, 1, 2, 5, 8, 10, 11, 12, 13} <= seen


@pytest.mark.parametrize("seed", [3, 14, 29])
def test_sky_is_infinite_and_nothing_else_is(seed):
    frame = StreetDrive(seed=seed, **SIZE)[0]
    assert np.array_equal(np.isposinf(frame.depth_m), frame.labels == 10)
    known = frame.depth_m[frame.labels != 10]
    assert (known >= 0.25).all()
    assert (known < 1501).all()


@pytest.mark.parametrize("seed", [3, 14, 29])
def test_road_depth_is_the_ground_plane_seen_by_the_camera(seed):
    drive = StreetDrive(seed=seed, **SIZE)
    frame, camera = drive[7], drive.camera(7)
    v, u = np.nonzero(frame.labels == 0)
    assert len(v) > 1000
    k = frame.intrinsics
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones(len(u))])  # [3, N]
    world = camera.rotation.T @ (rays * frame.depth_m[v, u]) + camera.position[:, None]
    near = frame.depth_m[v, u] < 60
    assert np.abs(world[2, near]).max() < 1e-3  # the carriageway is z = 0


def test_a_box_at_a_known_distance_has_its_known_depth():
    k = np.array([[200.0, 0, 79.5], [0, 200.0, 47.5], [0, 0, 1.0]])
    camera = Camera.looking(160, 96, k, np.array([0.0, 0.0, 1.0]), 0.0, 0.0, 0.0)
    b = MeshBuilder()
    b.box((10.0, -1.0, 0.0), (12.0, 1.0, 2.0), 13, Mat.PLAIN, (0.5, 0.5, 0.5))
    g = GBuffer.empty(96, 160)
    draw_mesh(g, camera, b.build())
    hit = g.prim >= FIRST_PRIM
    np.testing.assert_allclose(1.0 / g.inv_z[hit], 10.0, rtol=1e-6)
    # 2 m at 10 m and 200 px focal length are 40 px on a side, centred on the principal point.
    rows, columns = np.nonzero(hit)
    assert (columns.min(), columns.max()) == (60, 99)
    assert (rows.min(), rows.max()) == (28, 67)


def test_a_turned_wall_has_the_depth_of_its_plane_and_is_clipped_at_the_camera():
    k = np.array([[100.0, 0, 79.5], [0, 100.0, 47.5], [0, 0, 1.0]])
    camera = Camera.looking(160, 96, k, np.array([0.0, 0.0, 1.0]), 0.1, 0.05, 0.02)
    b = MeshBuilder()
    b.face([(-5, 2, -3), (30, 2, -3), (30, 2, 6), (-5, 2, 6)], 3, Mat.PLAIN, (0.5,) * 3,
           two_sided=True)  # fmt: skip
    g = GBuffer.empty(96, 160)
    draw_mesh(g, camera, b.build())
    v, u = np.nonzero(g.inv_z > 0)
    assert len(v) > 2000
    rays = np.stack([(u - 79.5) / 100, (v - 47.5) / 100, np.ones(len(u))])  # [3, N]
    world = camera.rotation.T @ (rays / g.inv_z[v, u]) + camera.position[:, None]
    np.testing.assert_allclose(world[1], 2.0, atol=1e-4)
    assert world[0].max() < 30.0


def test_a_ball_is_as_near_as_its_front():
    k = np.array([[200.0, 0, 80.0], [0, 200.0, 48.0], [0, 0, 1.0]])
    camera = Camera.looking(160, 96, k, np.zeros(3), 0.0, 0.0, 0.0)
    b = MeshBuilder()
    b.capsule((8.0, 0.0, 0.0), (8.0, 0.0, 0.0), 0.5, 0.5, 11, Mat.CLOTH, (0.5,) * 3)
    g = GBuffer.empty(96, 160)
    draw_mesh(g, camera, b.build())
    assert 1.0 / g.inv_z[48, 80] == pytest.approx(7.5, abs=1e-4)
    assert np.count_nonzero(g.prim) == pytest.approx(np.pi * 12.5**2, rel=0.05)


def test_conditions_change_light_only(by_condition):
    for seed in (3, 14):
        clear = by_condition[seed, "clear"]
        for condition in CONDITIONS[1:]:
            frame = by_condition[seed, condition]
            assert frame.labels.tobytes() == clear.labels.tobytes()
            assert frame.depth_m.tobytes() == clear.depth_m.tobytes()
            assert np.array_equal(frame.intrinsics, clear.intrinsics)
            assert frame.condition == condition
            assert np.abs(frame.rgb.astype(int) - clear.rgb).mean() > 8


def test_night_is_dark_above_and_snow_whitens_the_pavement(by_condition):
    for seed in (3, 14):
        frames = {c: by_condition[seed, c] for c in CONDITIONS}
        sky = frames["clear"].labels == 10
        mean = {c: linear(f.rgb).mean() for c, f in frames.items()}
        assert mean["night"] < 0.75 * mean["clear"]
        above = {c: linear(f.rgb)[sky].mean() for c, f in frames.items()}
        assert above["night"] < 0.15 * above["clear"]
        ground = np.isin(frames["clear"].labels, (0, 1))
        share = {c: linear(frames[c].rgb)[ground].mean() / mean[c] for c in ("clear", "snow")}
        assert share["snow"] > 1.3 * share["clear"]


def test_fog_is_koschmieders_law():
    light = dataclasses.replace(make_lighting(1, "fog"), extinction=0.03, air=np.full(3, 0.7))
    k = np.array([[100.0, 0, 79.5], [0, 100.0, 47.5], [0, 0, 1.0]])
    camera = Camera.looking(160, 96, k, np.zeros(3), 0.0, 0.0, 0.0)
    depth = np.repeat(np.linspace(2, 150, 96, dtype=np.float32)[:, None], 160, axis=1)
    zero = [np.zeros(depth.size, np.float32)] * 3
    surface = Surface(
        zero[0], zero[0], zero[0], depth.ravel(), zero, zero, zero, zero[0],
        np.zeros(depth.size, np.uint8),
    )  # fmt: skip
    dark = [np.full(depth.shape, 0.1, np.float32) for _ in range(3)]
    bright = [np.full(depth.shape, 0.9, np.float32) for _ in range(3)]
    for image in (dark, bright):
        add_air(image, surface, camera, light)
    x, y = np.meshgrid((np.arange(160) - 79.5) / 100, (np.arange(96) - 47.5) / 100)
    through = np.exp(-0.03 * depth * np.sqrt(1 + x * x + y * y))
    np.testing.assert_allclose(bright[0] - dark[0], 0.8 * through, rtol=1e-4)
    np.testing.assert_allclose(dark[2], 0.1 * through + 0.7 * (1 - through), rtol=1e-4)


def test_fog_takes_contrast_from_what_is_far():
    drive = StreetDrive(seed=14, condition="fog", **SIZE)
    drive.lighting = dataclasses.replace(
        drive.lighting, extinction=0.08, noise=0.0, vignette=0.0, glow=0.0
    )
    frame = drive[5]
    far = (frame.depth_m > 80) & np.isfinite(frame.depth_m)  # exp(-6.4) of the contrast is left
    near = frame.depth_m < 15
    assert far.sum() > 50
    assert frame.rgb[far].std(axis=0).max() < 2.0
    assert frame.rgb[near].std(axis=0).min() > 6.0


@pytest.mark.parametrize("size", [(64, 48), (65, 49), (333, 77), (101, 203), (2048, 1024)])
def test_any_size(size):
    width, height = size
    frame = StreetDrive(seed=4, condition="night", width=width, height=height, frames=1)[0]
    assert frame.rgb.shape == (height, width, 3)
    assert frame.labels.shape == frame.depth_m.shape == (height, width)
    assert len(np.unique(frame.labels)) >= 4
    assert 0.3 * width < frame.intrinsics[0, 0]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"seed": -1}, "seed -1 is not between 0"),
        ({"seed": 1.5}, "seed 1.5 is not an integer"),
        ({"condition": "hail"}, "condition 'hail' is not one of clear, dusk, night"),
        ({"width": 63}, "width 63 is not between 64 and 2048"),
        ({"height": 1025}, "height 1025 is not between 48 and 1024"),
        ({"frames": 0}, "frames 0 is not between 1"),
        ({"frames": 700, "rate_hz": 1.0}, "frames 700 at rate_hz 1 last longer than 600 s"),
        ({"rate_hz": "10"}, "rate_hz '10' is not between"),
        ({"rate_hz": 0.0}, "rate_hz 0.0 is not between 0.1 and 1000"),
        ({"rate_hz": float("nan")}, "rate_hz nan is not between"),
    ],
)
def test_bad_arguments_are_named(argument, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        StreetDrive(**argument)


def test_training_and_held_out_seeds_are_disjoint():
    assert not set(HELD_OUT_SEEDS) & set(TRAIN_SEEDS)
    assert (len(TRAIN_SEEDS), len(HELD_OUT_SEEDS)) == (100_000, 100)


def test_heavy_traffic_has_trams_and_lorries_and_the_same_street():
    usual = np.zeros(256, int)
    heavy = np.zeros(256, int)
    for seed in range(8):
        for counts, is_heavy in ((usual, False), (heavy, True)):
            frame = StreetDrive(seed=seed, width=160, height=96, frames=1, heavy=is_heavy)[0]
            counts += np.bincount(frame.labels.ravel(), minlength=256)
    assert heavy[16] > 200  # trams
    assert heavy[14] + heavy[15] > usual[14] + usual[15]  # trucks and buses
    for label in (0, 2, 10):  # road, building and sky stay the larger part of the picture
        assert heavy[label] > 0.6 * usual[label]
