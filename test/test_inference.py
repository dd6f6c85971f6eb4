# SPDX-License-Identifier: Apache-2.0
"""What happens to a frame on its way through the node, with an engine that is held or broken."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import rclpy
import torch
from dds import Listener, own_domain
from nodes import HEIGHT, KEEP, camera_info_message, image_message
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image
from torch import Tensor

from depthforge_ros.engine.instant import InstantEngine
from depthforge_ros.engine.output import CropOutput
from depthforge_ros.pipeline import Pipeline
from depthforge_ros.ros.diagnostics import Health, Statistics
from depthforge_ros.ros.inference import Inference, load_pipeline
from depthforge_ros.ros.parameters import Parameters
from depthforge_ros.variant import load_variant

WAIT_S = 30.0


class HeldEngine(InstantEngine):
    """Answers once it may, notes whether depth was asked for, and fails where it is told to."""

    def __init__(self) -> None:
        super().__init__(load_variant("nano"))
        self.depths: list[bool] = []
        self.error: Exception | None = None
        self.begun = threading.Semaphore(0)
        self.permits = threading.Semaphore(0)

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        self.depths.append(depth)
        self.begun.release()
        assert self.permits.acquire(timeout=WAIT_S)
        if self.error is not None:
            raise self.error
        seen = super().__call__(crops, depth=depth)
        return CropOutput(seen.scores, seen.depth if depth else None)


class Rig:
    """An active Inference in this process, and a listener in another context."""

    def __init__(self) -> None:
        domain = own_domain()
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = LifecycleNode("depthforge", context=self._context)
        self.engine = HeldEngine()
        self.statistics = Statistics()
        values = Parameters(short_side_px=HEIGHT)
        pipeline = Pipeline(self.engine)
        self.inference = Inference(self._node, pipeline, self.statistics, lambda: values)
        self._node.trigger_configure()
        self._node.trigger_activate()
        self.inference.open_input()
        self.listener = Listener(domain)

    def hear(self, name: str) -> list[Image]:
        """What comes on ~/NAME, once the publisher knows that somebody listens."""
        heard = self.listener.subscribe(Image, f"/depthforge/{name}", KEEP)
        self.listener.spin_until(lambda: name in self.inference.outputs.wanted())
        return heard

    def drops(self) -> dict[str, int]:
        return dict(self.statistics.snapshot().drops)

    def settled(self, count: int) -> Health:
        """The counters once that many frames have gone out or been dropped."""

        def done() -> bool:
            health = self.statistics.snapshot()
            return health.frames_out + sum(health.drops.values()) >= count

        self.listener.spin_until(done)
        self.listener.drain()
        return self.statistics.snapshot()

    def close(self) -> None:
        self.engine.permits.release(10)
        self.inference.close(WAIT_S)
        self.listener.__exit__()
        self._node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def stamps(heard: list[Image]) -> list[int]:
    return [message.header.stamp.sec - 1_700_000_000 for message in heard]


def test_while_one_is_inferred_only_the_newest_waits(rig: Rig) -> None:
    heard = rig.hear("semantic")
    rig.inference.receive(image_message(1))
    assert rig.engine.begun.acquire(timeout=WAIT_S)
    for index in (2, 3, 4, 5):
        rig.inference.receive(image_message(index))
    rig.engine.permits.release()
    rig.listener.spin_until(lambda: stamps(heard) == [1])
    rig.engine.permits.release()
    rig.listener.spin_until(lambda: stamps(heard) == [1, 5])
    health = rig.settled(5)
    assert (health.frames_in, health.frames_out, health.drops) == (5, 2, {"replaced": 3})


def test_a_frame_at_hand_when_the_input_closes_is_never_published(rig: Rig) -> None:
    heard = rig.hear("semantic")
    rig.inference.receive(image_message(1))
    assert rig.engine.begun.acquire(timeout=WAIT_S)
    rig.inference.receive(image_message(2))
    rig.inference.close_input()
    rig.inference.open_input()  # not even when the node is active again before it is done
    rig.engine.permits.release(10)
    assert rig.settled(2).drops == {"inactive": 2}
    rig.inference.receive(image_message(3))
    rig.settled(3)
    rig.listener.spin_until(lambda: bool(heard))
    assert stamps(heard) == [3]


def test_an_error_of_the_engine_is_counted_and_the_next_frame_goes_through(rig: Rig) -> None:
    heard = rig.hear("semantic")
    rig.engine.permits.release(10)
    rig.engine.error = RuntimeError("out of memory")
    rig.inference.receive(image_message(1))
    health = rig.settled(1)
    assert health.drops == {"inference_error": 1}
    assert health.fault_text == "RuntimeError: out of memory"
    rig.engine.error = None
    rig.inference.receive(image_message(2))
    assert rig.settled(2).frames_out == 1
    rig.listener.spin_until(lambda: bool(heard))
    assert stamps(heard) == [2]


def test_the_engine_is_not_asked_while_nobody_listens(rig: Rig) -> None:
    rig.engine.permits.release(10)
    rig.inference.receive(image_message(1))
    assert rig.settled(1).drops == {"no_listener": 1}
    assert rig.engine.depths == []


def test_depth_is_computed_for_who_listens_to_depth(rig: Rig) -> None:
    rig.engine.permits.release(10)
    rig.inference.receive_camera_info(camera_info_message())
    rig.hear("semantic")
    rig.inference.receive(image_message(1))
    rig.settled(1)
    heard = rig.hear("depth")
    rig.inference.receive(image_message(2))
    rig.settled(2)
    assert rig.engine.depths == [False, True]
    rig.listener.spin_until(lambda: bool(heard))
    assert stamps(heard) == [2]


def test_metres_of_an_unknown_camera_are_not_published(rig: Rig) -> None:
    rig.engine.permits.release(10)
    heard = rig.hear("depth")
    rig.inference.receive_camera_info(camera_info_message(width=50))
    rig.inference.receive(image_message(1))
    assert rig.settled(1).missing_camera_info == 1
    uncalibrated = camera_info_message()
    uncalibrated.k = [0.0] * 9
    rig.inference.receive_camera_info(uncalibrated)
    rig.inference.receive(image_message(2))
    assert rig.settled(2).missing_camera_info == 2
    assert heard == []


def test_threads_are_those_asked_for_and_come_back_to_the_default() -> None:
    default = torch.get_num_threads()
    counts = []
    for threads in (0, default + 1, 0):
        load_pipeline(Parameters(checkpoint="instant", threads=threads))
        counts.append(torch.get_num_threads())
    assert counts == [default, default + 1, default]
