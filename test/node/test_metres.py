# SPDX-License-Identifier: Apache-2.0
"""Depth and points on their way through the node: when there are any, and how far they reach."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from engines import HeldEngine
from nodes import HEIGHT, WIDTH, camera_info_message, image_message, picture
from rigs import Rig, level_camera_info, stamps
from sensor_msgs.msg import PointCloud2

from depthforge_ros.ros.metric import limited, where_certain
from depthforge_ros.ros.node.spatial_outputs import POINT


def points(message: PointCloud2) -> np.ndarray:
    return np.frombuffer(message.data, POINT).reshape(message.height, message.width)


def test_depth_is_computed_for_who_listens_to_depth(rig: Rig) -> None:
    rig.engine.permits.release(10)
    rig.stream.receive_camera_info(camera_info_message())
    rig.hear("semantic")
    rig.stream.receive(image_message(1))
    rig.settled(1)
    heard = rig.hear("depth")
    rig.stream.receive(image_message(2))
    rig.settled(2)
    assert rig.engine.depths == [False, True]
    rig.listener.spin_until(lambda: bool(heard))
    assert stamps(heard) == [2]


def test_metres_of_an_unknown_camera_are_not_published(rig: Rig) -> None:
    rig.engine.permits.release(10)
    heard = rig.hear("depth")
    rig.stream.receive_camera_info(camera_info_message(width=50))
    rig.stream.receive(image_message(1))
    health = rig.settled(1)
    assert health.missing_camera_info == 1
    reason = "camera_info does not fit: 50x64 against 96x64 on /camera_info"
    assert health.withheld == {"depth": reason}
    uncalibrated = camera_info_message()
    uncalibrated.k, uncalibrated.p = [0.0] * 9, [0.0] * 12
    rig.stream.receive_camera_info(uncalibrated)
    rig.stream.receive(image_message(2))
    health = rig.settled(2)
    assert health.missing_camera_info == 2
    reason = "camera_info on /camera_info is not calibrated: K and P are zero"
    assert health.withheld == {"depth": reason}
    assert health.drops == {}
    assert heard == []
    rig.stream.receive_camera_info(camera_info_message())
    assert rig.through(image_message(3)).withheld == {}
    rig.listener.spin_until(lambda: stamps(heard) == [3])


def test_a_camera_that_is_not_calibrated_costs_metres_and_nothing_else(by_ground: Rig) -> None:
    rig = by_ground
    names = ("semantic", "inverse_depth", "depth", "camera_info")
    heard = {name: rig.hear(name) for name in names}
    for index, spoiled in enumerate(
        ([80.0, 0, 47.5, 0, 0, 31.5, 0, 0, 1], [80.0, 0, np.nan, 0, 81, 31.5, 0, 0, 1])
    ):
        info = camera_info_message()
        info.k = np.array(spoiled, dtype=np.float64)
        rig.stream.receive_camera_info(info)
        health = rig.through(image_message(index))
        assert health.drops == {}
        assert set(health.withheld) == {"depth", "camera_info"}
        assert health.withheld["depth"].startswith("K of camera_info on /camera_info is ")
    rig.listener.spin_until(
        lambda: stamps(heard["inverse_depth"]) == stamps(heard["semantic"]) == [0, 1]
    )
    assert heard["depth"] == []


def test_metres_by_the_road_are_explained_frame_by_frame(by_ground: Rig) -> None:
    rig = by_ground
    rig.hear("depth")
    rig.stream.receive_camera_info(level_camera_info())
    health = rig.through(image_message(1))
    assert health.withheld == {}
    assert health.ground_residual == pytest.approx(0.0, abs=0.02)
    other = image_message(2)
    other.header.frame_id = "rear_optical"  # no camera_info speaks of it
    health = rig.through(other)
    assert health.ground_residual is None
    assert health.withheld == {
        "depth": "camera_info does not fit: frame_id 'front_optical' against "
        "'rear_optical' on /camera_info"
    }


@pytest.mark.parametrize("change", ["reopened", "settings", "frame_id"])
def test_what_the_road_has_shown_is_forgotten_where_it_no_longer_holds(
    by_ground: Rig, change: str
) -> None:
    rig = by_ground
    rig.hear("depth")
    info = level_camera_info()
    rig.stream.receive_camera_info(info)
    assert rig.through(image_message(1)).withheld == {}
    rig.engine.sky = False  # a tunnel: the pitch is what frames with sky have shown
    assert rig.through(image_message(2)).withheld == {}
    message = image_message(3)
    if change == "reopened":
        rig.inference.close_input()
        rig.inference.open_input()
    elif change == "settings":
        rig.values = dataclasses.replace(rig.values, short_side_px=2 * HEIGHT)
    else:
        info.header.frame_id = message.header.frame_id = "rear_optical"
        rig.stream.receive_camera_info(info)
    assert "pitch is not known yet" in rig.through(message).withheld["depth"]


def test_points_of_a_relative_variant_have_the_metres_of_the_road(by_ground: Rig) -> None:
    clouds, depths = by_ground.hear("points"), by_ground.hear("depth")
    assert (
        "no camera_info on /camera_info" in by_ground.through(image_message(0)).withheld["points"]
    )
    by_ground.stream.receive_camera_info(level_camera_info())
    assert by_ground.through(image_message(1)).withheld == {}
    by_ground.listener.spin_until(lambda: bool(clouds and depths))
    assert clouds[0].header == depths[0].header == image_message(1).header
    depth = np.frombuffer(depths[0].data, np.float32).reshape(HEIGHT, WIDTH)
    known = np.isfinite(depth)
    assert 0.3 < known.mean() < 0.6
    np.testing.assert_array_equal(points(clouds[0])["z"][known], depth[known])
    assert np.isnan(points(clouds[0])["z"][~known]).all()
    heights = points(clouds[0])["y"][known]
    assert np.abs(heights - 1.5).max() < 0.1  # the road lies 1.5 m below the camera


def test_points_of_a_metric_variant_are_the_pixels_of_its_depth(rig: Rig) -> None:
    rig.engine.permits.release(10)
    clouds, depths = rig.hear("points"), rig.hear("depth")
    assert "drivable" not in rig.stream.outputs.depth_topics  # nobody said how high it is
    rig.stream.receive_camera_info(level_camera_info())
    rig.through(image_message(1))
    rig.listener.spin_until(lambda: bool(clouds and depths))
    depth = np.frombuffer(depths[0].data, np.float32).reshape(HEIGHT, WIDTH)
    cloud = points(clouds[0])
    np.testing.assert_array_equal(cloud["z"], np.where(np.isfinite(depth), depth, np.nan))
    assert set(np.unique(cloud["label"])) == {0, 10}
    red, green, blue = (int(c) for c in picture(1)[40, 50])
    assert cloud["rgb"][40, 50].view(np.uint32) == red << 16 | green << 8 | blue


@pytest.mark.parametrize(("max_depth_m", "road_m"), [(0.0, 2.0), (2.5, 2.0), (1.5, np.inf)])
def test_depth_beyond_the_range_is_infinite(rig: Rig, max_depth_m: float, road_m: float) -> None:
    """The engine sees all of the road 2 m away, and sky above it."""
    rig.engine.permits.release(10)
    rig.stream.receive_camera_info(camera_info_message())
    heard = rig.hear("depth")
    rig.values = dataclasses.replace(rig.values, max_depth_m=max_depth_m)
    rig.through(image_message(1))
    rig.listener.spin_until(lambda: len(heard) == 1)
    depth_m = np.frombuffer(heard[0].data, np.float32)
    assert set(depth_m) == {road_m, np.inf}


def test_what_is_doubted_has_no_depth_and_no_point_but_stays_an_obstacle() -> None:
    """The engine is nowhere wholly certain. Its road, 2 m away, is taken for an obstacle here."""
    rig = Rig(
        HeldEngine(), camera_height_m=1.5, obstacle_classes="road", drivable_classes="terrain"
    )
    try:
        rig.engine.permits.release(10)
        rig.stream.receive_camera_info(camera_info_message())
        heard = {name: rig.hear(name) for name in ("depth", "points", "drivable")}
        seen = []
        for index, threshold in enumerate((0.0, 0.1, 1.0), 1):
            rig.values = dataclasses.replace(rig.values, depth_confidence_threshold=threshold)
            rig.through(image_message(index))
            rig.listener.spin_until(lambda i=index: all(len(h) == i for h in heard.values()))
            depth_m = np.frombuffer(heard["depth"][-1].data, np.float32)
            z_m = np.frombuffer(heard["points"][-1].data, POINT)["z"]
            seen.append((depth_m, z_m, np.array(heard["drivable"][-1].data)))
        for always, above_a_tenth in zip(*seen[:2], strict=True):
            np.testing.assert_array_equal(always, above_a_tenth)
        depth_m, z_m, cells = seen[0]
        assert set(depth_m) == {2.0, np.inf}
        assert np.isfinite(z_m).any()
        assert (cells == 100).any()
        assert np.isnan(seen[2][0]).all()
        assert np.isnan(seen[2][1]).all()
        np.testing.assert_array_equal(seen[2][2], cells)
    finally:
        rig.close()


def test_doubt_is_pixel_by_pixel() -> None:
    depth = np.array([[1.0, np.inf, np.nan, 4.0]], np.float32)
    confidence = np.array([[127, 128, 255, 255]], np.uint8)
    certain = where_certain(depth, confidence, 0.5)
    np.testing.assert_array_equal(certain, [[np.nan, np.inf, np.nan, 4.0]])
    assert certain.dtype == np.float32
    np.testing.assert_array_equal(where_certain(depth, confidence, 0.0), depth)
    everything = where_certain(depth, confidence, 1.0)
    np.testing.assert_array_equal(everything, [[np.nan, np.nan, np.nan, 4.0]])
    assert where_certain(None, confidence, 0.5) is None


def test_what_is_doubted_has_no_metres_by_the_road_either(by_ground: Rig) -> None:
    heard = {name: by_ground.hear(name) for name in ("depth", "inverse_depth", "points")}
    by_ground.stream.receive_camera_info(level_camera_info())
    by_ground.values = dataclasses.replace(by_ground.values, depth_confidence_threshold=1.0)
    by_ground.through(image_message(1))
    by_ground.listener.spin_until(lambda: all(heard.values()))
    assert np.isnan(np.frombuffer(heard["depth"][0].data, np.float32)).all()
    assert np.isnan(np.frombuffer(heard["inverse_depth"][0].data, np.float32)).all()
    assert np.isnan(np.frombuffer(heard["points"][0].data, POINT)["z"]).all()


def test_unknown_depth_stays_unknown_beyond_every_range() -> None:
    depth_m = np.array([[1.0, 30.0], [np.nan, np.inf]], np.float32)
    expected = np.array([[1.0, np.inf], [np.nan, np.inf]], np.float32)
    np.testing.assert_array_equal(limited(depth_m, 20.0), expected)
    assert limited(depth_m, 20.0).dtype == np.float32
    assert limited(None, 20.0) is None
