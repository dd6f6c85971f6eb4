# SPDX-License-Identifier: Apache-2.0
"""The way of a frame: from the message of a camera to the messages of a configured network.

Read `Inference._infer`. It runs in the worker's thread; everything else returns at once.
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
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depthforge_ros.frame import DepthKind, Frame, Prediction
from depthforge_ros.ground import GroundScale, GroundSettings, NoGroundError
from depthforge_ros.ros import diagnostics
from depthforge_ros.ros.diagnostics import Statistics
from depthforge_ros.ros.messages import (
    BadImage,
    focal_px,
    frame_from_compressed,
    frame_from_image,
    scaled_camera_info,
)
from depthforge_ros.ros.outputs import CameraInfos, Outputs
from depthforge_ros.ros.parameters import Parameters
from depthforge_ros.ros.worker import RateLimit, Worker
from depthforge_ros.variant import load_variant

if TYPE_CHECKING:
    from depthforge_ros.pipeline import Pipeline

LOG_PERIOD_S = 5.0


@dataclass(frozen=True)
class Received:
    """An image as it came. opening: which opening of the input it came through."""

    message: Image | CompressedImage
    arrival_ns: int
    opening: int


class Inference:
    """A loaded pipeline, its publishers and the thread between them, from configure to cleanup.

    values: gives the parameters of the moment; a frame reads them once, at its beginning.
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
        self._statistics.open_input()

    def close_input(self) -> None:
        """Publish nothing any more; a frame that waits or is being inferred is dropped."""
        with self._publishing:
            self._open = None
        if self._worker.slot.clear():
            self._statistics.drop(diagnostics.INACTIVE)

    def close(self, timeout_s: float) -> bool:
        """End the thread and destroy the publishers. Returns False where inference goes on."""
        self.close_input()
        stopped = self._worker.stop(timeout_s)
        self.outputs.close()
        return stopped

    def receive(self, message: Image | CompressedImage) -> None:
        """Leave an image for the worker; an older one that still waits is dropped."""
        arrival_ns = time.monotonic_ns()
        self._statistics.frame_in(arrival_ns)
        if not self._rate_limit.passes(arrival_ns, self._values().max_rate_hz):
            self._statistics.drop(diagnostics.RATE_LIMIT)
        elif self._worker.slot.put(Received(message, arrival_ns, self._openings)):
            self._statistics.drop(diagnostics.REPLACED)

    def receive_camera_info(self, message: CameraInfo) -> None:
        """Keep it for the frames that it describes."""
        self._camera_infos.add(message)

    def _infer(self, received: Received) -> None:
        """One frame, from message to messages."""
        values, outputs = self._values(), self.outputs
        wanted = outputs.wanted()
        if not wanted:
            self._statistics.drop(diagnostics.NO_LISTENER)
            return
        message, header = received.message, received.message.header
        compressed = isinstance(message, CompressedImage)
        frame = frame_from_compressed(message) if compressed else frame_from_image(message)
        info = self._fitting_camera_info(frame) if wanted & self._calibrated else None
        if info is not None:
            frame = replace(frame, focal_px=focal_px(info))
        self.pipeline.settings = values.pipeline_settings()
        seen = self.pipeline(frame, depth=bool(wanted & outputs.depth_topics))
        by_ground_m = self._metres(seen, info) if "depth" in wanted else None
        messages = outputs.for_planners(wanted, header, seen, info, by_ground_m)
        if not self._publish(messages, received):
            self._statistics.drop(diagnostics.INACTIVE)
            return
        latency_ns = time.monotonic_ns() - received.arrival_ns
        age_ns = (self._node.get_clock().now() - Time.from_msg(header.stamp)).nanoseconds
        drawn = outputs.for_people(wanted, header, frame, seen, values.overlay_opacity)
        self._publish(drawn, received)
        self._statistics.frame_out(latency_ns, age_ns, frame.width, frame.height)

    def _publish(self, messages: dict[str, Image | CameraInfo], received: Received) -> bool:
        """Send messages, unless the input was closed since the frame came."""
        with self._publishing:
            if received.opening != self._open:
                return False
            self.outputs.publish(messages)
            return True

    def _metres(self, seen: Prediction, info: CameraInfo | None) -> np.ndarray | None:
        """Relative depth in metres, by the road; None, counted and said, where it gives none."""
        if self._ground is None or info is None:
            return None
        height, width = seen.labels.shape
        intrinsics = scaled_camera_info(info, width, height).k.reshape(3, 3)
        try:
            depth_m, fit = self._ground.metres(seen, intrinsics)
        except NoGroundError as error:
            self._statistics.ground(None, str(error))
            return None
        self._statistics.ground(fit.residual)
        return depth_m

    def _fitting_camera_info(self, frame: Frame) -> CameraInfo | None:
        """The frame's CameraInfo; None, counted and said, where there is none or K is zero."""
        info = self._camera_infos.matching(frame)
        if info is not None and focal_px(info) is not None:
            return info
        self._statistics.camera_info_missing()
        self._node.get_logger().warning(
            f"no {'' if info is None else 'calibrated '}camera_info for "
            f"{frame.width}x{frame.height} in frame {frame.frame_id!r}",
            throttle_duration_sec=LOG_PERIOD_S,
        )
        return info

    def _failed(self, received: Received, error: Exception) -> None:
        """Count what a frame's way ended in; the next frame is tried as if nothing happened."""
        if not self._node.context.ok():
            return
        logger = self._node.get_logger()
        if isinstance(error, BadImage):
            self._statistics.drop(error.cause, str(error))
            logger.warning(
                f"dropped an image ({error.cause}): {error}", throttle_duration_sec=LOG_PERIOD_S
            )
            return
        text = f"{type(error).__name__}: {error}"
        self._statistics.drop(diagnostics.INFERENCE_ERROR, text)
        trace = "".join(traceback.format_exception(error))
        logger.error(
            f"inference failed, frame dropped: {text}\n{trace}", throttle_duration_sec=LOG_PERIOD_S
        )


def load_pipeline(values: Parameters) -> Pipeline:
    """The pipeline that the parameters describe. Raises ValueError or OSError with a reason."""
    variant = load_variant(values.variant)
    # Only here, so that the node answers and reports while PyTorch is being imported.
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
