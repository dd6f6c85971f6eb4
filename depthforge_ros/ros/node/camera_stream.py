# SPDX-License-Identifier: Apache-2.0
"""One camera's frames: from messages to a job for the network, and from predictions to messages.

Read `Stream.prepare` and `Stream.deliver`.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depthforge_ros.condition import condition_of
from depthforge_ros.frame import Frame, Prediction
from depthforge_ros.ros.calibration import Calibration
from depthforge_ros.ros.images import BadImage, ImageReader, stamp_ns
from depthforge_ros.ros.metric import CameraDepth, DepthImages, DepthLimits
from depthforge_ros.ros.node.camera_names import Topics
from depthforge_ros.ros.node.camera_poses import PoseError, PoseSource, pose_source
from depthforge_ros.ros.node.depth_scale import DepthScaleCheck
from depthforge_ros.ros.node.frames_in_flight import Job, Received
from depthforge_ros.ros.node.outputs import Outputs
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.ros.node.spatial_outputs import Spatial
from depthforge_ros.ros.node.stamp_check import Freshness, Refusal, judge_age, served_age_s
from depthforge_ros.ros.node.statistics import (
    DRAWING,
    INACTIVE,
    INFERENCE_ERROR,
    NO_LISTENER,
    PUBLISHING,
    RATE_LIMIT,
    REPLACED,
    Statistics,
)
from depthforge_ros.ros.node.worker import RateLimit
from depthforge_ros.variant import Variant

LOG_PERIOD_S = 5.0

COMPLETE_SET = ("semantic", "confidence", "points")
"""Outputs that consumers join by stamp, and that `complete_sets` publishes together or not at all.
"""


class Stream:
    """One camera of a configured network: its publishers, calibration and pose.

    topics: of its inputs. values: returns the current parameters; a frame is handled by those of
    its arrival. submit: takes an image for inference and returns whether it replaced a waiting one.
    tf: gives the camera's pose if the parameters do not. Raises what rclpy raises for a QoS
    override.
    """

    def __init__(
        self,
        node: LifecycleNode,
        camera: str,
        topics: Topics,
        variant: Variant,
        statistics: Statistics,
        values: Callable[[], Parameters],
        submit: Callable[[Received], bool],
        tf: PoseSource | None = None,
    ) -> None:
        self.camera = camera
        self.topics = topics
        self.statistics = statistics
        configured = values()
        self._pose = pose_source(configured, camera, tf)
        place = configured.camera_height_m, configured.camera_pitch_rad
        named = configured.poses().get(camera)
        if named is not None:
            place = named.height_m, named.pitch_rad
        self._depth = CameraDepth(
            variant,
            *place,
            height_follows=self._pose is not None,
            image_topic=topics.image,
            info_topic=topics.camera_info,
            publishers=lambda: node.count_publishers(topics.camera_info),
        )
        self._scale = DepthScaleCheck(variant)
        self._height_m: float | None = None
        self._spatial: Spatial | None = None
        if self._depth.has_metres:
            self._spatial = Spatial(configured, variant.labels, grid=self._pose is not None)
        spatial = {} if self._spatial is None else self._spatial.topics
        self.outputs = Outputs(
            node,
            variant.labels.painted(configured.colors()),
            variant.depth_head.kind,
            by_ground=self._depth.by_ground,
            spatial=spatial,
            camera=camera,
        )
        # Outputs in metres, and those that need a calibrated camera.
        self._metric = {"depth", *spatial}
        self._calibrated = {"camera_info", *spatial}
        if self._depth.needs_calibration:
            self._calibrated.add("depth")
        self._node = node
        # One of its own, so that throttling messages of one camera does not silence another.
        logger = node.get_logger()
        self._logger = logger.get_child(camera) if camera else logger
        self._values = values
        self._submit = submit
        self._reader = ImageReader()
        self._rate_limit = RateLimit()
        self._freshness = Freshness()
        # Held while publishing, so that nothing is published after `close_input` returned.
        self._publishing = threading.Lock()
        self._openings = 0
        self._open: int | None = None
        self._logged_calibration = ""

    def open_input(self) -> None:
        """Accept and publish frames from now on."""
        with self._publishing:
            self._openings += 1
            self._open = self._openings
        self._freshness.restart()
        self._reader.restart()
        self._scale.restart()
        self.statistics.open_input()

    def close_input(self) -> None:
        """Publish nothing any more; a frame in work is dropped."""
        with self._publishing:
            self._open = None
            self.statistics.note(withheld={}, ground_residual=None, depth_scale=None)

    def receive(self, message: Image | CompressedImage) -> None:
        """Submit an image for inference; an older one that still waits is dropped."""
        arrival_ns, values = time.monotonic_ns(), self._values()
        stamp = stamp_ns(message.header)
        self.statistics.frame_in(arrival_ns, stamp)
        refusal = self._freshness.judge(stamp, self._clock_ns(), served_age_s(values))
        if refusal is not None:
            self._refuse(refusal)
        elif not self._rate_limit.passes(arrival_ns, values.max_rate_hz):
            self.statistics.drop(RATE_LIMIT)
        elif self._submit(Received(self.camera, message, arrival_ns, self._openings, values)):
            self.statistics.drop(REPLACED)

    def receive_camera_info(self, message: CameraInfo) -> None:
        """Keep a CameraInfo for the frames that it describes."""
        self._depth.add(message)

    def prepare(self, received: Received) -> Job | None:
        """Return the frame to infer, None if it is dropped. Raises BadImage."""
        values = received.values
        requested = self.outputs.requested() & values.allowed_outputs()
        if not requested:
            self.statistics.note(withheld={}, ground_residual=None, depth_scale=None)
            self.statistics.drop(NO_LISTENER)
            return None
        if self.too_old(received):
            return None
        frame = self._reader(received.message, values.encoding, values.sample_bits)
        self.statistics.note(input_encoding=self._reader.description)
        calibration, reason = None, ""
        if requested & self._calibrated:
            frame, calibration, reason = self._calibrate(frame, values)
        depth = bool(requested & self.outputs.depth_topics)
        return Job(received, frame, requested, depth, calibration, reason)

    def too_old(self, received: Received) -> bool:
        """Return whether the image is refused for its age now; it may have waited since arrival."""
        stamp, age_s = stamp_ns(received.message.header), served_age_s(received.values)
        refusal = judge_age(stamp, self._clock_ns(), age_s)
        if refusal is not None:
            self._refuse(refusal)
        return refusal is not None

    def deliver(self, job: Job, seen: Prediction) -> None:
        """Publish the outputs of a prediction."""
        received, requested, frame, values = job.received, job.requested, job.frame, job.values
        header = received.message.header
        metres = bool(requested & self._metric)
        pose_reason = self._place(job) if metres and job.calibration is not None else ""
        depth = self._depth(
            frame,
            seen,
            job.calibration,
            DepthLimits(values.max_depth_m, values.depth_confidence_threshold),
            (received.opening, values.pipeline_settings()),
            metres=metres,
        )
        messages = self.outputs.for_planners(requested, header, seen, depth, job.calibration)
        messages |= self._spatial_messages(job, seen, depth)
        reason = job.uncalibrated or depth.reason or pose_reason
        missing = sorted((requested & self._calibrated) - messages.keys())
        withheld = dict.fromkeys(missing, reason)
        if values.complete_sets and "points" not in messages:
            incomplete = withheld.get("points") or "no points are requested, or there are none"
            for name in COMPLETE_SET:
                if messages.pop(name, None) is not None:
                    withheld[name] = f"complete_sets: {incomplete}"
        self.statistics.stage(PUBLISHING)
        if not self._publish(messages, received, withheld, depth.residual):
            self.statistics.drop(INACTIVE)
            return
        latency_ns = time.monotonic_ns() - received.arrival_ns
        now_ns = self._clock_ns()
        age_ns = now_ns - stamp_ns(header) if now_ns else None
        self.statistics.frame_out(latency_ns, age_ns, frame.width, frame.height)
        self.statistics.stage(DRAWING)
        self.statistics.note(condition=condition_of(frame.rgb, seen.confidence))
        self._draw(job, seen)
        self._check_scale(job, seen)

    def _publish(
        self,
        messages: dict[str, Any],
        received: Received,
        withheld: dict[str, str],
        residual: float | None,
    ) -> bool:
        """Send messages, unless the input was closed since the frame came."""
        with self._publishing:
            if received.opening != self._open:
                return False
            self.outputs.publish(messages)
            self.statistics.note(withheld=withheld, ground_residual=residual)
            return True

    def _draw(self, job: Job, seen: Prediction) -> None:
        """Publish pictures for people; a failure is counted and affects nothing else."""
        try:
            header = job.received.message.header
            drawn = self.outputs.for_people(job.requested, header, job.frame, seen, job.values)
            with self._publishing:
                if job.received.opening == self._open:
                    self.outputs.publish(drawn)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self.statistics.add("undrawn", undrawn_text=text)
            self._logger.error(
                f"pictures of a frame could not be drawn: {text}",
                throttle_duration_sec=LOG_PERIOD_S,
            )

    def _check_scale(self, job: Job, seen: Prediction) -> None:
        """Compare the scale of metric depth with the camera's height, if a measurement is due."""
        if not job.values.depth_scale_warn or seen.depth is None:
            self.statistics.note(depth_scale=None)
            return
        measured = self._scale(seen, job.calibration, self._height_m)
        if measured is not None:
            self.statistics.note(depth_scale=measured)

    def _place(self, job: Job) -> str:
        """Take the camera's pose for this frame; return why it is not known, or ""."""
        if self._pose is None:
            return ""
        self._height_m = None
        try:
            pose = self._pose(job.frame.frame_id)
        except PoseError as error:
            return str(error)
        self._height_m = pose.height_m
        self._depth.place(pose.height_m, pose.pitch_rad)
        if self._spatial is not None:
            self._spatial.place(pose)
        return ""

    def _spatial_messages(self, job: Job, seen: Prediction, depth: DepthImages) -> dict[str, Any]:
        """Return points and grid, if requested, calibrated and in metres."""
        if (
            self._spatial is None
            or depth.metres is None
            or depth.certain_m is None
            or job.calibration is None
        ):
            return {}
        height, width = seen.labels.shape
        return self._spatial.messages(
            job.requested,
            job.received.message.header,
            job.frame,
            seen,
            depth.metres,
            depth.certain_m,
            job.calibration.rays(width, height),
        )

    def _calibrate(self, frame: Frame, values: Parameters) -> tuple[Frame, Calibration | None, str]:
        """Return the frame calibrated, its calibration and ""; count and log if that fails."""
        frame, calibration, reason = self._depth.calibrate(frame, values.rectified)
        if calibration is None:
            self.statistics.add("missing_camera_info", calibration="", calibration_warning="")
            self._logger.warning(reason, throttle_duration_sec=LOG_PERIOD_S)
            return frame, None, reason
        text = calibration.description
        self.statistics.note(calibration=text, calibration_warning=calibration.warning)
        if text != self._logged_calibration:
            self._logged_calibration = text
            self._logger.info(f"images on {self.topics.image} are {text}")
        return frame, calibration, ""

    def _clock_ns(self) -> int:
        """ROS time; 0 where use_sim_time is set and no /clock has come yet.

        A whole number: rclpy's Time raises for a stamp that a broken clock made negative.
        """
        return self._node.get_clock().now().nanoseconds

    def _refuse(self, refusal: Refusal) -> None:
        """Count and log an image that is dropped."""
        self.statistics.drop(refusal.cause, refusal.text)
        self._logger.warning(
            f"dropped an image ({refusal.cause}): {refusal.text}",
            throttle_duration_sec=LOG_PERIOD_S,
        )

    def failed(self, error: Exception) -> None:
        """Count and log what a frame failed with; the next frame is tried as usual."""
        if not self._node.context.ok():
            return
        if isinstance(error, BadImage):
            self._refuse(Refusal(error.cause, str(error)))
            return
        text = f"{type(error).__name__}: {error}"
        self.statistics.drop(INFERENCE_ERROR, text)
        trace = "".join(traceback.format_exception(error))
        self._logger.error(
            f"inference failed, frame dropped: {text}\n{trace}", throttle_duration_sec=LOG_PERIOD_S
        )
