# SPDX-License-Identifier: Apache-2.0
"""Rays by K and D of raw images and by P of rectified ones, against OpenCV's own projections."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, RegionOfInterest

from depthforge_ros.frame import Frame
from depthforge_ros.ros.calibration import (
    CalibrationError,
    CameraInfos,
    calibration_of,
    topic_is_rectified,
)

HEIGHT, WIDTH = 96, 160
K = np.array([[120.0, 0, 81], [0, 118, 46], [0, 0, 1]])
P = np.array([[105.0, 0, 79], [0, 104, 47], [0, 0, 1]])
LENSES = {
    "plumb_bob": [-0.28, 0.07, 0.001, -0.0005, -0.008],
    "rational_polynomial": [0.3, -0.05, 0.001, 0.0005, 0.01, 0.6, 0.02, 0.004],
    "equidistant": [-0.02, 0.01, -0.004, 0.001],
}


def camera_info(model: str = "plumb_bob", d: list[float] | None = None, **changes) -> CameraInfo:
    info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model=model)
    info.header.frame_id = "cam"
    info.d = LENSES[model] if d is None else d
    info.k = K.ravel()
    info.p = np.hstack([P, [[-10.5], [0], [0]]]).ravel()
    info.r = np.eye(3).ravel()
    for name, value in changes.items():
        setattr(info, name, value)
    return info


def frame(frame_id: str = "cam", height: int = HEIGHT, width: int = WIDTH) -> Frame:
    return Frame(np.zeros((height, width, 3), np.uint8), 1, frame_id)


def rays_of(info: CameraInfo, rectified: str, width: int = WIDTH, height: int = HEIGHT):
    """Every pixel and its ray: [n, 2] and [n, 3]."""
    rows, columns = map(np.ravel, np.mgrid[:height, :width])
    rays = calibration_of(info, rectified).rays(width, height).at(rows, columns)
    return np.stack([columns, rows], -1), rays


def projected(rays: np.ndarray, k: np.ndarray, model: str, d: list[float]) -> np.ndarray:
    """Where OpenCV's model of the lens sees the rays: [n, 2]."""
    points = rays.reshape(-1, 1, 3)
    if model == "equidistant":
        return cv2.fisheye.distortPoints(points[..., :2].copy(), k, np.array(d)).reshape(-1, 2)
    return cv2.projectPoints(points, np.zeros(3), np.zeros(3), k, np.array(d))[0].reshape(-1, 2)


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (80, 48)])
@pytest.mark.parametrize("model", LENSES)
def test_the_rays_of_a_raw_image_lead_back_to_its_pixels(model: str, size: tuple[int, int]) -> None:
    info = camera_info(model)
    pixels, rays = rays_of(info, "false", *size)
    scale = size[0] / WIDTH
    k = np.diag([scale, scale, 1]) @ K
    k[:2, 2] += (scale - 1) / 2  # pixel centres are whole numbers
    known = np.isfinite(rays).all(1)
    assert known.mean() > 0.99
    assert np.abs(projected(rays[known], k, model, LENSES[model]) - pixels[known]).max() < 0.05
    # Without D the rays of a corner are wrong by more than a tenth.
    pinhole = (pixels[0] - k[:2, 2]) / np.diag(k)[:2]
    assert np.abs(rays[0, :2] / pinhole - 1).max() > 0.1


def test_a_fisheye_whose_coefficients_are_zero_is_still_one() -> None:
    info = camera_info("equidistant", [0.0] * 4)
    pixels, rays = rays_of(info, "auto")
    angle = np.hypot(*((pixels - K[:2, 2]) / np.diag(K)[:2]).T)  # theta = r / f
    known = np.isfinite(rays).all(1)
    np.testing.assert_allclose(np.arctan(np.hypot(*rays[known, :2].T)), angle[known], atol=1e-5)
    assert (known == (angle < np.radians(88))).mean() > 0.99


def test_pixels_that_a_lens_model_cannot_reach_have_no_ray() -> None:
    info = camera_info(d=[-0.5, 0.0, 0.0, 0.0, 0.0])  # folds back beyond a radius of 0.82
    pixels, rays = rays_of(info, "false")
    radius = np.hypot(*((pixels - K[:2, 2]) / np.diag(K)[:2]).T)
    limit = 0.82 * (1 - 0.5 * 0.82**2)
    assert np.isnan(rays[radius > limit + 0.02, 0]).all()
    assert np.isfinite(rays[radius < limit - 0.05]).all()


@pytest.mark.parametrize("model", LENSES)
def test_rectified_images_have_the_rays_of_p(model: str) -> None:
    info = camera_info(model)
    pixels, rays = rays_of(info, "true")
    np.testing.assert_allclose(rays[:, :2], (pixels - P[:2, 2]) / np.diag(P)[:2], atol=1e-6)
    calibration = calibration_of(info, "true")
    assert calibration.focal_px() == 105.0
    made = calibration.scaled(WIDTH, HEIGHT)
    # depth_image_proc reads P, others K: both are those of the published image, which is straight.
    np.testing.assert_allclose(made.p, info.p)
    np.testing.assert_allclose(np.reshape(made.k, (3, 3)), P)
    np.testing.assert_allclose(np.reshape(made.r, (3, 3)), np.eye(3))
    assert not np.any(made.d)


def test_a_raw_image_without_distortion_is_published_with_the_rays_of_k() -> None:
    info = camera_info(d=[0.0] * 5)
    pixels, rays = rays_of(info, "false")
    np.testing.assert_allclose(rays[:, :2], (pixels - K[:2, 2]) / np.diag(K)[:2], atol=1e-6)
    made = calibration_of(info, "false").scaled(WIDTH, HEIGHT)
    np.testing.assert_allclose(np.reshape(made.p, (3, 4)), np.hstack([K, np.zeros((3, 1))]))
    np.testing.assert_allclose(np.reshape(made.k, (3, 3)), K)


@pytest.mark.parametrize("model", LENSES)
def test_a_distorted_depth_image_rectified_by_the_published_camera_info_gives_the_same_points(
    model: str,
) -> None:
    """What image_proc and depth_image_proc do: rectify by K, D, R, P; then project by P."""
    info = camera_info(model)
    calibration = calibration_of(info, "false")
    made = calibration.scaled(WIDTH, HEIGHT)
    k, d = np.reshape(made.k, (3, 3)), np.array(made.d)
    p = np.reshape(made.p, (3, 4))[:, :3]
    rectify = cv2.fisheye.initUndistortRectifyMap if model == "equidistant" else None
    rectify = rectify or cv2.initUndistortRectifyMap
    x, y = rectify(k, d, np.reshape(made.r, (3, 3)), p, (WIDTH, HEIGHT), cv2.CV_32FC1)
    rays = calibration.rays(WIDTH, HEIGHT)
    seen = cv2.remap(np.dstack([rays.x, rays.y]), x, y, cv2.INTER_LINEAR, borderValue=np.nan)
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    standard = np.dstack([(u - p[0, 2]) / p[0, 0], (v - p[1, 2]) / p[1, 1]])
    both = np.isfinite(seen).all(-1)
    assert both.mean() > 0.6
    assert np.abs(seen - standard)[both].max() < 0.01  # remap interpolates to 1/32 pixel


def test_region_and_binning_apply_before_the_lens() -> None:
    roi = RegionOfInterest(x_offset=20, y_offset=10, width=100, height=80)
    info = camera_info(roi=roi, binning_x=2, binning_y=2)
    pixels, rays = rays_of(info, "false", 50, 40)
    full = pixels * 2.0 + 0.5 + [20, 10]  # the centre of the binned pixel in the full image
    d = LENSES["plumb_bob"]
    assert np.abs(projected(rays, K, "plumb_bob", d) - full).max() < 0.1
    assert calibration_of(info, "false").focal_px() == 60.0


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/cam/image_rect", True),
        ("/cam/image_rect_color/compressed", True),
        ("/cam/depth/image_rect_raw", True),
        ("/cam/rectified/image", True),
        ("/cam/image_raw", False),
        ("/cam/image_raw/compressed", False),
        ("/cam/image", None),
        ("/direct/image", None),
        ("", None),
    ],
)
def test_the_name_of_a_topic_may_say_it(topic: str, rectified: bool | None) -> None:
    assert topic_is_rectified(topic) is rectified


ZERO_K, ZERO_P, ZERO_D = [0.0] * 9, [0.0] * 12, [0.0] * 5


@pytest.mark.parametrize(
    ("changes", "topic", "description"),
    [
        ({}, "/cam/image_rect", "rectified, P holds (by the name of topic /cam/image_rect)"),
        ({}, "/cam/image_raw", "raw, plumb_bob, K holds (by the name of topic /cam/image_raw)"),
        ({}, "/cam/image", "raw, plumb_bob, K holds (D is not zero)"),
        ({"d": ZERO_D}, "/cam/image", "raw, K holds (D is zero)"),
        ({"k": ZERO_K}, "/cam/image", "rectified, P holds (D is not zero; K is zero, P holds)"),
        (
            {"p": ZERO_P, "d": ZERO_D},
            "/image_rect",
            "raw, K holds (by the name of topic /image_rect; P is zero, K holds)",
        ),
    ],
)
def test_how_it_is_decided_is_said(changes: dict, topic: str, description: str) -> None:
    calibration = calibration_of(camera_info(**changes), "auto", topic, "/cam/camera_info")
    assert calibration.description == description
    # Only what nothing speaks for is doubtful.
    doubtful = description == "raw, K holds (D is zero)"
    expected = "K and P of camera_info on /cam/camera_info differ by 12.5% and nothing says"
    assert calibration.warning.startswith(expected) if doubtful else not calibration.warning


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"k": ZERO_K, "p": ZERO_P}, "camera_info on /c is not calibrated: K and P are zero"),
        (
            {"distortion_model": "kb8"},
            "distortion_model on /c is 'kb8'; expected one of plumb_bob, rational_polynomial,",
        ),
        ({"d": [0.1, 0.2, 0.3]}, "D on /c has 3 numbers for 'plumb_bob'; expected 4, 5, 8, 12, 14"),
        ({"d": [0.1, np.nan, 0, 0, 0]}, "D on /c has numbers that are not finite"),
        (
            {"distortion_model": "equidistant"},
            "D on /c has 5 numbers for 'equidistant'; expected 0, 4",
        ),
    ],
)
def test_what_gives_no_rays_is_refused_with_a_reason(changes: dict, reason: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        calibration_of(camera_info(**changes), "auto", "/cam/image_raw", "/c")
    assert str(caught.value).startswith(reason)
    # D and its model say nothing of a rectified image.
    if "k" not in changes:
        assert calibration_of(camera_info(**changes), "true").rectified


def test_a_frame_without_a_fitting_camera_info_has_a_reason() -> None:
    publishers = 1
    infos = CameraInfos("/cam/image", "/cam/camera_info", lambda: publishers)

    def reason(frame_id: str = "cam", width: int = WIDTH) -> str:
        with pytest.raises(CalibrationError) as caught:
            infos.calibration(frame(frame_id, width=width))
        return str(caught.value)

    assert reason() == "no camera_info on /cam/camera_info"
    infos.add(camera_info())
    fits = infos.calibration(frame())
    # An empty frame_id of either is no contradiction where there is one camera, nor is a slash.
    for name in ("/cam", ""):
        assert infos.calibration(frame(name)) is fits
    mismatch = "camera_info does not fit: {} on /cam/camera_info"
    assert reason("other") == mismatch.format("frame_id 'cam' against 'other'")
    assert reason(width=320) == mismatch.format("160x96 against 320x96")
    infos = CameraInfos("/cam/image", "/cam/camera_info", lambda: publishers)
    nameless = camera_info()
    nameless.header.frame_id = ""
    infos.add(nameless)
    assert infos.calibration(frame("cam")).focal_px() == 120.0
    publishers = 2
    text = mismatch.format("frame_id '' against 'cam'")
    assert reason("cam") == f"{text}, which has 2 publishers"
    infos.add(camera_info(binning_x=2, binning_y=2))
    assert "80x48 (160x96 with binning) against 160x96" in reason("cam")


def test_a_calibration_lasts_until_its_numbers_change() -> None:
    infos = CameraInfos()
    infos.add(camera_info())
    first = infos.calibration(frame(), "false")
    again = camera_info()
    again.header.stamp.sec = 5
    infos.add(again)
    assert infos.calibration(frame(), "false") is first
    assert first.rays(WIDTH, HEIGHT) is first.rays(WIDTH, HEIGHT)
    assert infos.calibration(frame(), "true") is not first
    moved = copy.deepcopy(again)
    moved.k[0] = 121.0
    infos.add(moved)
    assert infos.calibration(frame(), "false").focal_px() == 121.0
