# SPDX-License-Identifier: Apache-2.0
"""Outputs that depend on the camera: rectified and raw images, poses by tf, complete sets; and the
compressed pictures.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import types
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from engines import HeldEngine
from geometry_msgs.msg import TransformStamped
from nodes import HEIGHT, WIDTH, camera_info_message, image_message
from rigs import Rig
from sensor_msgs.msg import CameraInfo

from depthforge_ros.occupancy import CameraPose
from depthforge_ros.ros.messages import frame_from_compressed
from depthforge_ros.ros.node.camera_poses import PoseError, TfPoses, tf2_is_installed
from depthforge_ros.ros.node.spatial_outputs import POINT

INDICES = itertools.count(1)  # stamps may not go back


class Tf:
    """A tf that knows a camera's pose once the test sets it."""

    pose: CameraPose | None = None

    def __call__(self, frame_id: str) -> CameraPose:
        if self.pose is None:
            raise PoseError(f"tf: {frame_id} is unknown")
        return self.pose


@pytest.fixture(scope="module")
def tf() -> Tf:
    return Tf()


@pytest.fixture(scope="module")
def rig(tf: Tf) -> Iterator[Rig]:
    """One for all tests, whose engine is never held."""
    made = Rig(HeldEngine(), tf=tf, ground_tolerance_m=2.0)
    made.engine.permits.release(1000)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _as_declared(rig: Rig) -> Iterator[None]:
    before = rig.values
    yield
    rig.values = before


def lens_info(**changes: Any) -> CameraInfo:
    """K and P of a calibrated lens that distorts."""
    info = camera_info_message()
    info.d = [-0.2, 0.05, 0.001, 0.0, 0.0]
    info.p = [70.0, 0.0, 46.0, 0.0, 0.0, 71.0, 30.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for name, value in changes.items():
        setattr(info, name, value)
    return info


def newest(rig: Rig, heard: dict[str, list]) -> dict[str, Any]:
    """The outputs of one more image."""
    index = next(INDICES)
    rig.stream.receive(image_message(index))

    def arrived() -> bool:
        return all(got and got[-1].header.stamp.sec % 1000 == index for got in heard.values())

    rig.listener.spin_until(arrived)
    return {name: got[-1] for name, got in heard.items()}


@pytest.mark.parametrize("rectified", ["true", "false"])
def test_standard_consumers_get_the_nodes_points_from_depth_and_camera_info(
    rig: Rig, rectified: str
) -> None:
    rig.values = dataclasses.replace(rig.values, rectified=rectified)
    info = lens_info()
    rig.stream.receive_camera_info(info)
    heard = {name: rig.hear(name) for name in ("depth", "points", "camera_info")}
    seen = newest(rig, heard)
    depth = np.frombuffer(seen["depth"].data, np.float32).reshape(HEIGHT, WIDTH)
    points = np.frombuffer(seen["points"].data, POINT).reshape(HEIGHT, WIDTH)
    made = seen["camera_info"]
    v, u = np.nonzero(np.isfinite(depth))
    z = depth[v, u]
    p = np.reshape(made.p, (3, 4))[:, :3]
    if rectified == "true":  # image_geometry's projectPixelTo3dRay, of a straight image
        assert not np.any(made.d)
        rays = np.stack([(u - p[0, 2]) / p[0, 0], (v - p[1, 2]) / p[1, 1]], -1)
        assert p[0, 0] == 70.0
    else:  # its rectifyPoint before it
        pixels = np.stack([u, v], -1).astype(np.float64).reshape(-1, 1, 2)
        k, d = np.reshape(made.k, (3, 3)), np.array(made.d)
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-9)
        rays = cv2.undistortPoints(pixels, k, d, criteria=criteria).reshape(-1, 2)
        assert np.array_equal(made.d, info.d)
    found = np.stack([points[axis][v, u] for axis in ("x", "y")], -1)
    np.testing.assert_allclose(found, rays * z[:, None], atol=1e-4)
    # The focal length, by which nano scales its metres, is that of the rays.
    road_m = 2.0 * (70.0 if rectified == "true" else 80.0) / 80.0
    assert np.allclose(z, road_m)
    description = rig.statistics.snapshot().calibration
    assert description.startswith("rectified, P" if rectified == "true" else "raw, plumb_bob, K")


def test_an_unknown_lens_is_silent_with_its_reason(rig: Rig) -> None:
    rig.stream.receive_camera_info(lens_info(distortion_model="kb8"))
    rig.hear("points")
    withheld = rig.through(image_message(next(INDICES))).withheld
    assert withheld["points"].startswith("distortion_model on /camera_info is 'kb8'; expected")
    rig.stream.receive_camera_info(lens_info())
    assert rig.through(image_message(next(INDICES))).withheld == {}


def test_a_frame_without_points_publishes_no_half_of_a_set(rig: Rig) -> None:
    rig.stream.receive_camera_info(lens_info(distortion_model="kb8"))
    heard = {name: rig.hear(name) for name in ("semantic", "confidence", "points")}
    rig.values = dataclasses.replace(rig.values, complete_sets=True)
    withheld = rig.through(image_message(next(INDICES))).withheld
    assert set(withheld) >= {"semantic", "confidence", "points"}
    assert withheld["semantic"].startswith("complete_sets: distortion_model on /camera_info is")
    assert not any(heard.values())
    rig.stream.receive_camera_info(lens_info())
    newest(rig, heard)
    rig.values = dataclasses.replace(rig.values, complete_sets=False)
    rig.stream.receive_camera_info(lens_info(distortion_model="kb8"))
    newest(rig, {"semantic": heard["semantic"]})
    rig.stream.receive_camera_info(lens_info())


def test_tf_places_a_camera_that_the_parameters_do_not(rig: Rig, tf: Tf) -> None:
    rig.stream.receive_camera_info(camera_info_message())
    grids = rig.hear("drivable")
    withheld = rig.through(image_message(next(INDICES))).withheld
    assert withheld == {"drivable": "tf: front_optical is unknown"}
    tf.pose = CameraPose(0.5, x_m=2.0)
    cells = [newest(rig, {"drivable": grids})["drivable"].data]
    tf.pose = CameraPose(0.5, x_m=2.0, yaw_rad=1.0)  # the next frame is seen from elsewhere
    cells.append(newest(rig, {"drivable": grids})["drivable"].data)
    assert cells[0] != cells[1]
    assert all({0, -1} <= {*got} for got in cells)


def test_tf2_gives_the_pose_of_the_newest_transform(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for tf2_ros, which has no wheel: what is asked of it, and what becomes of it."""
    asked: list[tuple] = []
    found = TransformStamped()
    found.transform.translation.x, found.transform.translation.z = 1.25, 1.5
    # The optical frame of a camera that looks forward: rpy -90, 0, -90 degrees.
    turn = found.transform.rotation
    turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5

    class Buffer:
        def lookup_transform(self, target: str, source: str, time: Any) -> TransformStamped:
            asked.append((target, source, time.nanoseconds))
            if source == "rear":
                raise LookupError('"rear" passed to lookupTransform argument does not exist')
            return found

    class TransformListener:
        def __init__(self, buffer: Buffer, node: object) -> None:
            assert node is rig.node

        def unregister(self) -> None:
            asked.append(("unregistered",))

    stub = types.SimpleNamespace(Buffer=Buffer, TransformListener=TransformListener)
    monkeypatch.setitem(sys.modules, "tf2_ros", stub)
    assert tf2_is_installed()
    poses = TfPoses(rig.node, "base_footprint")
    pose = poses("/front_optical")
    assert (pose.x_m, pose.y_m, pose.height_m) == (1.25, 0.0, 1.5)
    np.testing.assert_allclose(pose.rotation(), CameraPose(1.5).rotation(), atol=1e-12)
    with pytest.raises(PoseError, match='camera_height_m is 0, and tf: "rear" passed to lookup'):
        poses("rear")
    found.transform.translation.z = 0.0
    with pytest.raises(PoseError, match=r"tf places 'low' in 'base_footprint': height_m is 0.0"):
        poses("low")
    poses.close()
    assert asked[0] == ("base_footprint", "front_optical", 0)  # 0: the newest there is
    assert asked[-1] == ("unregistered",)


def test_compressed_pictures_are_those_of_image_transport(rig: Rig) -> None:
    names = ("semantic", "overlay", "semantic/compressed", "overlay/compressed")
    seen = newest(rig, {name: rig.hear(name) for name in names})
    mask, overlay = seen["semantic/compressed"], seen["overlay/compressed"]
    assert mask.format == "mono8; png compressed "
    assert overlay.format == "rgb8; jpeg compressed bgr8"
    assert mask.header == overlay.header == seen["semantic"].header
    labels = cv2.imdecode(np.frombuffer(mask.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert labels.tobytes() == seen["semantic"].data.tobytes()  # ids survive, 255 too
    drawn = np.frombuffer(seen["overlay"].data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    file = cv2.imencode(".jpg", drawn[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 80))[1]
    assert (frame_from_compressed(overlay).rgb == cv2.imdecode(file, 1)[..., ::-1]).all()
