# SPDX-License-Identifier: Apache-2.0
"""~/points and ~/drivable over real DDS, and what a configuration must not ask of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dds import own_domain
from nav_msgs.msg import OccupancyGrid
from nodes import HEIGHT, WIDTH, Bench, camera_info_message, image_message, running_node
from sensor_msgs.msg import Image, PointCloud2

from depthforge_ros.occupancy import CameraPose
from depthforge_ros.ros.messages import ABSENT
from depthforge_ros.ros.node.camera_poses import configured_pose, pose_source
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.ros.node.spatial_outputs import POINT, Spatial
from depthforge_ros.variant import load_labels


def test_points_and_grid_arrive_beside_the_mask_they_belong_to(tmp_path: Path) -> None:
    parameters = {
        "checkpoint": "instant",
        "camera_height_m": 1.5,
        "camera_x_m": 0.25,
        "base_frame": "robot_base",
        "drivable_cell_m": 0.5,
        "drivable_range_m": 10.0,
        "ground_tolerance_m": 2.0,
        "stall_after_s": 3600.0,
        "stall_error_after_s": 3600.0,
    }
    domain = own_domain()
    with Bench(domain) as bench, running_node(domain, tmp_path, **parameters) as node:
        masks, depths = bench.hear("semantic"), bench.hear("depth")
        clouds = bench.hear("points", PointCloud2)
        grids = bench.hear("drivable", OccupancyGrid)
        heard = (masks, depths, clouds, grids)
        bench.exchange(image_message(0), masks)
        assert (clouds, grids) == ([], [])  # no camera_info, no rays
        bench.wait_for("withheld: points", "no camera_info on /camera_info")
        bench.wait_for("withheld: drivable", "no camera_info on /camera_info")
        for got in heard:
            bench.exchange(image_message(1), got, camera_info_message())
        bench.spin_until(lambda: all(got[-1].header.stamp.sec % 10 == 1 for got in heard))
        bench.wait_for("label_info", ABSENT or "published")
        bench.spin_until(lambda: float(bench.values().get("brightness", 0)) > 0.3)
        topics = {name for name, _ in bench.node.get_topic_names_and_types()}
        assert ("/depthforge/label_info" in topics) == (not ABSENT)
        assert node.end() == 0
    mask, depth, cloud, grid = (got[-1] for got in heard)
    assert mask.header == depth.header == cloud.header
    assert (cloud.width, cloud.height) == (mask.width, mask.height) == (WIDTH, HEIGHT)
    points = np.frombuffer(cloud.data, POINT).reshape(HEIGHT, WIDTH)
    np.testing.assert_array_equal(points["label"], values(mask, np.uint8))
    # The instant engine: road below, 10 m away for a focal length of 400; this one is 80.
    road = np.arange(HEIGHT) >= HEIGHT // 2
    assert (points["z"][road] == 2.0).all()
    np.testing.assert_array_equal(points["z"][road], values(depth, np.float32)[road])
    assert np.isposinf(values(depth, np.float32)[~road]).all()
    assert np.isnan(points["z"][~road]).all()
    assert points["x"][-1, 0] == pytest.approx(2.0 * -47.5 / 80)
    assert points["y"][-1, 0] == pytest.approx(2.0 * 31.5 / 81)

    assert (grid.header.stamp, grid.header.frame_id) == (mask.header.stamp, "robot_base")
    assert (grid.info.width, grid.info.height, grid.info.resolution) == (40, 40, 0.5)
    origin = grid.info.origin
    assert (origin.position.x, origin.position.y, origin.orientation.w) == (-10, -10, 1)
    # 2 m before a camera that is 0.25 m before the origin, and 1.19 m to either side.
    rows, columns = np.nonzero(np.array(grid.data, np.int8).reshape(40, 40) == 0)
    assert set(columns) == {24}
    assert sorted(set(rows)) == [17, 18, 19, 20, 21, 22]
    assert set(grid.data) == {0, -1}


def values(message: Image, dtype: type) -> np.ndarray:
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)


@pytest.mark.parametrize(
    ("parameters", "camera", "place"),
    [
        ({}, "", None),
        ({"camera_height_m": 1.5, "camera_yaw_rad": 0.5}, "", CameraPose(1.5, yaw_rad=0.5)),
        ({"camera_height_m": 1.5, "cameras": ("front",)}, "front", CameraPose(1.5)),
        ({"camera_height_m": 1.5, "cameras": ("front", "rear")}, "rear", None),
        (
            {"cameras": ("front", "rear"), "camera_poses": "rear -1 0.5 1.4 0 0.1 3.14"},
            "rear",
            CameraPose(1.4, -1.0, 0.5, 0.0, 0.1, 3.14),
        ),
    ],
)
def test_parameters_place_one_camera_or_each_by_its_name(
    parameters: dict, camera: str, place: CameraPose | None
) -> None:
    values = Parameters(**parameters)
    assert configured_pose(values, camera) == place
    # tf is asked about cameras that the parameters do not place, and about no other.
    found = pose_source(values, camera, lambda _: CameraPose(9.0))
    assert found("optical") == (place or CameraPose(9.0))
    assert (pose_source(values, camera, None) is None) == (place is None)


def test_there_is_a_grid_where_somebody_knows_the_camera() -> None:
    labels = load_labels("cityscapes")
    assert set(Spatial(Parameters(), labels, grid=False).topics) == {"points"}
    assert set(Spatial(Parameters(), labels, grid=True).topics) == {"points", "drivable"}


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"drivable_classes": "raod"}, "drivable_classes names 'raod'; cityscapes has bicycle"),
        ({"obstacle_classes": "road"}, "drivable_classes and obstacle_classes both name road"),
        ({"drivable_range_m": 200.0, "drivable_cell_m": 0.05}, "makes 8000 cells a side"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(parameters: dict, problem: str) -> None:
    values = Parameters(camera_height_m=1.5, **parameters)
    with pytest.raises(ValueError, match=problem):
        Spatial(values, load_labels("cityscapes"), grid=True)
