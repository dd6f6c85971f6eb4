# SPDX-License-Identifier: Apache-2.0
"""Metres from the road, on streets whose metres are known."""

import math

import numpy as np
import pytest

from depthforge_ros.frame import DepthKind, Prediction
from depthforge_ros.ground import (
    GroundScale,
    GroundSettings,
    NoGroundError,
    road_height_m,
    robust_plane,
)
from depthforge_ros.occupancy import CameraPose
from depthforge_ros.pixel_rays import PixelRays, pixel_rays
from depthforge_ros.street import HELD_OUT_SEEDS, StreetDrive
from depthforge_ros.variant import load_labels

LABELS = load_labels("cityscapes")


def relative(frame, scale, shift, noise=0.0, seed=0):
    """What a perfect relative network says: the true inverse depth, affinely distorted."""
    with np.errstate(divide="ignore"):
        d = scale / frame.depth_m + shift
    d += noise * scale * np.random.default_rng(seed).normal(size=d.shape)
    mask = np.full(frame.labels.shape, 255, np.uint8)
    return Prediction(frame.labels, mask, d.astype(np.float32), DepthKind.RELATIVE)


def camera_height(drive, index):
    return float(drive.camera(index).position[2])


def abs_rel(depth, truth):
    known = np.isfinite(truth) & np.isfinite(depth) & (truth < 75)
    return float(np.mean(np.abs(depth[known] - truth[known]) / truth[known]))


@pytest.mark.parametrize("seed", HELD_OUT_SEEDS[:6])
def test_exact_on_streets_under_any_affine_map(seed):
    rng = np.random.default_rng(seed)
    drive = StreetDrive(seed, "clear", 320, 192, frames=2)
    frame = drive[1]
    scale, shift = math.exp(rng.uniform(-3, 5)), rng.uniform(-20, 20)
    ground = GroundScale(GroundSettings(camera_height(drive, 1)), LABELS)
    depth, fit = ground.metres(relative(frame, scale, shift), frame.intrinsics)
    assert abs_rel(depth, frame.depth_m) < 0.02
    assert fit.scale == pytest.approx(scale, rel=0.02)
    assert np.isposinf(depth[frame.labels == LABELS.id_of("sky")]).all()


def test_without_sky_the_pitch_stands_in_for_it():
    drive = StreetDrive(HELD_OUT_SEEDS[0], "clear", 320, 192, frames=1)
    frame = drive[0]
    seen = relative(frame, 3.0, 0.5)
    labels = np.where(seen.labels == LABELS.id_of("sky"), 255, seen.labels).astype(np.uint8)
    seen = Prediction(labels, seen.confidence, seen.depth, seen.depth_kind)
    height_m = camera_height(drive, 0)
    with pytest.raises(NoGroundError, match="pitch is not known"):
        GroundScale(GroundSettings(height_m), LABELS).metres(seen, frame.intrinsics)
    seen_with_sky = relative(frame, 3.0, 0.5)
    learning = GroundScale(GroundSettings(height_m), LABELS)
    learning.metres(seen_with_sky, frame.intrinsics)
    depth, _ = learning.metres(seen, frame.intrinsics)  # the pitch of the frame before
    assert abs_rel(depth, frame.depth_m) < 0.02
    # The camera's third row is its optical axis in the world; how much it points down is pitch.
    road = frame.labels == LABELS.id_of("road")
    rows, columns = np.nonzero(road)
    K = frame.intrinsics
    rays = np.stack(
        [(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones(len(rows))], 1
    )
    normal, _ = robust_plane(rays, height_m / frame.depth_m[road].astype(np.float64))
    pitch_rad = math.atan2(normal[2], normal[1])
    settings = GroundSettings(height_m, pitch_rad=pitch_rad)
    depth, _ = GroundScale(settings, LABELS).metres(seen, frame.intrinsics)
    assert abs_rel(depth, frame.depth_m) < 0.02


@pytest.mark.parametrize(("roll_rad", "pitch_rad"), [(0.0, 0.1), (0.15, 0.05), (-0.4, 0.12)])
def test_roll_changes_neither_the_pitch_nor_the_metres(roll_rad, pitch_rad):
    """A bare plane below a turned camera, without any error of rendering."""
    height_m, K = 1.4, np.array([[200.0, 0, 159.5], [0, 200.0, 95.5], [0, 0, 1]])
    # n in the optical frame is the third row of the pose's rotation, downwards.
    normal = -CameraPose(height_m, roll_rad=roll_rad, pitch_rad=pitch_rad).rotation()[2]
    y, x = np.mgrid[:192, :320]
    rays = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones(x.shape)], -1)
    nearness = rays @ normal / height_m  # 1/z
    labels = np.where(nearness > 1 / 60, 0, 255).astype(np.uint8)  # road up to 60 m, nothing else
    mask = np.full(labels.shape, 255, np.uint8)
    seen = Prediction(labels, mask, (3 * nearness + 0.5).astype(np.float32), DepthKind.RELATIVE)
    given = GroundScale(GroundSettings(height_m, pitch_rad=pitch_rad), LABELS)
    depth_m, fit = given.metres(seen, K)
    assert (fit.scale, fit.shift) == (pytest.approx(3.0, rel=1e-4), pytest.approx(0.5, abs=1e-4))
    road = labels == 0
    np.testing.assert_allclose(depth_m[road], 1 / nearness[road], rtol=1e-3)
    with_sky = np.where(nearness < 0, LABELS.id_of("sky"), labels).astype(np.uint8)
    sky = Prediction(with_sky, mask, np.maximum(seen.depth, 0.5), DepthKind.RELATIVE)
    learning = GroundScale(GroundSettings(height_m), LABELS)
    learning.metres(sky, K)
    _, learned = learning.metres(seen, K)  # without sky, by the pitch of the frame before
    assert learned.scale == pytest.approx(3.0, rel=1e-4)


def test_labels_that_bleed_onto_cars_do_not_bend_the_plane():
    drive = StreetDrive(HELD_OUT_SEEDS[1], "clear", 320, 192, frames=1)
    frame = drive[0]
    seen = relative(frame, 5.0, 1.0)
    labels = seen.labels.copy()
    near_road = np.flatnonzero((labels != 0) & (labels != LABELS.id_of("sky")))
    wrong = np.random.default_rng(1).choice(near_road, int(0.25 * (labels == 0).sum()))
    labels.flat[wrong] = 0
    seen = Prediction(labels, seen.confidence, seen.depth, seen.depth_kind)
    ground = GroundScale(GroundSettings(camera_height(drive, 0), max_residual=0.2), LABELS)
    depth, _ = ground.metres(seen, frame.intrinsics)
    assert abs_rel(depth, frame.depth_m) < 0.05


def test_too_little_road_and_no_plane_keep_silent():
    drive = StreetDrive(HELD_OUT_SEEDS[2], "clear", 320, 192, frames=1)
    frame = drive[0]
    ground = GroundScale(GroundSettings(1.4), LABELS)
    seen = relative(frame, 1.0, 0.0)
    none = np.full_like(seen.labels, 2)
    with pytest.raises(NoGroundError, match=r"road is 0\.0% of the image; expected 2\.0%"):
        ground.metres(
            Prediction(none, seen.confidence, seen.depth, seen.depth_kind), frame.intrinsics
        )
    with pytest.raises(NoGroundError, match="deviates from a plane"):
        ground.metres(relative(frame, 1.0, 0.0, noise=0.3), frame.intrinsics)
    upside_down = Prediction(seen.labels, seen.confidence, -seen.depth, seen.depth_kind)
    with pytest.raises(NoGroundError, match="does not grow towards the camera"):
        ground.metres(upside_down, frame.intrinsics)


def test_every_frame_has_a_scale_of_its_own():
    drive = StreetDrive(HELD_OUT_SEEDS[3], "clear", 320, 192, frames=1)
    frame = drive[0]
    ground = GroundScale(GroundSettings(camera_height(drive, 0)), LABELS)
    for scale, shift in [(1.0, 0.0), (3.0, 5.0), (0.1, -2.0)]:
        depth, _ = ground.metres(relative(frame, scale, shift), frame.intrinsics)
        assert abs_rel(depth, frame.depth_m) < 0.02


def test_numbers_that_are_none_spoil_nothing_but_themselves():
    drive = StreetDrive(HELD_OUT_SEEDS[3], "clear", 320, 192, frames=1)
    frame = drive[0]
    ground = GroundScale(GroundSettings(camera_height(drive, 0)), LABELS)
    seen = relative(frame, 2.0, 1.0)
    holes = np.zeros(seen.labels.shape, bool)
    holes[::7, ::5] = True  # in road and sky alike
    seen.depth[holes] = np.nan
    depth, _ = ground.metres(seen, frame.intrinsics)
    assert np.isnan(depth[holes]).all()
    assert abs_rel(depth, frame.depth_m) < 0.02
    assert np.isfinite(depth[~holes & np.isfinite(frame.depth_m) & (frame.depth_m < 60)]).all()


def test_what_is_labelled_sky_but_near_is_unknown_and_not_free():
    drive = StreetDrive(HELD_OUT_SEEDS[3], "clear", 320, 192, frames=1)
    frame = drive[0]
    seen = relative(frame, 2.0, 1.0)
    near = (frame.depth_m < 20) & (frame.labels != 0)
    near &= np.random.default_rng(0).random(near.shape) < 0.1
    seen.labels[near] = LABELS.id_of("sky")
    depth, _ = GroundScale(GroundSettings(camera_height(drive, 0)), LABELS).metres(
        seen, frame.intrinsics
    )
    assert near.any()
    assert np.isnan(depth[near]).all()


def test_an_uncalibrated_camera_gives_no_metres():
    drive = StreetDrive(HELD_OUT_SEEDS[3], "clear", 320, 192, frames=1)
    seen = relative(drive[0], 2.0, 1.0)
    with pytest.raises(NoGroundError, match="K has no focal length"):
        GroundScale(GroundSettings(1.5), LABELS).metres(seen, np.zeros((3, 3)))


def test_the_pitch_is_forgotten_on_reset():
    drive = StreetDrive(HELD_OUT_SEEDS[0], "clear", 320, 192, frames=1)
    seen = relative(drive[0], 3.0, 0.5)
    ground = GroundScale(GroundSettings(camera_height(drive, 0)), LABELS)
    ground.metres(seen, drive[0].intrinsics)
    labels = np.where(seen.labels == LABELS.id_of("sky"), 255, seen.labels).astype(np.uint8)
    skyless = Prediction(labels, seen.confidence, seen.depth, seen.depth_kind)
    ground.metres(skyless, drive[0].intrinsics)
    ground.reset()
    with pytest.raises(NoGroundError, match="pitch is not known yet"):
        ground.metres(skyless, drive[0].intrinsics)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"camera_height_m": 0.0}, "camera_height_m is 0.0; expected 0.1..10"),
        ({"camera_height_m": 1.4, "pitch_rad": 2.0}, "pitch_rad is 2.0"),
        ({"camera_height_m": 1.4, "smoothing": 1.0}, "smoothing is 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        GroundSettings(**change)


def metric(frame, scale=1.0):
    mask = np.full(frame.labels.shape, 255, np.uint8)
    depth_m = (scale * frame.depth_m).astype(np.float32)
    return Prediction(frame.labels, mask, depth_m, DepthKind.METRIC)


@pytest.mark.parametrize("seed", HELD_OUT_SEEDS[:6])
@pytest.mark.parametrize("size", [(320, 192), (640, 480)])
def test_the_cameras_height_follows_from_metric_depth_on_the_road(seed, size):
    drive = StreetDrive(seed, "clear", *size, frames=2)
    frame, height_m = drive[1], camera_height(drive, 1)
    for scale in (0.5, 1.0, 1.3):
        found_m = road_height_m(metric(frame, scale), frame.intrinsics, 0)
        assert found_m == pytest.approx(scale * height_m, rel=0.01)


def test_the_height_is_that_of_a_lens_with_rays_of_its_own():
    drive = StreetDrive(HELD_OUT_SEEDS[0], "clear", 320, 192, frames=1)
    frame = drive[0]
    rays = pixel_rays(frame.intrinsics, 192, 320)
    x, y = (np.array(side) for side in np.broadcast_arrays(rays.x, rays.y))
    x[:, :20] = np.nan  # pixels without a ray
    found_m = road_height_m(metric(frame), PixelRays(x, y), 0)
    assert found_m == pytest.approx(camera_height(drive, 0), rel=0.01)


def test_a_road_that_depth_makes_a_wall_has_no_height():
    drive = StreetDrive(HELD_OUT_SEEDS[0], "clear", 320, 192, frames=1)
    seen = metric(drive[0])
    slope = np.linspace(5.01, 5.0, 192, dtype=np.float32)[:, None]
    wall = Prediction(
        seen.labels, seen.confidence, np.broadcast_to(slope, seen.labels.shape), seen.depth_kind
    )
    with pytest.raises(NoGroundError, match="depth makes it a wall"):
        road_height_m(wall, drive[0].intrinsics, 0)
    unknown = Prediction(
        seen.labels, seen.confidence, np.full_like(seen.depth, np.nan), seen.depth_kind
    )
    with pytest.raises(NoGroundError, match=r"road is 0\.0% of the image; expected 2\.0%"):
        road_height_m(unknown, drive[0].intrinsics, 0)
    with pytest.raises(ValueError, match="expected a prediction with metric depth"):
        road_height_m(relative(drive[0], 1.0, 0.0), drive[0].intrinsics, 0)
