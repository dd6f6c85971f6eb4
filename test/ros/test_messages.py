# SPDX-License-Identifier: Apache-2.0
"""Output messages: how images are packed, how a CameraInfo is scaled, and what labels say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from image_messages import HEIGHT, WIDTH, header, noise
from sensor_msgs.msg import CameraInfo, RegionOfInterest

from depthforge_ros.ros.messages import (
    depth_message,
    focal_px,
    labels_message,
    mono8_message,
    rgb8_message,
    scaled_camera_info,
)
from depthforge_ros.variant import load_labels


def test_outputs_are_packed_as_their_encoding_says() -> None:
    given = header()
    labels, rgb = noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH, 3)
    depth = np.linspace(-3, 90, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    depth[0, :2] = np.nan, np.inf
    for message, encoding, step, content in (
        (mono8_message(given, labels), "mono8", WIDTH, labels.tobytes()),
        (depth_message(given, depth), "32FC1", 4 * WIDTH, depth.astype("<f4").tobytes()),
        (rgb8_message(given, rgb), "rgb8", 3 * WIDTH, rgb.tobytes()),
        (mono8_message(given, labels[:, ::2]), "mono8", WIDTH // 2, labels[:, ::2].tobytes()),
    ):
        assert message.header is given
        assert (message.encoding, message.step, message.is_bigendian) == (encoding, step, 0)
        assert message.height == HEIGHT
        assert message.data.tobytes() == content
    with pytest.raises(
        ValueError, match=r"32FC1 image is \[48, 64\] uint8; expected \[H, W\] float32"
    ):
        depth_message(given, labels)
    with pytest.raises(ValueError, match=r"rgb8 image is \[48, 64\] uint8; expected \[H, W, 3\]"):
        rgb8_message(given, labels)


def camera_info(**values: object) -> CameraInfo:
    return CameraInfo(
        header=header(),
        width=640,
        height=480,
        distortion_model="plumb_bob",
        d=[0.1, -0.2, 0.001, 0.002, 0.05],
        k=[500.0, 0.0, 310.0, 0.0, 520.0, 250.0, 0.0, 0.0, 1.0],
        r=[0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        p=[490.0, 0.0, 311.0, -49.0, 0.0, 510.0, 251.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        **values,
    )


def bearing(info: CameraInfo, u: float, v: float) -> np.ndarray:
    """The direction that the corner-based image coordinates u, v in 0..1 look at, by K."""
    k = np.reshape(info.k, (3, 3))
    return np.linalg.solve(k, [u * info.width - 0.5, v * info.height - 0.5, 1.0])


@pytest.mark.parametrize(("width", "height"), [(640, 480), (320, 240), (1280, 320), (100, 75)])
def test_a_scaled_camera_looks_the_same_way(width: int, height: int) -> None:
    info = camera_info()
    scaled = scaled_camera_info(info, width, height)
    assert (scaled.width, scaled.height) == (width, height)
    for u, v in ((0, 0), (1, 1), (0.3, 0.8)):
        np.testing.assert_allclose(bearing(scaled, u, v), bearing(info, u, v), atol=1e-12)
    x, y = width / 640, height / 480
    np.testing.assert_allclose(
        scaled.p,
        [490 * x, 0, 311.5 * x - 0.5, -49 * x, 0, 510 * y, 251.5 * y - 0.5, 0, 0, 0, 1, 0],
    )
    assert scaled.header is info.header
    assert (list(scaled.d), list(scaled.r)) == (list(info.d), list(info.r))
    assert scaled.distortion_model == "plumb_bob"


def test_region_and_binning_are_applied_once() -> None:
    roi = RegionOfInterest(x_offset=100, y_offset=40, width=320, height=240, do_rectify=True)
    info = camera_info(roi=roi, binning_x=2, binning_y=2)
    scaled = scaled_camera_info(info, 160, 120)  # the size of the image that comes with it
    np.testing.assert_allclose(
        scaled.k, [250, 0, (310 - 100 + 0.5) / 2 - 0.5, 0, 260, (250 - 40 + 0.5) / 2 - 0.5, 0, 0, 1]
    )
    assert (scaled.binning_x, scaled.roi.width, scaled.roi.x_offset) == (0, 0, 0)
    assert scaled.roi.do_rectify
    assert (info.width, info.binning_x, info.k[2]) == (640, 2, 310.0)


def test_an_uncalibrated_camera_stays_so() -> None:
    info = CameraInfo(width=640, height=480)
    scaled = scaled_camera_info(info, 320, 240)
    assert not np.any(scaled.k)
    assert not np.any(scaled.p)
    assert focal_px(info) is None


def test_the_focal_length_is_that_of_the_image() -> None:
    assert focal_px(camera_info()) == 500
    assert focal_px(camera_info(binning_x=2)) == 250
    for fx in (0.0, -500.0, math.inf, math.nan):
        info = camera_info()
        info.k[0] = fx
        assert focal_px(info) is None


@pytest.mark.parametrize("size", [(0, 10), (10, 0)])
def test_no_scale_is_an_error(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be scaled"):
        scaled_camera_info(camera_info(), *size)
    with pytest.raises(ValueError, match="camera_info of 0x0"):
        scaled_camera_info(CameraInfo(), 10, 10)


def test_labels_are_json_that_a_planner_can_read() -> None:
    labels = load_labels("cityscapes")
    content = json.loads(labels_message(labels).data)
    assert (content["name"], content["unlabelled"]) == ("cityscapes", 255)
    assert content["classes"][0] == {"id": 0, "name": "road", "color": [128, 64, 128]}
    assert [entry["id"] for entry in content["classes"]] == list(range(19))
