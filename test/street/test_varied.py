# SPDX-License-Identifier: Apache-2.0
"""Varied streets: each addition is seen, and those of light and paint leave the truth as it is."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from depthforge_ros.learning.street_cache import RenderSettings, render_drive
from depthforge_ros.street import HELD_OUT_SEEDS, StreetDrive, StreetFrame
from depthforge_ros.street.camera import Camera
from depthforge_ros.street.lamps import SODIUM, lamp_light
from depthforge_ros.street.lighting import make_lighting
from depthforge_ros.street.mesh import SIZE, Mat
from depthforge_ros.street.noise import stream
from depthforge_ros.street.road import random_road
from depthforge_ros.street.shops import dress
from depthforge_ros.street.variety import make_variety
from depthforge_ros.street.wires import draw_wires

SMALL = {"width": 192, "height": 144, "frames": 1}
BUILDING, POLE, SIGN, SKY = 2, 5, 7, 10


def quiet(seed: int, condition: str = "clear", **fields: object) -> StreetFrame:
    """A varied frame without sensor noise; `fields` change the world or its variety."""
    drive = StreetDrive(seed, condition, varied=True, **SMALL)
    world = drive.world
    if "wires" in fields:
        world = replace(world, wires=fields.pop("wires"))
    if "yellow_zebras" in fields:
        yellow = fields.pop("yellow_zebras")
        world = replace(world, road=replace(world.road, yellow_zebras=yellow))
    drive.world = replace(world, variety=replace(world.variety, **fields))
    drive.lighting = replace(drive.lighting, noise=0.0, adapt=0.0)
    return drive[0]


def same_truth(a: StreetFrame, b: StreetFrame) -> bool:
    return a.labels.tobytes() == b.labels.tobytes() and a.depth_m.tobytes() == b.depth_m.tobytes()


def test_a_street_without_the_flag_is_what_it_was():
    digest = hashlib.sha256()
    for seed in HELD_OUT_SEEDS[:3]:
        drive = StreetDrive(seed, "night", 64, 48, frames=1)
        digest.update(drive[0].labels.tobytes())
        assert drive.world.variety is None
        assert len(drive.world.wires) == 0
        assert drive.lighting.bulb is None
    assert digest.hexdigest()[:16] == "b7633d9a234067fa"


def test_additions_stand_in_a_share_of_the_streets_and_in_no_street_all():
    drawn = [make_variety(seed, random_road(stream(seed, 0))) for seed in range(200)]
    for share in (
        np.mean([bool(v.tracks) for v in drawn]),
        np.mean([v.wires for v in drawn]),
        np.mean([v.yellow_zebras for v in drawn]),
        np.mean([bool(v.arrows) for v in drawn]),
        np.mean([v.teeth is not None for v in drawn]),
        np.mean([v.shops > 0 for v in drawn]),
    ):
        assert 0.15 < share < 0.9
    assert make_variety(3, random_road(stream(3, 0))) == drawn[3]


def test_rails_darken_the_road_and_keep_labels_and_depth():
    laid, bare = quiet(8, shine=0.0, bed=1.0), quiet(8, tracks=())
    assert same_truth(laid, bare)
    change = laid.rgb.astype(int).sum(axis=2) - bare.rgb.astype(int).sum(axis=2)
    darker = change < -15
    assert darker.sum() > 100
    assert (laid.labels[darker] == 0).mean() > 0.97
    assert change[laid.labels == 0].max() <= 3


def test_wires_are_seen_before_the_sky_and_keep_labels_and_depth():
    hung, bare = quiet(5), quiet(5, wires=np.empty((0, 7)))
    assert same_truth(hung, bare)
    changed = np.abs(hung.rgb.astype(int) - bare.rgb).max(axis=2) > 6
    assert (changed & (hung.labels == SKY)).sum() > 40
    assert not changed[hung.labels == 0].any()
    assert changed.mean() < 0.1


def test_a_wire_covers_its_share_of_a_pixel_and_hides_behind_what_is_nearer():
    k = np.array([[100.0, 0, 31.5], [0, 100.0, 23.5], [0, 0, 1.0]])
    camera = Camera.looking(64, 48, k, np.zeros(3), 0.0, 0.0, 0.0)
    wires = np.array([[10.0, 5.0, 0.0, 10.0, -5.0, 0.0, 0.02]])  # level, 10 m ahead: 0.2 px thick
    image = [np.ones((48, 64), np.float32) for _ in range(3)]
    depth = np.full((48, 64), np.inf, np.float32)
    depth[:, 40:] = 8.0
    draw_wires(image, depth, camera, wires, np.zeros(3))
    lost = 1.0 - image[0]
    np.testing.assert_allclose(lost[:, 5:40].sum(axis=0), 0.2, atol=0.03)
    assert not lost[:, 40:].any()
    assert set(np.nonzero(lost)[0].tolist()) <= {22, 23, 24, 25}


def test_zebras_are_yellow_where_the_street_says_so():
    yellow, white = quiet(12, yellow_zebras=True), quiet(12, yellow_zebras=False)
    assert same_truth(yellow, white)
    changed = np.abs(yellow.rgb.astype(int) - white.rgb).max(axis=2) > 20
    changed &= yellow.labels == 0
    assert changed.sum() > 30
    warmth = [f.rgb[changed][:, 0].astype(int) - f.rgb[changed][:, 2] for f in (yellow, white)]
    assert np.median(warmth[0] - warmth[1]) > 15


@pytest.mark.parametrize("seed", range(3))
def test_all_of_a_shop_is_building_and_some_of_it_glows(seed):
    front = dress(np.random.default_rng(seed), 12.0, 14.0)
    assert set(front.faces[:, 0].tolist()) == {BUILDING}
    materials = set(front.faces[:, 1].tolist())
    assert Mat.DISPLAY in materials
    assert materials & {Mat.BOARD, Mat.POSTER}
    assert front.verts[:, 2].max() < 14.0
    assert front.faces[:, SIZE].max() <= 12.0


def test_displays_glow_at_night_and_add_no_sign():
    seed = 10
    assert make_variety(seed, random_road(stream(seed, 0))).shops == 1.0
    usual = StreetDrive(seed, "night", **SMALL)
    varied = StreetDrive(seed, "night", varied=True, **SMALL)
    counts = [np.bincount(d[0].labels.ravel(), minlength=256) for d in (usual, varied)]
    assert counts[1][BUILDING] >= counts[0][BUILDING]
    assert counts[1][SIGN] <= counts[0][SIGN]
    on = varied[0]
    varied.lighting = replace(varied.lighting, glow=0.0)
    off = varied[0]
    walls = on.labels == BUILDING
    assert (on.rgb[walls].max(axis=1) > 200).mean() > (
        off.rgb[walls].max(axis=1) > 200
    ).mean() + 0.02


def test_some_nights_are_lit_by_sodium_or_two_kinds_of_lamps():
    changes = [lamp_light(seed, make_lighting(seed, "night")) for seed in range(60)]
    sodium = [c for c in changes if c and np.allclose(c["bulb"], SODIUM)]
    assert 10 < len(sodium) < 50
    assert any("other_lamp" in c for c in changes)
    assert any(not c for c in changes)
    assert lamp_light(4, make_lighting(4, "clear")) == {}
    light = sodium[0]["lamp"]
    assert light[2] / light[0] == pytest.approx(0.07)


def test_the_cache_renders_varied_drives(tmp_path):
    for varied in (False, True):
        settings = RenderSettings(drives=1, frames=1, width=96, height=64, varied=varied)
        assert render_drive(tmp_path / str(varied), 5, "night", settings)
    usual, varied = (
        np.load(tmp_path / str(flag) / "00000005_night" / "rgb.npy") for flag in (False, True)
    )
    assert usual.shape == varied.shape
    assert (usual != varied).mean() > 0.1


def test_lit_displays_throw_light_on_the_pavement():
    drive = StreetDrive(10, "night", varied=True, **SMALL)
    drive.lighting = replace(drive.lighting, noise=0.0, adapt=0.0)
    lit = drive[0]
    assert len(drive.world.windows) > 5
    drive._maps.windows = None
    unlit = drive[0]
    assert same_truth(lit, unlit)
    walk = lit.labels == 1
    assert lit.rgb[walk].mean() > unlit.rgb[walk].mean() + 3
