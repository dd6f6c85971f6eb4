# SPDX-License-Identifier: Apache-2.0
"""The way of a frame: from the message of a camera to the messages of a configured network.

Read `Inference._infer`. It runs in the worker's thread; callbacks only leave a message for it.
"""

from __future__ import annotations

import functools
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depthforge_ros.frame import DepthKind, Frame, Prediction
from depthforge_ros.ground import GroundScale, GroundSettings, NoGroundError
from depthforge_ros.ros import diagnostics
from depthforge_ros.ros.diagnostics import Statistics
from depthforge_ros.ros.freshness import Freshness, Refusal, judge_age, served_age_s
from depthforge_ros.ros.messages import (
    BadImage,
    focal_px,
    frame_from_compressed,
    frame_from_image,
    scaled_camera_info,
    stamp_ns,
)
from depthforge_ros.ros.outputs import CameraInfos, Outputs, limited, within_range
from depthforge_ros.ros.parameters import Parameters
from depthforge_ros.ros.worker import RateLimit, Worker
from depthforge_ros.variant import load_variant

if TYPE_CHECKING:
    from depthforge_ros.pipeline import Pipeline

LOG_PERIOD_S = 5.0


@dataclass(frozen=True)
class Metres:
    """Depth [H, W] by the road and the residual of the fit, or the reason why there is none."""

    depth_m: np.ndarray | None = None
    residual: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Received:
    """An image as it came. opening: which opening of the input it came through."""

    message: Image | CompressedImage
    arrival_ns: int
    opening: int


class Inference:
    """A loaded pipeline, its publishers and the thread between them, from configure to cleanup.

    values: gives the parameters of the moment; a frame reads them once, at its beginning.
    Raises ValueError where metres by the road are asked for and the variant knows no road, and
    what rclpy raises for a QoS override.
    """

    def __init__(
        self,
        node: LifecycleNode,
        pipeline: Pipeline,
        statistics: Statistics,
        values: Callable[[], Parameters],
    ) -> None:
        variant = pipeline.engine.variant
        self.pipeline = pipeline
        kind = variant.depth_head.kind
        height_m = values().camera_height_m
        by_ground = kind is DepthKind.RELATIVE and height_m > 0
        self._ground = GroundScale(GroundSettings(height_m), variant.labels) if by_ground else None
        self._ground_sees: tuple | None = None
        if height_m > 0 and not by_ground:
            node.get_logger().warning(
                f"camera_height_m {height_m} is ignored: variant {variant.name!r} gives metres "
                "without it"
            )
        self.outputs = Outputs(node, variant.labels, kind, by_ground=by_ground)
        # The outputs that need to know the camera.
        self._calibrated = {"camera_info"}
        if by_ground or variant.depth_head.focal_px is not None:
            self._calibrated.add("depth")
        self._node = node
        self._statistics = statistics
        self._values = values
        self._camera_infos = CameraInfos()
        self._rate_limit = RateLimit()
        self._freshness = Freshness()
        # Whoever publishes holds the lock, so that nothing follows once `close_input` returned.
        self._publishing = threading.Lock()
        self._openings = 0
        self._open: int | None = None
        self._worker: Worker[Received] = Worker(self._infer, self._failed)

    def open_input(self) -> None:
        """Frames are welcome from now on, and published."""
        with self._publishing:
            self._openings += 1
            self._open = self._openings
        self._freshness.restart()
        self._statistics.open_input()

    def close_input(self) -> None:
        """Publish nothing any more; a frame that waits or is being inferred is dropped."""
        with self._publishing:
            self._open = None
            self._statistics.explain({})
        if self._worker.slot.clear():
            self._statistics.drop(diagnostics.INACTIVE)

    def close(self, timeout_s: float) -> bool:
        """End the thread and destroy the publishers. Returns False where inference goes on."""
        self.close_input()
        stopped = self._worker.stop(timeout_s)
        if not stopped:
            self._statistics.abandon_work()
        self.outputs.close()
        return stopped

    def receive(self, message: Image | CompressedImage) -> None:
        """Leave an image for the worker; an older one that still waits is dropped."""
        arrival_ns, values = time.monotonic_ns(), self._values()
        stamp = stamp_ns(message.header)
        self._statistics.frame_in(arrival_ns, stamp)
        refusal = self._freshness.judge(stamp, self._clock_ns(), served_age_s(values))
        if refusal is not None:
            self._refuse(refusal)
        elif not self._rate_limit.passes(arrival_ns, values.max_rate_hz):
            self._statistics.drop(diagnostics.RATE_LIMIT)
        elif self._worker.slot.put(Received(message, arrival_ns, self._openings)):
            self._statistics.drop(diagnostics.REPLACED)

    def receive_camera_info(self, message: CameraInfo) -> None:
        """Keep it for the frames that it describes."""
        self._camera_infos.add(message)

    def _infer(self, received: Received) -> None:
        """One frame, from message to messages."""
        with self._statistics.working():
            values, outputs = self._values(), self.outputs
            wanted = outputs.wanted() & values.allowed_outputs()
            if not wanted:
                self._statistics.explain({})
                self._statistics.drop(diagnostics.NO_LISTENER)
                return
            message, header = received.message, received.message.header
            stamp = stamp_ns(header)
            # It was judged when it came, and may have waited since.
            refusal = judge_age(stamp, self._clock_ns(), served_age_s(values))
            if refusal is not None:
                self._refuse(refusal)
                return
            compressed = isinstance(message, CompressedImage)
            frame = frame_from_compressed(message) if compressed else frame_from_image(message)
            info = self._fitting_camera_info(frame) if wanted & self._calibrated else None
            if info is not None:
                frame = replace(frame, focal_px=focal_px(info))
            self.pipeline.settings = values.pipeline_settings()
            seen = self.pipeline(frame, depth=bool(wanted & outputs.depth_topics))
            metres = self._metres(seen, frame, info, received) if "depth" in wanted else Metres()
            if values.max_depth_m > 0:
                seen = within_range(seen, values.max_depth_m)
                metres = replace(metres, depth_m=limited(metres.depth_m, values.max_depth_m))
            messages = outputs.for_planners(wanted, header, seen, info, metres.depth_m)
            withheld = self._withheld(wanted, messages, frame, info, metres)
            self._statistics.stage(diagnostics.PUBLISHING)
            if not self._publish(messages, received, withheld, metres.residual):
                self._statistics.drop(diagnostics.INACTIVE)
                return
            latency_ns = time.monotonic_ns() - received.arrival_ns
            now_ns = self._clock_ns()
            age_ns = now_ns - stamp if now_ns else None
            self._statistics.frame_out(latency_ns, age_ns, frame.width, frame.height)
            self._statistics.stage(diagnostics.DRAWING)
            self._draw(wanted, received, frame, seen, values.overlay_opacity)

    def _publish(
        self,
        messages: dict[str, Image | CameraInfo],
        received: Received,
        withheld: dict[str, str],
        residual: float | None,
    ) -> bool:
        """Send messages, unless the input was closed since the frame came."""
        with self._publishing:
            if received.opening != self._open:
                return False
            self.outputs.publish(messages)
            self._statistics.explain(withheld, residual)
            return True

    def _draw(
        self,
        wanted: frozenset[str],
        received: Received,
        frame: Frame,
        seen: Prediction,
        overlay_opacity: float,
    ) -> None:
        """Publish what people look at; a failure is counted and costs the frame nothing else."""
        try:
            header = received.message.header
            drawn = self.outputs.for_people(wanted, header, frame, seen, overlay_opacity)
            with self._publishing:
                if received.opening == self._open:
                    self.outputs.publish(drawn)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._statistics.undrawn(text)
            self._node.get_logger().error(
                f"a published frame could not be drawn: {text}", throttle_duration_sec=LOG_PERIOD_S
            )

    def _metres(
        self, seen: Prediction, frame: Frame, info: CameraInfo | None, received: Received
    ) -> Metres:
        """Relative depth in metres, by the road, or the reason why the road gives none."""
        if self._ground is None or info is None or frame.focal_px is None:
            return Metres()
        height, width = seen.labels.shape
        # What the road has shown of a camera is that camera's, through those settings.
        sees = (
            received.opening,
            frame.frame_id,
            frame.width,
            frame.height,
            self.pipeline.settings,
        )
        if sees != self._ground_sees:
            self._ground.reset()
            self._ground_sees = sees
        intrinsics = scaled_camera_info(info, width, height).k.reshape(3, 3)
        try:
            depth_m, fit = self._ground.metres(seen, intrinsics)
        except NoGroundError as error:
            return Metres(reason=str(error))
        return Metres(depth_m, fit.residual)

    def _withheld(
        self,
        wanted: frozenset[str],
        messages: dict[str, Image | CameraInfo],
        frame: Frame,
        info: CameraInfo | None,
        metres: Metres,
    ) -> dict[str, str]:
        """Why the wanted outputs that need to know the camera are not among the messages."""
        reason = metres.reason
        if frame.focal_px is None:
            reason = _no_camera_info(frame, info)
        missing = sorted((wanted & self._calibrated) - messages.keys())
        return dict.fromkeys(missing, reason)

    def _fitting_camera_info(self, frame: Frame) -> CameraInfo | None:
        """The frame's CameraInfo or None; counted and said where there is none or K is zero."""
        info = self._camera_infos.matching(frame)
        if info is not None and focal_px(info) is not None:
            return info
        self._statistics.camera_info_missing()
        self._node.get_logger().warning(
            _no_camera_info(frame, info), throttle_duration_sec=LOG_PERIOD_S
        )
        return info

    def _clock_ns(self) -> int:
        """ROS time; 0 where use_sim_time is set and no /clock has come yet.

        A whole number: rclpy's Time raises for a stamp that a broken clock made negative.
        """
        return self._node.get_clock().now().nanoseconds

    def _refuse(self, refusal: Refusal) -> None:
        """Count an image that is not served, and say why."""
        self._statistics.drop(refusal.cause, refusal.text)
        self._node.get_logger().warning(
            f"dropped an image ({refusal.cause}): {refusal.text}",
            throttle_duration_sec=LOG_PERIOD_S,
        )

    def _failed(self, received: Received, error: Exception) -> None:
        """Count what a frame's way ended in; the next frame is tried as if nothing happened."""
        if not self._node.context.ok():
            return
        if isinstance(error, BadImage):
            self._refuse(Refusal(error.cause, str(error)))
            return
        logger = self._node.get_logger()
        text = f"{type(error).__name__}: {error}"
        self._statistics.drop(diagnostics.INFERENCE_ERROR, text)
        trace = "".join(traceback.format_exception(error))
        logger.error(
            f"inference failed, frame dropped: {text}\n{trace}", throttle_duration_sec=LOG_PERIOD_S
        )


def _no_camera_info(frame: Frame, info: CameraInfo | None) -> str:
    """What to say where `info`, if there is one at all, does not calibrate the frame."""
    return (
        f"no {'' if info is None else 'calibrated '}camera_info for "
        f"{frame.width}x{frame.height} in frame {frame.frame_id!r}"
    )


def load_pipeline(values: Parameters) -> Pipeline:
    """The pipeline that the parameters describe. Raises ValueError or OSError with a reason."""
    variant = load_variant(values.variant)
    # Only here: seconds in which a node that starts already reports. Services wait, as configure
    # holds the executor.
    import torch

    from depthforge_ros.engine import build_engine
    from depthforge_ros.pipeline import Pipeline

    torch.set_num_threads(values.threads or _default_threads())
    engine = build_engine(
        variant, values.checkpoint, device=values.device, precision=values.precision
    )
    return Pipeline(engine, values.pipeline_settings())


@functools.cache
def _default_threads() -> int:
    """What PyTorch chose by itself, asked before anybody changes it."""
    import torch

    return torch.get_num_threads()
