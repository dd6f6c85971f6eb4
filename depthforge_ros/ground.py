# SPDX-License-Identifier: Apache-2.0
"""Metres from relative depth, by the road: its plane lies a known height below the camera.

Affine-invariant inverse depth is d = A/z + B with A and B unknown. On the plane n·X = h (n the unit
normal, h the camera's height) a ray r = ((u - cx)/fx, (v - cy)/fy, 1) meets the ground at
1/z = n·r/h, so over the road d is linear in the ray:

    d = (A/h) n·r + B = α·x + β·y + γ,   with (α, β, γ - B) = (A/h) n.

A robust fit gives α, β and γ. In the sky 1/z is 0, so d is B there. Without sky, B follows from the
camera's pitch, given or shown by earlier frames with sky: n = (sin r·cos p, cos r·cos p, sin p) at
pitch p and roll r, so tan p = (γ - B) / hypot(α, β) whatever the roll. As n has length one,
A = h·|(α, β, γ - B)|, and 1/z = (d - B)/A everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from depthforge_ros.frame import DepthKind, Prediction
from depthforge_ros.pixel_rays import PixelRays, pixel_rays
from depthforge_ros.variant import LabelSet

SAMPLES = 4096
"""Most road pixels that enter the fit; more cost time and add nothing."""
CHECKED, CHECK_SAMPLES = 16384, 1024
"""Most pixels of the image that a check of metric depth reads, and most of them in its fit."""
MIN_UPRIGHT = 0.5
"""Smallest cosine between the road's normal and the image's vertical; below it, it is no road."""
MIN_DEPTH_M = 0.05
"""Metric depth below this enters no check."""
ROUNDS = 12
SKY_SHARE = 0.5
"""A pixel labelled sky is taken for sky only beyond this share of the range."""
TUKEY = 4.685
"""Tuning constant of Tukey's biweight: 95 % efficiency under normal noise (Huber, 1981)."""


@dataclass(frozen=True)
class GroundSettings:
    """Conditions under which the road gives metres.

    camera_height_m: of the optical centre above the road. pitch_rad: downwards, used for frames
    without sky; None: as frames with sky have shown it, no metres before the first. min_road,
    min_sky: share of the image. max_residual: median deviation of the road from its plane, as a
    share of the range of its inverse depth. smoothing: weight of the past in the pitch, 0..1.
    max_depth_m: beyond it, +Inf.
    """

    camera_height_m: float
    pitch_rad: float | None = None
    min_road: float = 0.02
    min_sky: float = 0.005
    max_residual: float = 0.05
    smoothing: float = 0.8
    max_depth_m: float = 80.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.camera_height_m <= 10.0:
            raise ValueError(f"camera_height_m is {self.camera_height_m}; expected 0.1..10")
        if self.pitch_rad is not None and not abs(self.pitch_rad) < math.pi / 2:
            raise ValueError(f"pitch_rad is {self.pitch_rad}; expected less than a quarter turn")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing is {self.smoothing}; expected 0 or more and less than 1")
        if not self.max_depth_m > 0:
            raise ValueError(f"max_depth_m is {self.max_depth_m}; expected more than 0")


@dataclass(frozen=True)
class GroundFit:
    """d = scale/z + shift for one frame. residual: see GroundSettings.max_residual."""

    scale: float
    shift: float
    residual: float


class NoGroundError(ValueError):
    """This frame's road gives no scale; the text says why."""


class GroundScale:
    """Turns relative predictions of one camera into metric ones, frame by frame."""

    def __init__(self, settings: GroundSettings, labels: LabelSet) -> None:
        self.settings = settings
        self._road, self._sky = labels.id_of("road"), labels.id_of("sky")
        if self._road is None:
            raise ValueError(f"label set {labels.name!r} has no class road to find the ground by")
        self._pitch_rad = settings.pitch_rad

    def reset(self) -> None:
        """Forget the pitch: another camera, another image size, or a gap in time."""
        self._pitch_rad = self.settings.pitch_rad

    def metres(
        self, seen: Prediction, camera: np.ndarray | PixelRays
    ) -> tuple[np.ndarray, GroundFit]:
        """Return depth [H, W] float32 in metres of a relative prediction, and the frame's fit.

        Only the pitch is carried from frame to frame. Scale and shift are the frame's own: the
        network chooses them anew for each image, so an average over frames would be wrong.

        camera: [3, 3] intrinsics K of the prediction's size, or its rays. Beyond range, and in the
        sky where depth does not contradict the label, depth is +Inf; where it does, and where
        relative depth is no number, NaN (REP-117). Raises NoGroundError.
        """
        if seen.depth is None or seen.depth_kind is not DepthKind.RELATIVE:
            raise ValueError("expected a prediction with relative depth")
        fit = self.fit(seen, camera)
        limit_m = self.settings.max_depth_m
        with np.errstate(divide="ignore", invalid="ignore"):
            nearness = (seen.depth - fit.shift) / fit.scale  # 1/z
            depth = np.where(nearness > 1 / limit_m, 1 / nearness, np.inf)
        sky = seen.labels == self._sky
        depth[sky] = np.where(depth[sky] > SKY_SHARE * limit_m, np.inf, np.nan)
        depth[~np.isfinite(seen.depth)] = np.nan
        return depth.astype(np.float32), fit

    def fit(self, seen: Prediction, camera: np.ndarray | PixelRays) -> GroundFit:
        """Return the affine map of one frame alone. Raises NoGroundError."""
        settings = self.settings
        assert seen.depth is not None
        finite = np.isfinite(seen.depth)
        (alpha, beta, gamma), residual = road_plane(
            (seen.labels == self._road) & finite,
            seen.depth,
            pixel_rays(_calibrated(camera), *seen.labels.shape),
            settings.min_road,
            settings.max_residual,
        )
        sky = seen.depth[(seen.labels == self._sky) & finite]
        if sky.size >= settings.min_sky * seen.labels.size:
            shift = float(np.median(sky))
            self._learn_pitch(math.atan2(gamma - shift, math.hypot(alpha, beta)))
        elif self._pitch_rad is not None:
            shift = gamma - math.hypot(alpha, beta) * math.tan(self._pitch_rad)
        else:
            raise NoGroundError(
                f"sky is {sky.size / seen.labels.size:.1%} of the image, expected "
                f"{settings.min_sky:.1%}, and the camera's pitch is not known yet"
            )
        length = math.sqrt(alpha**2 + beta**2 + (gamma - shift) ** 2)
        fit = GroundFit(settings.camera_height_m * length, shift, residual)
        if not (math.isfinite(fit.shift) and 0 < fit.scale < math.inf):
            raise NoGroundError(f"the road gives scale {fit.scale} and shift {fit.shift}")
        return fit

    def _learn_pitch(self, pitch_rad: float) -> None:
        """A camera is bolted to its vehicle: its pitch changes little, and slowly."""
        if self.settings.pitch_rad is None:
            past = pitch_rad if self._pitch_rad is None else self._pitch_rad
            weight = self.settings.smoothing
            self._pitch_rad = weight * past + (1 - weight) * pitch_rad


def road_height_m(seen: Prediction, camera: np.ndarray | PixelRays, road: int) -> float:
    """Return the height of the camera above the plane of the road, by metric depth, in metres.

    The ratio of this height to the true one is the scale of the depth. road: id of the class.
    camera: [3, 3] intrinsics K of the prediction's size, or its rays. At most CHECKED pixels of the
    image are read, on a grid. Raises NoGroundError.
    """
    if seen.depth is None or seen.depth_kind is not DepthKind.METRIC:
        raise ValueError("expected a prediction with metric depth")
    height, width = seen.labels.shape
    rays = pixel_rays(_calibrated(camera), height, width)
    step = max(1, math.ceil(math.sqrt(height * width / CHECKED)))
    rows, columns = slice(step // 2, None, step), slice(step // 2, None, step)
    rays = PixelRays(
        rays.x[rows if rays.x.shape[0] > 1 else slice(None), columns],
        rays.y[rows, columns if rays.y.shape[1] > 1 else slice(None)],
    )
    depth_m = seen.depth[rows, columns]
    valid = (seen.labels[rows, columns] == road) & np.isfinite(depth_m) & (depth_m > MIN_DEPTH_M)
    inverse = np.divide(1, depth_m, out=np.zeros_like(depth_m), where=valid)
    plane, _ = road_plane(valid, inverse, rays, samples=CHECK_SAMPLES)
    length = float(np.linalg.norm(plane))
    if plane[1] < MIN_UPRIGHT * length:
        raise NoGroundError("the road is not below the camera: depth makes it a wall")
    return 1 / length


def road_plane(
    road: np.ndarray,
    inverse: np.ndarray,
    rays: PixelRays,
    min_road: float = GroundSettings.min_road,
    max_residual: float = GroundSettings.max_residual,
    samples: int = SAMPLES,
) -> tuple[np.ndarray, float]:
    """Return p [3] with inverse ≈ ray·p on the road, and the residual (see GroundFit).

    road: [H, W] bool, the pixels to fit. inverse: [H, W] inverse depth. samples: most
    pixels in the fit. Raises NoGroundError if the
    road is too small or not a plane, or if inverse depth falls towards the camera.
    """
    rows, columns = np.nonzero(road & np.isfinite(rays.x + rays.y))
    share = len(rows) / road.size
    if share < min_road:
        raise NoGroundError(f"road is {share:.1%} of the image; expected {min_road:.1%}")
    chosen = np.linspace(0, len(rows) - 1, min(samples, len(rows))).astype(int)
    rows, columns = rows[chosen], columns[chosen]
    d = inverse[rows, columns].astype(np.float64)  # [n]
    plane, residual = robust_plane(rays.at(rows, columns), d)
    spread = float(np.subtract(*np.percentile(d, (95, 5))))
    residual /= max(spread, 1e-12)
    if not residual <= max_residual:
        raise NoGroundError(
            f"road deviates from a plane by {residual:.1%}; allowed {max_residual:.1%}"
        )
    if not plane[1] > 0:
        raise NoGroundError("inverse depth does not grow towards the camera on the road")
    return plane, residual


def _calibrated(camera: np.ndarray | PixelRays) -> np.ndarray | PixelRays:
    """Return the camera. Raise NoGroundError for a K without a focal length."""
    if isinstance(camera, np.ndarray) and not (
        np.isfinite(camera).all() and camera[0, 0] > 0 and camera[1, 1] > 0
    ):
        raise NoGroundError("the camera is not calibrated: K has no focal length")
    return camera


def robust_plane(rays: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, float]:
    """d ≈ rays·p with outliers: p [3] and the median absolute deviation.

    rays: [n, 3], d: [n]. Least squares, reweighted by Tukey's biweight from a fit of least
    absolute deviations (Huber, Robust Statistics, 1981).
    """
    weights: np.ndarray = np.ones(len(d))
    for turn in range(2 * ROUNDS):
        root = np.sqrt(weights)
        plane, *_ = np.linalg.lstsq(rays * root[:, None], d * root, rcond=None)
        deviation = np.abs(rays @ plane - d)
        typical = max(float(np.median(deviation)), 1e-9 * float(np.abs(d).max() + 1e-9))
        if turn < ROUNDS:  # least absolute deviations, to get near whatever most pixels agree on
            weights = 1 / np.maximum(deviation, 1e-3 * typical)
        else:
            ratio = deviation / (TUKEY * 1.4826 * typical)
            weights = np.where(ratio < 1, (1 - ratio**2) ** 2, 0.0)
    return plane, float(np.median(deviation))
