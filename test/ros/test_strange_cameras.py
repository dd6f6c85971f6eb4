# SPDX-License-Identifier: Apache-2.0
"""Calibrations and pictures that look right and are not."""

from __future__ import annotations

import array
import io

import cv2
import numpy as np
import pytest
from bagfiles import HEIGHT, WIDTH, info
from PIL import Image as Picture
from sensor_msgs.msg import CameraInfo, CompressedImage

from depthforge_ros.ros.calibration import CalibrationError, calibration_of, topic_is_rectified
from depthforge_ros.ros.images import BadImage, frame_from_compressed

K = (50.0, 0.0, 24.0, 0.0, 50.0, 16.0, 0.0, 0.0, 1.0)
P = (50.0, 0.0, 24.0, 0.0, 0.0, 50.0, 16.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def calibrated(k: tuple = K, p: tuple = P, roi: tuple = ()) -> CameraInfo:
    made = info(0)
    made.k, made.p = k, p
    for name, value in zip(("x_offset", "y_offset", "width", "height"), roi, strict=False):
        setattr(made.roi, name, value)
    return made


@pytest.mark.parametrize(
    ("k", "reason"),
    [
        ((50, 0, 0, 0, 50, 0, 24, 16, 1), "expected fx, 0, cx, 0, fy, cy, 0, 0, 1"),
        ((50, 3, 24, 0, 50, 16, 0, 0, 1), "expected fx, 0, cx, 0, fy, cy, 0, 0, 1"),
        ((100, 0, 48, 0, 100, 32, 0, 0, 2), "expected fx, 0, cx, 0, fy, cy, 0, 0, 1"),
        ((1.04, 0, 0.5, 0, 1.5, 0.5, 0, 0, 1), "focal length of 1.04 for images 48 wide"),
        ((1e300, 0, 24, 0, 1e300, 16, 0, 0, 1), r"focal length of 1e\+300 for images 48 wide"),
        ((50, 0, 24, 0, 1e-9, 16, 0, 0, 1), "focal length of 1e-09 for images 48 wide"),
    ],
)
def test_matrices_that_are_no_cameras_are_refused(k: tuple, reason: str) -> None:
    """By columns, skewed, scaled, in parts of the width, of no camera that there is."""
    k = tuple(map(float, k))
    with pytest.raises(CalibrationError, match=f"K of camera_info on /c .*{reason}"):
        calibration_of(calibrated(k), "false", info_topic="/c")
    p = tuple(np.hstack([np.reshape(k, (3, 3)), np.zeros((3, 1))]).ravel())
    with pytest.raises(CalibrationError, match=f"P of camera_info on /c .*{reason}"):
        calibration_of(calibrated(p=p), "true", info_topic="/c")


def test_a_last_number_of_zero_and_noise_in_the_skew_are_a_camera() -> None:
    noisy = (50.0, 1e-9, 24.0, 1e-12, 50.0, 16.0, 0.0, 0.0, 0.0)
    rays = calibration_of(calibrated(noisy)).rays(WIDTH, HEIGHT)
    assert np.allclose(rays.x, (np.arange(WIDTH) - 24) / 50)


@pytest.mark.parametrize(
    ("roi", "size"),
    [
        ((4, 4), "48x32 at 4, 4"),
        ((40, 0, 40, 20), "40x20 at 40, 0"),
        ((0, 16, 48), "48x32 at 0, 16"),
    ],
)
def test_regions_beyond_the_sensor_are_refused(roi: tuple, size: str) -> None:
    with pytest.raises(CalibrationError, match=f"roi of camera_info on /c is {size}; expected"):
        calibration_of(calibrated(roi=roi), info_topic="/c")


def test_a_region_within_the_sensor_moves_the_centre() -> None:
    rays = calibration_of(calibrated(roi=(8, 12, 40, 20))).rays(40, 20)
    assert np.allclose(rays.x, (np.arange(40) + 8 - 24) / 50)


@pytest.mark.parametrize("topic", ["/cam/image_undistort", "/cam/undist/image", "/rectify/image"])
def test_names_of_undistorted_images(topic: str) -> None:
    assert topic_is_rectified(topic) is True


def test_a_jpeg_of_four_inks_that_lost_data_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
    rgb = cv2.GaussianBlur(noise, (9, 9), 3)
    stream = io.BytesIO()
    Picture.fromarray(rgb).convert("CMYK").save(stream, "JPEG", quality=95)
    whole = stream.getvalue()

    def served(content: bytes) -> np.ndarray:
        data = array.array("B", content)
        return frame_from_compressed(CompressedImage(format="jpeg", data=data)).rgb

    assert np.abs(served(whole).astype(int) - rgb).max() <= 12
    half, end = len(whole) // 2, b"\xff\xd9"
    for content in (whole[:half] + end, whole[:half] + whole[half + half // 2 :], whole[:half]):
        with pytest.raises(BadImage, match="Corrupt JPEG data"):
            served(content)
