# SPDX-License-Identifier: Apache-2.0
"""From a prediction to the messages for planners: calibration, metres, range and confidence.

Node and bag tools both use `CameraDepth`, so a bag annotated offline holds what the node publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, replace

import numpy as np
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from depthforge_ros.frame import DepthKind, Frame, Prediction
from depthforge_ros.ground import GroundScale, GroundSettings, NoGroundError
from depthforge_ros.ros.calibration import Calibration, CalibrationError, CameraInfos
from depthforge_ros.ros.messages import depth_message, mono8_message
from depthforge_ros.variant import Variant


@dataclass(frozen=True)
class DepthLimits:
    """What becomes unknown or out of range. 0 means no limit for both.

    max_depth_m: farther than this is +Inf. min_confidence: 0..1, depth of less certain pixels is
    NaN.
    """

    max_depth_m: float = 0.0
    min_confidence: float = 0.0


NO_LIMITS = DepthLimits()


@dataclass(frozen=True)
class DepthImages:
    """Depth of one frame: [H, W] float32 each, or None.

    inverse: inverse depth of a relative variant, NaN below the confidence limit. metres: along the
    optical axis, by a metric variant or by the road, whatever the confidence: an obstacle of low
    confidence is still an obstacle. certain_m: metres, NaN below the confidence limit. residual:
    of the road's fit, see GroundFit. reason: why the road gives no metres.
    """

    inverse: np.ndarray | None = None
    metres: np.ndarray | None = None
    certain_m: np.ndarray | None = None
    residual: float | None = None
    reason: str = ""


class CameraDepth:
    """Calibration and depth of one camera, frame by frame.

    camera_height_m: of the optical centre above the road; a relative variant then gives metres by
    the road. 0: unknown. camera_pitch_rad: downwards, for a camera that sees no sky; 0: unknown,
    frames with sky show it. height_follows: `place` will give both. image_topic, info_topic,
    publishers: see CameraInfos. Raises ValueError if height or pitch are not allowed, or if the
    variant has no road.
    """

    def __init__(
        self,
        variant: Variant,
        camera_height_m: float = 0.0,
        camera_pitch_rad: float = 0.0,
        *,
        height_follows: bool = False,
        image_topic: str = "",
        info_topic: str = "",
        publishers: Callable[[], int] = lambda: 1,
    ) -> None:
        kind = variant.depth_head.kind
        known = camera_height_m > 0 or height_follows
        self.by_ground = kind is DepthKind.RELATIVE and known
        self.has_metres = self.by_ground or kind is DepthKind.METRIC
        self.needs_calibration = self.by_ground or variant.depth_head.focal_px is not None
        self._labels = variant.labels
        self._ground: GroundScale | None = None
        self._ground_source: Hashable = None
        if self.by_ground:
            GroundScale(GroundSettings(camera_height_m or 1.0), variant.labels)  # if it has road
        if camera_height_m > 0:
            self.place(camera_height_m, camera_pitch_rad)
        self._infos = CameraInfos(image_topic, info_topic, publishers)

    def place(self, camera_height_m: float, camera_pitch_rad: float) -> None:
        """Use this height above the road, and this pitch, from now on."""
        settings = GroundSettings(camera_height_m, camera_pitch_rad or None)
        if self.by_ground and (self._ground is None or self._ground.settings != settings):
            self._ground = GroundScale(settings, self._labels)

    def add(self, info: CameraInfo) -> None:
        """Keep a CameraInfo for the frames that it describes."""
        self._infos.add(info)

    def calibrate(
        self, frame: Frame, rectified: str = "auto"
    ) -> tuple[Frame, Calibration | None, str]:
        """Return the frame with its focal length, its calibration, and "".

        Or, where no CameraInfo fits or calibrates it, the frame as it is, None and the reason.
        rectified: see `calibration_of`.
        """
        try:
            calibration = self._infos.calibration(frame, rectified)
        except CalibrationError as error:
            return frame, None, str(error)
        return replace(frame, focal_px=calibration.focal_px()), calibration, ""

    def __call__(
        self,
        frame: Frame,
        seen: Prediction,
        calibration: Calibration | None,
        limits: DepthLimits,
        source: Hashable,
        *,
        metres: bool = True,
    ) -> DepthImages:
        """Return the depth images of a frame that `calibrate` returned with `calibration`.

        source: what produced the prediction, such as its settings. A pitch learned from one source,
        optical frame or image size is not used for another. metres: False: skip the road's fit.
        """
        by_ground = DepthImages()
        if metres and self._ground is not None:
            by_ground = self._by_ground(frame, seen, calibration, source)
        relative = seen.depth_kind is DepthKind.RELATIVE
        depth_m = limited(by_ground.metres if relative else seen.depth, limits.max_depth_m)
        certainty = seen.confidence, limits.min_confidence
        return replace(
            by_ground,
            inverse=where_certain(seen.depth, *certainty) if relative else None,
            metres=depth_m,
            certain_m=where_certain(depth_m, *certainty),
        )

    def _by_ground(
        self, frame: Frame, seen: Prediction, calibration: Calibration | None, source: Hashable
    ) -> DepthImages:
        """Relative depth in metres by the road, or the reason why the road gives none."""
        assert self._ground is not None
        if calibration is None:
            return DepthImages()
        source = (source, frame.frame_id, frame.width, frame.height)
        if source != self._ground_source:
            self._ground.reset()
            self._ground_source = source
        try:
            height, width = seen.labels.shape
            depth_m, fit = self._ground.metres(seen, calibration.rays(width, height))
        except NoGroundError as error:
            return DepthImages(reason=str(error))
        return DepthImages(metres=depth_m, residual=fit.residual)


def limited(depth_m: np.ndarray | None, max_depth_m: float) -> np.ndarray | None:
    """Metres [H, W] with +Inf beyond max_depth_m (REP-117), 0: no limit. NaN (unknown) stays."""
    if depth_m is None or max_depth_m == 0:
        return depth_m
    return np.where(depth_m > max_depth_m, np.float32(np.inf), depth_m)  # [H, W]


def where_certain(
    depth: np.ndarray | None, confidence: np.ndarray, threshold: float
) -> np.ndarray | None:
    """Depth [H, W] with NaN where confidence [H, W] uint8, of 255, is below the threshold, of 1."""
    if depth is None or threshold == 0:
        return depth
    return np.where(confidence < 255 * threshold, np.float32(np.nan), depth)  # [H, W]


def planner_messages(
    requested: Collection[str],
    header: Header,
    seen: Prediction,
    depth: DepthImages,
    calibration: Calibration | None,
) -> dict[str, Image | CameraInfo]:
    """Messages by the names of their topics: masks, depth and CameraInfo of the prediction's size.

    Without those that are not requested and those of which nothing is known. The header is the
    image's.
    """
    messages: dict[str, Image | CameraInfo] = {}
    if "semantic" in requested:
        messages["semantic"] = mono8_message(header, seen.labels)
    if "confidence" in requested:
        messages["confidence"] = mono8_message(header, seen.confidence)
    for name, image in (("depth", depth.certain_m), ("inverse_depth", depth.inverse)):
        if name in requested and image is not None:
            messages[name] = depth_message(header, image)
    if "camera_info" in requested and calibration is not None:
        height, width = seen.labels.shape
        scaled = calibration.scaled(width, height)
        scaled.header = header
        messages["camera_info"] = scaled
    return messages
