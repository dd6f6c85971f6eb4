# SPDX-License-Identifier: Apache-2.0
"""One network and the cameras that share it, from configure to cleanup. Read `Inference` first.

Callbacks only leave a message; which one comes next is the schedule's to say, and what happens to
it is the stream's (stream.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rclpy.lifecycle import LifecycleNode

from depthforge_ros.frame import Prediction
from depthforge_ros.ros import diagnostics
from depthforge_ros.ros.diagnostics import Statistics
from depthforge_ros.ros.parameters import Parameters
from depthforge_ros.ros.schedule import ALONE, Schedule
from depthforge_ros.ros.stream import Job, Received, Stream
from depthforge_ros.ros.worker import Worker
from depthforge_ros.variant import load_variant

if TYPE_CHECKING:
    from depthforge_ros.pipeline import Pipeline


class Inference:
    """A loaded pipeline, the streams of its cameras and the thread between them.

    statistics: by camera, which says which cameras there are. values: gives the parameters of the
    moment; a frame reads them once, at the beginning of its inference. Raises ValueError where
    metres by the road are asked for and the variant knows no road, or where ~/drivable is to show
    classes that it does not have, and what rclpy raises for a QoS override.
    """

    def __init__(
        self,
        node: LifecycleNode,
        pipeline: Pipeline,
        statistics: Mapping[str, Statistics],
        values: Callable[[], Parameters],
    ) -> None:
        self.pipeline = pipeline
        self._values = values
        variant = pipeline.engine.variant
        if values().camera_height_m > 0 and len(statistics) > 1:
            node.get_logger().warning(
                f"no ~/drivable: the camera_ parameters place one camera, and there are "
                f"{len(statistics)}"
            )
        self._schedule: Schedule[Received] = Schedule(statistics, self._together)
        self.streams: dict[str, Stream] = {}
        try:
            for camera, counts in statistics.items():
                self.streams[camera] = Stream(node, camera, variant, counts, values, self._leave)
        except Exception:
            self._close_outputs()
            raise
        self._worker = Worker("depthforge_inference", self._schedule, self._work, _all_failed)

    def open_input(self) -> None:
        """Frames are welcome from now on, and published."""
        for stream in self.streams.values():
            stream.open_input()

    def close_input(self) -> None:
        """Publish nothing any more; frames that wait or are being inferred are dropped."""
        for stream in self.streams.values():
            stream.close_input()
        for camera in self._schedule.clear():
            self.streams[camera].statistics.drop(diagnostics.INACTIVE)

    def close(self, timeout_s: float) -> bool:
        """End the thread and destroy the publishers. Returns False where inference goes on."""
        self.close_input()
        stopped = self._worker.stop(timeout_s)
        if not stopped:
            for stream in self.streams.values():
                stream.statistics.abandon_work()
        self._close_outputs()
        return stopped

    def publish_labels(self, threshold: float) -> None:
        """Send the label set on every camera's topic of it.

        threshold: the confidence below which pixels are unlabelled.
        """
        for stream in self.streams.values():
            stream.outputs.publish_labels(threshold)

    def _close_outputs(self) -> None:
        for stream in self.streams.values():
            stream.outputs.close()

    def _leave(self, received: Received) -> bool:
        return self._schedule.put(received.stream.camera, received)

    def _together(self, item: Received) -> tuple[Hashable, int]:
        """Frames that the engine takes in one call belong together, as many as it takes."""
        if len(self.streams) == 1 or item.size is None:
            return ALONE
        try:
            return self.pipeline.batching(*item.size, self._values().pipeline_settings())
        except Exception:  # a size that no frame has; said where it is worked on
            return ALONE

    def _work(self, batch: list[Received]) -> None:
        """Frames of several cameras, from message to messages."""
        with ExitStack() as work:
            accounts = {received: work.enter_context(ExitStack()) for received in batch}
            for received, account in accounts.items():
                account.enter_context(received.stream.statistics.working())
            values = self._values()
            jobs = [job for received in batch if (job := _prepared(received))]
            for job, seen in self._seen(jobs, values):
                try:
                    job.stream.deliver(job, seen, values)
                except Exception as error:
                    job.stream.failed(error)
                accounts[job.received].close()  # the others are still worked on

    def _seen(self, jobs: list[Job], values: Parameters) -> Iterator[tuple[Job, Prediction]]:
        """What the network sees in the frames, in their order, without those that fail."""
        if not jobs:
            return
        try:
            settings = values.pipeline_settings()
            predictions = self.pipeline.batch(
                [job.frame for job in jobs], [job.depth for job in jobs], settings
            )
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].stream.failed(error)
                return
            for job in jobs:  # what one camera's frame breaks costs the others nothing
                yield from self._seen([job], values)
            return
        yield from zip(jobs, predictions, strict=True)


def _prepared(received: Received) -> Job | None:
    try:
        return received.stream.prepare(received)
    except Exception as error:
        received.stream.failed(error)
        return None


def _all_failed(batch: list[Received], error: Exception) -> None:
    for received in batch:
        received.stream.failed(error)


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
