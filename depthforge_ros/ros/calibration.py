# SPDX-License-Identifier: Apache-2.0
"""Which CameraInfo describes an image, and what it says: intrinsics, distortion, viewing rays.

K and D of a CameraInfo describe the raw image, P the rectified one (CameraInfo.msg), and drivers
publish the same message beside both. `calibration_of` decides which image it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo

from depthforge_ros.frame import Frame
from depthforge_ros.pixel_rays import PixelRays, pixel_rays
from depthforge_ros.ros.messages import scaled_camera_info

RECTIFIED = ("auto", "true", "false")
"""Values of the parameter `rectified`."""

FISHEYE = ("equidistant", "fisheye")
"""Names of Kannala and Brandt's model; with D of zeros it is still a fisheye."""
BROWN = ("plumb_bob", "rational_polynomial", "")
"""Names of Brown's models; an empty name goes with D of zeros, or with D of their lengths."""
BROWN_LENGTHS = (4, 5, 8, 12, 14)

MIN_FOCAL, MAX_FOCAL = 0.05, 1000
"""Focal lengths of cameras, in widths of their images: 0.05 would be 169 degrees of a pinhole."""
MAX_DISAGREEMENT = 0.001
"""K and P that differ by no more than this share of the focal length are the same."""
GRID_STEPS, MAX_GRID_PX = 240, 8
"""Rays of a lens are solved for so many places along the longer side, or more, and interpolated by
cubics between them."""
MAX_REPROJECTION_PX = 0.05
"""Rays that lead further away from their own pixel by the lens's model are unknown."""
MAX_ANGLE_RAD = math.radians(88)
"""Rays that look further from the optical axis have no useful z."""


class CalibrationError(ValueError):
    """A CameraInfo that gives no rays; the text says why."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """The geometry of the images that one CameraInfo describes.

    rectified: whether the images are. reason: how that was decided, for people. warning: what may
    be wrong with the decision, empty where nothing is. distorted: whether D applies.
    """

    info: CameraInfo
    rectified: bool
    reason: str
    warning: str = ""
    distorted: bool = False
    _rays: dict[tuple[int, int], PixelRays] = field(default_factory=dict, repr=False)

    @property
    def description(self) -> str:
        """How the CameraInfo is read, for people."""
        if self.rectified:
            return f"rectified, P holds ({self.reason})"
        lens = f", {self.info.distortion_model or 'plumb_bob'}" if self.distorted else ""
        return f"raw{lens}, K holds ({self.reason})"

    def scaled(self, width: int, height: int) -> CameraInfo:
        """Return the CameraInfo of the published images, width x height, with the input's header.

        Standard consumers get the node's rays from it: image_geometry reads P, and of a distorted
        image after rectifying it by K, D, R and P.
        """
        scaled = scaled_camera_info(self.info, width, height)
        if self.distorted:
            return scaled
        p = np.reshape(scaled.p, (3, 4))
        if self.rectified:
            scaled.k = p[:, :3].ravel()
        elif _disagreement(self.info) > MAX_DISAGREEMENT or not _is_identity(scaled.r):
            scaled.p = np.hstack([np.reshape(scaled.k, (3, 3)), np.zeros((3, 1))]).ravel()
        scaled.r = np.eye(3).ravel()
        scaled.distortion_model, scaled.d = "plumb_bob", [0.0] * 5
        return scaled

    def focal_px(self) -> float:
        """Return fx in pixels of the images that come with the CameraInfo."""
        fx = self.info.p[0] if self.rectified else self.info.k[0]
        return float(fx / max(self.info.binning_x, 1))

    def rays(self, width: int, height: int) -> PixelRays:
        """Return the rays of an image resized to width x height; the same object every time."""
        if (width, height) not in self._rays:
            scaled = self.scaled(width, height)
            k = np.reshape(scaled.k, (3, 3))
            if self.distorted:
                fisheye = scaled.distortion_model in FISHEYE
                rays = lens_rays(k, np.array(scaled.d, float), fisheye, width, height)
            else:
                rays = pixel_rays(k, height, width)
            self._rays[width, height] = rays
        return self._rays[width, height]


def calibration_of(
    info: CameraInfo, rectified: str = "auto", image_topic: str = "", info_topic: str = ""
) -> Calibration:
    """Decide whether images are rectified, and so which numbers of their CameraInfo hold.

    rectified: one of RECTIFIED. Automatic: by the name of the image's topic; then, raw where D says
    that the lens distorts; then, raw as well, with a warning where P differs from K. A CameraInfo
    that has only one of K and P is used by what it has. Raises CalibrationError.
    """
    where = f" on {info_topic}" if info_topic else ""
    _check_region(info, where)
    has_k = _is_camera(np.reshape(info.k, (3, 3)), info.width, f"K of camera_info{where}")
    has_p = _is_camera(np.reshape(info.p, (3, 4))[:, :3], info.width, f"P of camera_info{where}")
    if not has_k and not has_p:
        raise CalibrationError(f"camera_info{where} is not calibrated: K and P are zero")
    named = topic_is_rectified(image_topic)
    disagreement = _disagreement(info) if has_k and has_p else 0.0
    warning = ""
    if rectified != "auto":
        chosen, reason = rectified == "true", f"parameter rectified is {rectified}"
    elif named is not None:
        chosen, reason = named, f"by the name of topic {image_topic}"
    elif _distorts(info):
        chosen, reason = False, "D is not zero"
    else:
        chosen, reason = False, "D is zero"
        if disagreement > MAX_DISAGREEMENT:
            warning = (
                f"K and P of camera_info{where} differ by {disagreement:.1%} and nothing says "
                "whether images are rectified: taken for raw; set the parameter rectified"
            )
    if chosen and not has_p:
        if _distorts(info):
            raise CalibrationError(f"images are rectified ({reason}) and P is zero{where}")
        return Calibration(info, False, f"{reason}; P is zero, K holds")
    if not chosen and not has_k:
        return Calibration(info, True, f"{reason}; K is zero, P holds")
    if chosen:
        return Calibration(info, True, reason, warning)
    distorted = _distorts(info)
    if distorted:
        _check_distortion(info, where)
    return Calibration(info, False, reason, warning, distorted)


def topic_is_rectified(topic: str) -> bool | None:
    """Return whether an image topic's name says rectified (image_rect_color, rectified/image) or
    raw (image_raw); None where it says neither.
    """
    words = re.split(r"[/_]", topic.removesuffix("/compressed").lower())
    if {"rect", "rectified", "rectify", "undist", "undistort", "undistorted"} & {*words}:
        return True  # RealSense's depth/image_rect_raw too
    return False if {"raw", "unrectified", "distorted"} & {*words} else None


def lens_rays(k: np.ndarray, d: np.ndarray, fisheye: bool, width: int, height: int) -> PixelRays:
    """Return the rays of a lens that distorts, NaN where its model has no inverse.

    k: [3, 3]. d: of OpenCV's model (calib3d), or of its fisheye model (Kannala and Brandt 2006).
    """
    d = d if d.size else np.zeros(4)
    step = min(max(max(width, height) / GRID_STEPS, 1), MAX_GRID_PX)
    columns, rows = _nodes(width, step), _nodes(height, step)
    nodes = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)  # [n, 2]
    xy = _undistorted(nodes, k, d, fisheye)
    apart = np.linalg.norm(_distorted(xy, k, d, fisheye) - nodes, axis=-1)  # [n] pixels
    # As angles from the axis, which stay smooth where the ray's slope goes to infinity.
    length = np.hypot(*xy.T)  # [n]
    good = (apart < MAX_REPROJECTION_PX) & np.isfinite(length)
    angles = xy * np.where(length > 0, np.arctan(length) / np.maximum(length, 1e-12), 1)[:, None]
    angles = np.where(good[:, None], angles, 0).reshape(len(rows), len(columns), 2)
    down, across = _cubic(rows, height), _cubic(columns, width)  # [H, rows], [W, columns]
    x, y = (down @ angles[..., axis] @ across.T for axis in (0, 1))  # [H, W] each
    bad = (~good).reshape(len(rows), len(columns)).astype(float)
    unknown = np.abs(down) @ bad @ np.abs(across).T > 1e-9
    angle = np.hypot(x, y)
    unknown |= angle > MAX_ANGLE_RAD
    bounded = np.minimum(angle, MAX_ANGLE_RAD)
    slope = np.where(angle > 0, np.tan(bounded) / np.maximum(angle, 1e-12), 1)
    x, y = x * slope, y * slope
    # Where the model is about to lose its inverse, cubics may fail between the nodes.
    centre_rows = np.round((rows[1:] + rows[:-1]) / 2).astype(int)
    centre_columns = np.round((columns[1:] + columns[:-1]) / 2).astype(int)
    centres = np.stack(np.meshgrid(centre_columns, centre_rows), -1)  # [cells, cells, 2]
    seen = np.stack([x, y], -1)[np.ix_(centre_rows, centre_columns)].reshape(-1, 2)
    back = _distorted(seen, k, d, fisheye).reshape(centres.shape)
    failed = ~(np.linalg.norm(back - centres, axis=-1) < MAX_REPROJECTION_PX)
    row_cells = np.searchsorted(rows[1:-1], np.arange(height))
    unknown |= failed[np.ix_(row_cells, np.searchsorted(columns[1:-1], np.arange(width)))]
    x[unknown] = y[unknown] = np.nan
    return PixelRays(x.astype(np.float32), y.astype(np.float32))


def _undistorted(pixels: np.ndarray, k: np.ndarray, d: np.ndarray, fisheye: bool) -> np.ndarray:
    """Rays [n, 2] at z = 1 of pixels [n, 2], by OpenCV; rubbish where there are none."""
    pixels = pixels.reshape(-1, 1, 2)
    if fisheye:
        return cv2.fisheye.undistortPoints(pixels, k, d).reshape(-1, 2)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-6)
    if hasattr(cv2, "undistortPointsIter"):  # OpenCV 4
        rays = cv2.undistortPointsIter(pixels, k, d, np.eye(3), np.eye(3), criteria)
    else:
        rays = cv2.undistortPoints(pixels, k, d, criteria=criteria)
    return rays.reshape(-1, 2)


def _distorted(rays: np.ndarray, k: np.ndarray, d: np.ndarray, fisheye: bool) -> np.ndarray:
    """Pixels [n, 2] that see the rays [n, 2]."""
    rays = rays.reshape(-1, 1, 2).astype(np.float64)
    if fisheye:
        return cv2.fisheye.distortPoints(rays, k, d).reshape(-1, 2)
    ahead = np.concatenate([rays, np.ones_like(rays[..., :1])], -1)  # [n, 1, 3]
    pixels, _ = cv2.projectPoints(ahead, np.zeros(3), np.zeros(3), k, d)
    return pixels.reshape(-1, 2)


def _nodes(size: int, step: float) -> np.ndarray:
    """Places along a side where rays are solved, evenly from the first pixel to the last."""
    return np.linspace(0.0, size - 1.0, max(4, math.ceil((size - 1) / step) + 1))


def _cubic(nodes: np.ndarray, size: int) -> np.ndarray:
    """Weights [size, nodes] of Lagrange's cubic interpolation at every pixel."""
    place = np.arange(size) / (nodes[1] - nodes[0])
    first = np.clip(np.floor(place).astype(int) - 1, 0, len(nodes) - 4)  # [size]
    weights = np.zeros((size, len(nodes)))
    for i in range(4):
        others = [j for j in range(4) if j != i]
        factors = [(place - first - j) / (i - j) for j in others]
        weights[np.arange(size), first + i] = np.prod(factors, axis=0)
    return weights


def _is_camera(matrix: np.ndarray, width: int, name: str) -> bool:
    """Return whether a matrix [3, 3] is given; zeros mean that it is not (CameraInfo.msg).

    width: of the camera's images, 0 if it is not known. Raises CalibrationError if it is no
    camera's: by columns instead of rows, in parts of the image's width instead of pixels, skewed.
    """
    if not np.any(matrix):
        return False
    values = ", ".join(f"{value:g}" for value in matrix.ravel())
    if not (np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise CalibrationError(f"{name} is {values}; expected finite values and a focal length")
    zeros = np.abs([matrix[0, 1], matrix[1, 0], *matrix[2, :2]])
    # Some drivers leave the last number 0; skew below a thousandth is a calibration's noise.
    if zeros.max() > MAX_DISAGREEMENT * matrix[0, 0] or matrix[2, 2] not in (0, 1):
        raise CalibrationError(f"{name} is {values}; expected fx, 0, cx, 0, fy, cy, 0, 0, 1")
    for focal_px in (matrix[0, 0], matrix[1, 1]):
        if width and not MIN_FOCAL <= focal_px / width <= MAX_FOCAL:
            raise CalibrationError(
                f"{name} has a focal length of {focal_px:g} for images {width} wide; expected "
                f"pixels, {MIN_FOCAL * width:g}..{MAX_FOCAL * width:g}"
            )
    return True


def _check_region(info: CameraInfo, where: str) -> None:
    """Raise CalibrationError if the region of interest leaves the sensor."""
    roi = info.roi
    width, height = roi.width or info.width, roi.height or info.height
    if roi.x_offset + width > info.width or roi.y_offset + height > info.height:
        raise CalibrationError(
            f"roi of camera_info{where} is {width}x{height} at {roi.x_offset}, {roi.y_offset}; "
            f"expected a part of {info.width}x{info.height}"
        )


def _is_identity(r: np.ndarray) -> bool:
    return bool(np.allclose(np.reshape(r, (3, 3)), np.eye(3))) or not np.any(r)


def _disagreement(info: CameraInfo) -> float:
    """Largest difference of K and P, as a share of the focal length; 0 where one is zero."""
    k, p = np.reshape(info.k, (3, 3)), np.reshape(info.p, (3, 4))[:, :3]
    if not np.any(k) or not np.any(p):
        return 0.0
    return float(np.abs(k - p).max() / max(abs(k[0, 0]), 1e-12))


def _distorts(info: CameraInfo) -> bool:
    return info.distortion_model in FISHEYE or bool(np.any(info.d))


def _check_distortion(info: CameraInfo, where: str) -> None:
    """Raise CalibrationError where the lens's model is not known or its numbers are none."""
    model, count = info.distortion_model, len(info.d)
    if model not in FISHEYE and model not in BROWN:
        known = ", ".join(name for name in (*BROWN, *FISHEYE) if name)
        raise CalibrationError(f"distortion_model{where} is {model!r}; expected one of {known}")
    lengths = (0, 4) if model in FISHEYE else BROWN_LENGTHS
    if count not in lengths:
        allowed = ", ".join(map(str, lengths))
        raise CalibrationError(f"D{where} has {count} numbers for {model!r}; expected {allowed}")
    if not np.isfinite(info.d).all():
        raise CalibrationError(f"D{where} has numbers that are not finite")


def _image_size(info: CameraInfo) -> tuple[int, int]:
    """Width and height of the images that come with the CameraInfo."""
    width = (info.roi.width or info.width) // max(info.binning_x, 1)
    return width, (info.roi.height or info.height) // max(info.binning_y, 1)


class CameraInfos:
    """The latest CameraInfo of each image geometry that was seen on a topic.

    image_topic, info_topic: their names, for messages and to recognise rectified images.
    publishers: how many the CameraInfo's topic has now.
    """

    MAX_GEOMETRIES = 8

    def __init__(
        self,
        image_topic: str = "",
        info_topic: str = "",
        publishers: Callable[[], int] = lambda: 1,
    ) -> None:
        self._image_topic, self._info_topic = image_topic, info_topic
        self._publishers = publishers
        # Replaced as a whole, never changed: one thread adds while another looks.
        self._latest: dict[tuple[str, int, int], CameraInfo] = {}
        self._calibrations: dict[tuple, Calibration] = {}

    def add(self, info: CameraInfo) -> None:
        """Keep the message; the geometry that is longest without one is forgotten first."""
        key = (_plain(info.header.frame_id), *_image_size(info))
        others = [(k, v) for k, v in self._latest.items() if k != key]
        self._latest = dict([*others[-(self.MAX_GEOMETRIES - 1) :], (key, info)])

    def matching(self, frame: Frame) -> CameraInfo | None:
        """Return the latest CameraInfo for the frame's optical frame and size, None without one.

        An empty frame_id, of either, fits any where the CameraInfo's topic has one publisher.
        """
        frame_id, size = _plain(frame.frame_id), (frame.width, frame.height)
        latest = self._latest
        exact = latest.get((frame_id, *size))
        if exact is not None:
            return exact
        fitting = [i for key, i in latest.items() if key[1:] == size and not (key[0] and frame_id)]
        return fitting[-1] if fitting and self._publishers() == 1 else None

    def calibration(self, frame: Frame, rectified: str = "auto") -> Calibration:
        """Return the calibration of a frame; the same object while it is the same.

        rectified: see `calibration_of`. Raises CalibrationError, which says what does not fit.
        """
        info = self.matching(frame)
        if info is None:
            raise CalibrationError(self._mismatch(frame))
        key = (rectified, *_content(info))
        if key not in self._calibrations:
            made = calibration_of(info, rectified, self._image_topic, self._info_topic)
            kept = [*self._calibrations.items()][-(self.MAX_GEOMETRIES - 1) :]
            self._calibrations = dict([*kept, (key, made)])
        return self._calibrations[key]

    def _mismatch(self, frame: Frame) -> str:
        """Say how the newest CameraInfo differs from the frame."""
        topic = self._info_topic or "its topic"
        if not self._latest:
            return f"no camera_info on {topic}"
        frame_id, width, height = next(reversed(self._latest))
        info = self._latest[frame_id, width, height]
        differences = []
        if frame_id != _plain(frame.frame_id):
            differences.append(f"frame_id {info.header.frame_id!r} against {frame.frame_id!r}")
        if (width, height) != (frame.width, frame.height):
            binned = ""
            if info.binning_x > 1 or info.binning_y > 1:
                binned = f" ({info.width}x{info.height} with binning)"
            differences.append(f"{width}x{height}{binned} against {frame.width}x{frame.height}")
        text = f"camera_info does not fit: {', '.join(differences)} on {topic}"
        publishers = self._publishers()
        return f"{text}, which has {publishers} publishers" if publishers > 1 else text


def _plain(frame_id: str) -> str:
    """The frame_id without the leading slash of ROS 1."""
    return frame_id.lstrip("/")


def _content(info: CameraInfo) -> tuple:
    """What of a CameraInfo does not change from frame to frame."""
    roi = info.roi
    return (
        *(np.asarray(values, float).tobytes() for values in (info.k, info.p, info.d, info.r)),
        *(info.width, info.height, info.binning_x, info.binning_y, info.distortion_model),
        *(roi.x_offset, roi.y_offset, roi.width, roi.height),
    )
