# SPDX-License-Identifier: Apache-2.0
"""One network and the cameras that share it, from configure to cleanup. Read `Inference` first.

Callbacks only submit a message. The schedule (schedule.py) decides which one is next, and the
camera's stream (camera_stream.py) what is done with it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rclpy.lifecycle import LifecycleNode

from depthforge_ros.frame import Prediction
from depthforge_ros.ros.node.camera_names import Topics
from depthforge_ros.ros.node.camera_poses import PoseSource, configured_pose
from depthforge_ros.ros.node.camera_stream import Stream
from depthforge_ros.ros.node.frames_in_flight import Job, Received
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.ros.node.schedule import ALONE, Handoff, Schedule
from depthforge_ros.ros.node.statistics import INACTIVE, REPLACED, Statistics
from depthforge_ros.ros.node.worker import AbandonedError, Worker

if TYPE_CHECKING:
    from depthforge_ros.engine import Journal
    from depthforge_ros.pipeline import Pipeline


@dataclass(frozen=True)
class Delivery:
    """A frame and its prediction."""

    job: Job
    seen: Prediction


class Inference:
    """A loaded pipeline, the streams of its cameras and the threads between them.

    statistics: by camera; its keys are the cameras. values: returns the current parameters. topics:
    of the inputs, by camera. tf: gives poses of cameras that the parameters do not place. Raises
    ValueError if metres by the road are requested and the variant has no road, or if ~/drivable or
    the palette names classes that it does not have, and what rclpy raises for a QoS override.
    """

    def __init__(
        self,
        node: LifecycleNode,
        pipeline: Pipeline,
        statistics: Mapping[str, Statistics],
        values: Callable[[], Parameters],
        *,
        topics: Mapping[str, Topics] | None = None,
        tf: PoseSource | None = None,
        overlap: bool | None = None,
    ) -> None:
        """overlap: whether the next frame is converted and the last one published while one is
        inferred; None: if the network does not run on the CPU, whose cores that would take.
        """
        self.pipeline = pipeline
        variant = pipeline.engine.variant
        nobody = sorted(values().poses().keys() - statistics.keys())
        if nobody:
            raise ValueError(
                f"camera_poses names {', '.join(nobody)}; cameras are {', '.join(statistics)}"
            )
        unplaced = [camera for camera in statistics if configured_pose(values(), camera) is None]
        if values().camera_height_m > 0 and unplaced and tf is None:
            node.get_logger().warning(
                f"no ~/drivable for {', '.join(unplaced)}: the camera_ parameters place a single "
                "camera; set camera_poses, or install tf2_ros"
            )
        if overlap is None:
            overlap = pipeline.engine.device.type != "cpu"
        self._schedule: Schedule[Received | Job] = Schedule(statistics, self._together)
        self._arrivals: Schedule[Received] | None = Schedule(statistics) if overlap else None
        self._deliveries: Handoff[Delivery] | None = Handoff() if overlap else None
        self.streams: dict[str, Stream] = {}
        try:
            for camera, counts in statistics.items():
                of_camera = (topics or {}).get(camera, Topics())
                self.streams[camera] = Stream(
                    node, camera, of_camera, variant, counts, values, self._submit, tf
                )
        except Exception:
            self._close_outputs()
            raise
        self._workers: list[Worker] = [
            Worker("depthforge_inference", self._schedule, self._work, self._batch_failed)
        ]
        if self._arrivals is not None and self._deliveries is not None:
            self._workers += [
                Worker("depthforge_conversion", self._arrivals, self._convert, self._batch_failed),
                Worker(
                    "depthforge_publication", self._deliveries, self._deliver, self._delivery_failed
                ),
            ]

    def open_input(self) -> None:
        """Accept and publish frames from now on."""
        for stream in self.streams.values():
            stream.open_input()

    def close_input(self) -> None:
        """Publish nothing any more; frames that wait or are being inferred are dropped."""
        for stream in self.streams.values():
            stream.close_input()
        for schedule in (self._arrivals, self._schedule):
            for camera in schedule.clear() if schedule else ():
                self.streams[camera].statistics.drop(INACTIVE)

    def close(self, timeout_s: float) -> bool:
        """End the threads and destroy the publishers. Returns False if inference goes on."""
        until_s = time.monotonic() + timeout_s
        self.close_input()
        if self._deliveries is not None:
            self._deliveries.close()  # inference may wait to hand over
        stopped = True
        for worker in self._workers:
            stopped &= worker.stop(max(0.0, until_s - time.monotonic()))
        self.close_input()  # what was converted or inferred meanwhile
        left = self._deliveries.left() if self._deliveries else None
        if left is not None:
            self.streams[left.job.camera].statistics.drop(INACTIVE)
        self.pipeline.close()
        if not stopped:
            for stream in self.streams.values():
                stream.statistics.abandon_work()
        self._close_outputs()
        return stopped

    def paint(self, values: Parameters) -> None:
        """Draw in the colours of the values from now on.

        Raises ValueError if they name classes that the network does not have; nothing is changed
        then.
        """
        labels = self.pipeline.engine.variant.labels.painted(values.colors())
        for stream in self.streams.values():
            stream.outputs.paint(labels)

    def publish_labels(self, threshold: float) -> None:
        """Send the label set on each camera's latched topics.

        threshold: the confidence below which pixels are unlabelled.
        """
        for stream in self.streams.values():
            stream.outputs.publish_labels(threshold)

    def _close_outputs(self) -> None:
        for stream in self.streams.values():
            stream.outputs.close()

    def _submit(self, received: Received) -> bool:
        return (self._arrivals or self._schedule).put(received.camera, received)

    def _together(self, item: Received | Job) -> tuple[Hashable, int]:
        """Return what the engine can infer in one call: equal keys, and how many at most."""
        size = None if len(self.streams) == 1 else item.size
        if size is None:
            return ALONE
        try:
            settings = item.values.pipeline_settings()
            key, most = self.pipeline.batching(*size, settings)
        except Exception:  # a size that no frame has; reported when the item is worked on
            return ALONE
        return (key, settings), most

    def _work(self, batch: list[Received | Job]) -> None:
        """Infer a batch of frames of several cameras, and publish or hand over the results."""
        with ExitStack() as work:
            accounts = {item.camera: work.enter_context(ExitStack()) for item in batch}
            for camera, account in accounts.items():
                account.enter_context(self.streams[camera].statistics.working())
            jobs = [job for item in batch if (job := self._prepared(item))]
            for job, seen in self._infer(jobs):
                delivery = Delivery(job, seen)
                if self._deliveries is None:
                    self._publish(delivery)
                elif not self._deliveries.put(delivery):
                    self.streams[job.camera].statistics.drop(INACTIVE)
                accounts[job.camera].close()  # the others are still worked on

    def _convert(self, arrived: list[Received]) -> None:
        """Prepare the next frames while others are inferred."""
        for received in arrived:
            job = self._prepared(received)
            if job is not None and self._schedule.put(job.camera, job):
                self.streams[job.camera].statistics.drop(REPLACED)

    def _deliver(self, delivery: Delivery) -> None:
        with self.streams[delivery.job.camera].statistics.working():
            self._publish(delivery)

    def _infer(self, jobs: list[Job]) -> Iterator[tuple[Job, Prediction]]:
        """Yield the predictions of frames of equal settings, in order, without those that fail."""
        if not jobs:
            return
        try:
            settings = jobs[0].values.pipeline_settings()
            predictions = self.pipeline.batch(
                [job.frame for job in jobs], [job.depth for job in jobs], settings
            )
        except Exception as error:
            if len(jobs) == 1:
                self.streams[jobs[0].camera].failed(error)
                return
            for job in jobs:  # a frame that fails must not cost other cameras theirs
                yield from self._infer([job])
            return
        yield from zip(jobs, predictions, strict=True)

    def _prepared(self, item: Received | Job) -> Job | None:
        """Return the frame to infer, None if it is dropped or cannot be converted."""
        stream = self.streams[item.camera]
        try:
            if isinstance(item, Received):
                return stream.prepare(item)
            return None if stream.too_old(item.received) else item
        except Exception as error:
            stream.failed(error)
            return None

    def _publish(self, delivery: Delivery) -> None:
        stream = self.streams[delivery.job.camera]
        try:
            stream.deliver(delivery.job, delivery.seen)
        except Exception as error:
            stream.failed(error)

    def _batch_failed(self, batch: Sequence[Received | Job], error: Exception) -> None:
        for item in batch:
            self.streams[item.camera].failed(error)

    def _delivery_failed(self, delivery: Delivery, error: Exception) -> None:
        self.streams[delivery.job.camera].failed(error)


def load_pipeline(
    values: Parameters, attach: Callable[[Journal], None], keep_going: Callable[[], bool]
) -> Pipeline:
    """Return the pipeline that the parameters describe, its engine compiled and checked.

    attach: gets the journal of the engine before anything is written to it. Raises ValueError or
    OSError with a reason, AbandonedError once keep_going() is false.
    """
    # Only here: seconds in which a node that starts already reports. Services wait, as configure
    # holds the executor.
    import torch

    from depthforge_ros.engine import CancelledError, Journal
    from depthforge_ros.pipeline import select_pipeline

    journal = Journal()
    attach(journal)
    torch.set_num_threads(values.threads or _default_threads())
    try:
        return select_pipeline(
            values.variant,
            values.checkpoint,
            values.pipeline_settings(),
            device=values.device,
            backend=values.backend,
            precision=values.precision,
            image_sizes=values.image_sizes(),
            cameras=max(1, len(values.cameras)),
            background=True,
            journal=journal,
            keep_going=keep_going,
        )
    except CancelledError as error:
        raise AbandonedError from error


@functools.cache
def _default_threads() -> int:
    """Return PyTorch's own choice, asked before it is changed."""
    import torch

    return torch.get_num_threads()
