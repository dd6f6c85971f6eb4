# SPDX-License-Identifier: Apache-2.0
"""The way of one camera's frames: from its messages to a job for the network, and from what the
network sees to messages. Read `Stream.prepare` and `Stream.deliver`.
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
from depthforge_ros.ros.images import BadImage, ImageReader, stamp_ns
from depthforge_ros.ros.metric import CameraDepth, DepthImages, DepthLimits, intrinsics
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


class Stream:
    """One camera of a configured network: its publishers and what is known of it.

    submit: takes an image for whoever infers; returns whether it replaced one that still waited.
    values: gives the parameters of the moment. Raises what rclpy raises for a QoS override.
    """

    def __init__(
        self,
        node: LifecycleNode,
        camera: str,
        variant: Variant,
        statistics: Statistics,
        values: Callable[[], Parameters],
        submit: Callable[[Received], bool],
    ) -> None:
        self.camera = camera
        self.statistics = statistics
        place = values().camera_height_m, values().camera_pitch_rad
        self._depth = CameraDepth(variant, *place)
        self._spatial = Spatial(values(), variant.labels) if self._depth.has_metres else None
        spatial = {} if self._spatial is None else self._spatial.topics
        labels = variant.labels.painted(values().colors())
        self.outputs = Outputs(
            node,
            labels,
            variant.depth_head.kind,
            by_ground=self._depth.by_ground,
            spatial=spatial,
            camera=camera,
        )
        # The outputs in metres.
        self._metric = {"depth", *spatial}
        # The outputs that need to know the camera.
        self._calibrated = {"camera_info", *spatial}
        if self._depth.needs_calibration:
            self._calibrated.add("depth")
        self._node = node
        # One of its own, so that what is said of one camera does not silence another.
        logger = node.get_logger()
        self._logger = logger.get_child(camera) if camera else logger
        self._values = values
        self._submit = submit
        self._reader = ImageReader()
        self._rate_limit = RateLimit()
        self._freshness = Freshness()
        # Whoever publishes holds the lock, so that nothing follows once `close_input` returned.
        self._publishing = threading.Lock()
        self._openings = 0
        self._open: int | None = None

    def open_input(self) -> None:
        """Frames are welcome from now on, and published."""
        with self._publishing:
            self._openings += 1
            self._open = self._openings
        self._freshness.restart()
        self._reader.restart()
        self.statistics.open_input()

    def close_input(self) -> None:
        """Publish nothing any more; a frame on its way is dropped."""
        with self._publishing:
            self._open = None
            self.statistics.explain({})

    def receive(self, message: Image | CompressedImage) -> None:
        """Leave an image for inference; an older one that still waits is dropped."""
        arrival_ns, values = time.monotonic_ns(), self._values()
        stamp = stamp_ns(message.header)
        self.statistics.frame_in(arrival_ns, stamp)
        refusal = self._freshness.judge(stamp, self._clock_ns(), served_age_s(values))
        if refusal is not None:
            self._refuse(refusal)
        elif not self._rate_limit.passes(arrival_ns, values.max_rate_hz):
            self.statistics.drop(RATE_LIMIT)
        elif self._submit(Received(self.camera, message, arrival_ns, self._openings)):
            self.statistics.drop(REPLACED)

    def receive_camera_info(self, message: CameraInfo) -> None:
        """Keep it for the frames that it describes."""
        self._depth.add(message)

    def prepare(self, received: Received) -> Job | None:
        """The message as a frame, with what is to be done; None where there is nothing to do.

        Raises BadImage.
        """
        values = self._values()
        requested = self.outputs.requested() & values.allowed_outputs()
        if not requested:
            self.statistics.explain({})
            self.statistics.drop(NO_LISTENER)
            return None
        if self.too_old(received):
            return None
        frame = self._reader(received.message, values.encoding, values.sample_bits)
        info = None
        if requested & self._calibrated:
            frame, info = self._calibrate(frame)
        return Job(received, frame, requested, bool(requested & self.outputs.depth_topics), info)

    def too_old(self, received: Received) -> bool:
        """Whether it is refused: it was judged when it came, and may have waited since."""
        stamp, age_s = stamp_ns(received.message.header), served_age_s(self._values())
        refusal = judge_age(stamp, self._clock_ns(), age_s)
        if refusal is not None:
            self._refuse(refusal)
        return refusal is not None

    def deliver(self, job: Job, seen: Prediction, values: Parameters) -> None:
        """Publish what the network sees, inferred by `values`, in the order of the frames."""
        received, requested, frame, info = job.received, job.requested, job.frame, job.info
        header = received.message.header
        depth = self._depth(
            frame,
            seen,
            info,
            DepthLimits(values.max_depth_m, values.depth_confidence_threshold),
            (received.opening, values.pipeline_settings()),
            metres=bool(requested & self._metric),
        )
        messages = self.outputs.for_planners(requested, header, seen, depth, info)
        messages |= self._spatial_messages(job, seen, depth)
        withheld = self._withheld(requested, messages, frame, info, depth.reason)
        self.statistics.stage(PUBLISHING)
        if not self._publish(messages, received, withheld, depth.residual):
            self.statistics.drop(INACTIVE)
            return
        latency_ns = time.monotonic_ns() - received.arrival_ns
        now_ns = self._clock_ns()
        age_ns = now_ns - stamp_ns(header) if now_ns else None
        self.statistics.frame_out(latency_ns, age_ns, frame.width, frame.height)
        self.statistics.stage(DRAWING)
        self.statistics.record_condition(condition_of(frame.rgb, seen.confidence))
        self._draw(requested, received, frame, seen, values.overlay_opacity)

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
            self.statistics.explain(withheld, residual)
            return True

    def _draw(
        self,
        requested: frozenset[str],
        received: Received,
        frame: Frame,
        seen: Prediction,
        overlay_opacity: float,
    ) -> None:
        """Publish what people look at; a failure is counted and costs the frame nothing else."""
        try:
            header = received.message.header
            drawn = self.outputs.for_people(requested, header, frame, seen, overlay_opacity)
            with self._publishing:
                if received.opening == self._open:
                    self.outputs.publish(drawn)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self.statistics.undrawn(text)
            self._logger.error(
                f"a published frame could not be drawn: {text}", throttle_duration_sec=LOG_PERIOD_S
            )

    def _spatial_messages(self, job: Job, seen: Prediction, depth: DepthImages) -> dict[str, Any]:
        """Return points and grid, if requested, calibrated and in metres."""
        calibrated = job.info is not None and job.frame.focal_px is not None
        if self._spatial is None or depth.metres is None or not calibrated:
            return {}
        return self._spatial.messages(
            job.requested,
            job.received.message.header,
            job.frame,
            seen,
            depth.metres,
            depth.certain_m,
            intrinsics(job.info, seen),
        )

    def _withheld(
        self,
        requested: frozenset[str],
        messages: dict[str, Any],
        frame: Frame,
        info: CameraInfo | None,
        reason: str,
    ) -> dict[str, str]:
        """Return why requested outputs that need calibration are not among the messages.

        reason: why the road gives no metres.
        """
        if frame.focal_px is None:
            reason = _no_camera_info(frame, info)
        missing = sorted((requested & self._calibrated) - messages.keys())
        return dict.fromkeys(missing, reason)

    def _calibrate(self, frame: Frame) -> tuple[Frame, CameraInfo | None]:
        """Return the frame calibrated, and its CameraInfo; count and log if that fails."""
        frame, info = self._depth.calibrate(frame)
        if frame.focal_px is None:
            self.statistics.camera_info_missing()
            self._logger.warning(_no_camera_info(frame, info), throttle_duration_sec=LOG_PERIOD_S)
        return frame, info

    def _clock_ns(self) -> int:
        """ROS time; 0 where use_sim_time is set and no /clock has come yet.

        A whole number: rclpy's Time raises for a stamp that a broken clock made negative.
        """
        return self._node.get_clock().now().nanoseconds

    def _refuse(self, refusal: Refusal) -> None:
        """Count an image that is not served, and say why."""
        self.statistics.drop(refusal.cause, refusal.text)
        self._logger.warning(
            f"dropped an image ({refusal.cause}): {refusal.text}",
            throttle_duration_sec=LOG_PERIOD_S,
        )

    def failed(self, error: Exception) -> None:
        """Count what a frame's way ended in; the next frame is tried as if nothing happened."""
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


def _no_camera_info(frame: Frame, info: CameraInfo | None) -> str:
    """What to say where `info`, if there is one at all, does not calibrate the frame."""
    return (
        f"no {'' if info is None else 'calibrated '}camera_info for "
        f"{frame.width}x{frame.height} in frame {frame.frame_id!r}"
    )
