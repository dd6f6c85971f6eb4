# SPDX-License-Identifier: Apache-2.0
"""Frames of several cameras on their way to one engine that is held or broken, in this process."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from engines import HeldEngine
from nodes import HEIGHT, image_message
from rigs import Rig
from waits import WAIT_S

from depthforge_ros.engine.engine import CropOutput
from depthforge_ros.ros.node.statistics import Health

CAMERAS = ("front", "left", "right")


class FaultyEngine(HeldEngine):
    """Fails for more than `most` images at once, as one does that lacks memory."""

    most = 64

    def __call__(self, crops: torch.Tensor, *, depth: bool) -> CropOutput:
        output = super().__call__(crops, depth=depth)
        if len(crops) > self.most:
            raise RuntimeError("out of memory")
        return output


class SharedRig(Rig):
    """Three cameras, whose masks are heard."""

    def __init__(self, *, overlap: bool = False) -> None:
        super().__init__(FaultyEngine(), CAMERAS, overlap=overlap)
        self.heard = {camera: self.hear("semantic", camera) for camera in CAMERAS}

    def send(self, camera: str, index: int, **changes: object) -> None:
        self.inference.streams[camera].receive(image_message(index, **changes))

    def hold(self, camera: str, index: int) -> None:
        """Send an image and wait until the engine has started with it, and with nothing else."""
        self.send(camera, index)
        assert self.engine.started.acquire(timeout=WAIT_S)

    def let_go(self) -> None:
        """Let the held image through, and once it is heard, all others.

        A publisher of depth 1 sends the newer of two that follow each other at once.
        """
        self.engine.permits.release()
        self.listener.spin_until(lambda: self.stamps("front") == [1])
        self.engine.permits.release(10)

    def all_settled(self) -> dict[str, Health]:
        """The counters once every frame has gone out or been dropped."""

        def healths() -> dict[str, Health]:
            return {camera: self.counts[camera].snapshot() for camera in CAMERAS}

        def done() -> bool:
            return all(
                h.frames_in == h.frames_out + sum(h.drops.values()) for h in healths().values()
            )

        self.listener.spin_until(done)
        return healths()

    def stamps(self, camera: str) -> list[int]:
        return [message.header.stamp.sec - 1_700_000_000 for message in self.heard[camera]]


@pytest.fixture
def rig() -> Iterator[SharedRig]:
    made = SharedRig()
    yield made
    made.close()


@pytest.fixture
def overlapping() -> Iterator[SharedRig]:
    made = SharedRig(overlap=True)
    yield made
    made.close()


Packed = tuple[threading.Event, threading.Event]


@pytest.fixture
def packed(overlapping: SharedRig, monkeypatch: pytest.MonkeyPatch) -> Packed:
    """Outputs of the front camera are held: set once one is packed, and what lets it go on."""
    outputs = overlapping.inference.streams["front"].outputs
    pack, packing, go_on = outputs.for_planners, threading.Event(), threading.Event()

    def held(*arguments: object) -> dict:
        packing.set()
        assert go_on.wait(WAIT_S)
        return pack(*arguments)

    monkeypatch.setattr(outputs, "for_planners", held)
    return packing, go_on


def heard(rig: SharedRig, expected: dict[str, list[int]]) -> None:
    rig.listener.spin_until(lambda: {c: rig.stamps(c) for c in CAMERAS} == expected)


def test_frames_that_wait_together_are_inferred_together_and_each_is_its_cameras_newest(
    rig: SharedRig,
) -> None:
    rig.hold("front", 1)
    for camera, index in (("front", 2), ("left", 11), ("front", 3), ("right", 21), ("left", 12)):
        rig.send(camera, index)
    rig.let_go()
    heard(rig, {"front": [1, 3], "left": [12], "right": [21]})
    assert rig.engine.batches == [1, 3]
    drops = {camera: rig.counts[camera].snapshot().drops for camera in CAMERAS}
    assert drops == {"front": {"replaced": 1}, "left": {"replaced": 1}, "right": {}}


def test_a_call_takes_max_batch_frames_and_those_served_longest_ago_first(rig: SharedRig) -> None:
    rig.values = dataclasses.replace(rig.values, max_batch=2)
    rig.hold("front", 1)
    for camera, index in (("front", 2), ("left", 11), ("right", 21)):
        rig.send(camera, index)
    rig.engine.permits.release()
    heard(rig, {"front": [1], "left": [], "right": []})
    rig.engine.permits.release()
    heard(rig, {"front": [1], "left": [11], "right": [21]})
    rig.engine.permits.release()
    heard(rig, {"front": [1, 2], "left": [11], "right": [21]})
    assert rig.engine.batches == [1, 2, 1]


def test_frames_of_other_sizes_are_inferred_by_themselves(rig: SharedRig) -> None:
    rig.hold("front", 1)
    turned = {"width": HEIGHT, "height": 96, "step": 3 * HEIGHT}
    for camera, index, changes in (("left", 11, turned), ("front", 2, {}), ("right", 21, {})):
        rig.send(camera, index, **changes)
    rig.let_go()
    heard(rig, {"front": [1, 2], "left": [11], "right": [21]})
    assert rig.engine.batches == [1, 1, 2]
    assert (rig.heard["left"][0].width, rig.heard["left"][0].height) == (HEIGHT, 96)


def test_a_call_for_several_that_fails_costs_no_frame_that_alone_succeeds(rig: SharedRig) -> None:
    rig.engine.most = 1
    rig.hold("front", 1)
    for camera, index in (("front", 2), ("left", 11), ("right", 21)):
        rig.send(camera, index)
    rig.let_go()
    heard(rig, {"front": [1, 2], "left": [11], "right": [21]})
    assert rig.engine.batches == [1, 3, 1, 1, 1]
    assert [rig.counts[camera].snapshot().drops for camera in CAMERAS] == [{}, {}, {}]


@pytest.mark.parametrize("spoil", [{"height": 0}, {"height": 1 << 31}, {"encoding": "rgb7"}])
def test_a_bad_image_is_a_drop_of_its_camera_alone(rig: SharedRig, spoil: dict) -> None:
    rig.hold("front", 1)
    rig.send("left", 11, **spoil)
    rig.send("right", 21)
    rig.let_go()
    heard(rig, {"front": [1], "left": [], "right": [21]})
    rig.send("left", 12)
    heard(rig, {"front": [1], "left": [12], "right": [21]})
    healths = {camera: rig.counts[camera].snapshot() for camera in CAMERAS}
    assert sum(healths["left"].faults.values()) == 1
    assert healths["right"].drops == healths["front"].drops == {}


def test_all_cameras_in_a_call_are_seen_to_be_worked_on_and_given_up_together(
    rig: SharedRig,
) -> None:
    rig.hold("front", 1)
    rig.send("left", 11)
    rig.send("right", 21)
    rig.engine.permits.release()
    assert rig.engine.started.acquire(timeout=WAIT_S)
    rig.send("front", 2)
    works = [rig.counts[camera].snapshot().work_s for camera in CAMERAS]
    assert [work_s is None for work_s in works] == [True, False, False]
    assert rig.inference.close(0.05) is False
    assert all(rig.counts[camera].snapshot().work_s is None for camera in CAMERAS)
    assert rig.counts["front"].snapshot().drops == {"inactive": 1}


def test_the_next_frame_is_converted_while_one_is_inferred(overlapping: SharedRig) -> None:
    rig = overlapping
    rig.hold("front", 1)
    rig.send("left", 11, encoding="rgb7")
    left = rig.counts["left"]
    rig.listener.spin_until(lambda: left.snapshot().drops == {"unknown_encoding": 1})
    assert rig.engine.batches == [1]  # it is held all the while
    rig.engine.permits.release(10)
    heard(rig, {"front": [1], "left": [], "right": []})


def test_a_frame_is_published_while_the_next_is_inferred_and_not_once_the_input_is_closed(
    overlapping: SharedRig, packed: Packed
) -> None:
    rig, (packing, go_on) = overlapping, packed
    rig.engine.permits.release()
    rig.hold("front", 1)
    assert packing.wait(WAIT_S)
    rig.hold("front", 2)  # the engine has started while the first one is on its way out
    rig.inference.close_input()
    go_on.set()
    rig.engine.permits.release(10)
    assert rig.all_settled()["front"].drops == {"inactive": 2}
    rig.inference.open_input()
    rig.hold("front", 3)
    heard(rig, {"front": [3], "left": [], "right": []})


def test_overlapping_frames_keep_their_order_and_their_camera(overlapping: SharedRig) -> None:
    rig = overlapping
    rig.engine.permits.release(1000)
    for index in range(100):
        for number, camera in enumerate(CAMERAS):
            rig.send(camera, 1000 * number + index)
        time.sleep(0.001)
    healths = rig.all_settled()
    newest = [[1000 * number + 99] for number in range(len(CAMERAS))]
    rig.listener.spin_until(lambda: [rig.stamps(c)[-1:] for c in CAMERAS] == newest)
    for number, camera in enumerate(CAMERAS):
        stamps = rig.stamps(camera)
        assert stamps == sorted(set(stamps))
        assert {stamp // 1000 for stamp in stamps} == {number}
        assert set(healths[camera].drops) <= {"replaced"}


def test_a_close_with_frames_on_every_stretch_of_the_way_loses_none(
    overlapping: SharedRig, packed: Packed
) -> None:
    rig, (packing, go_on) = overlapping, packed
    rig.engine.permits.release(3)
    rig.hold("front", 1)
    assert packing.wait(WAIT_S)  # the first is held on its way out
    rig.hold("left", 11)  # handed over
    rig.hold("right", 21)  # inferred, and waits to be handed over
    rig.send("front", 2)
    assert rig.inference.close(0.1) is False
    go_on.set()
    healths = rig.all_settled()
    assert [healths[camera].frames_out for camera in CAMERAS] == [0, 0, 0]
    assert [healths[camera].drops["inactive"] for camera in CAMERAS] == [2, 1, 1]
