# SPDX-License-Identifier: Apache-2.0
"""Cameras, recorders and clocks that misbehave while one node in a process of its own runs on.

docs/faults.md lists every fault and the test that holds it.
"""

from __future__ import annotations

import array
import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builtin_interfaces.msg import Time
from dds import environment, own_domain
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from nodes import (
    HEIGHT,
    SENSOR,
    WIDTH,
    Bench,
    RunningNode,
    camera_info_message,
    image_message,
    picture,
    running_node,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from depthforge_ros.benchmark.topics import resident_mib

HOUR_S = 3600
# Stamps only ever rise from one test to the next, as the node is one and the same.
_numbers = itertools.count(1)


def following(**changes: object) -> Image:
    """An image with a stamp later than every one before it. changes: fields to spoil."""
    return image_message(next(_numbers), **changes)


@pytest.fixture(scope="module")
def domain() -> int:
    return own_domain()


@pytest.fixture(scope="module")
def node(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with running_node(domain, tmp_path_factory.mktemp("node"), checkpoint="instant") as running:
        yield running
        assert running.process.poll() is None
        assert running.end() == 0
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def lasting_bench(domain: int, node: RunningNode) -> Iterator[Bench]:
    with Bench(domain) as made:
        made.wait_for("state", "active")
        yield made


@pytest.fixture
def bench(lasting_bench: Bench) -> Iterator[Bench]:
    """One for all tests, as nodes take seconds to find each other, without what a test added."""
    node = lasting_bench.node
    kept = {*node.subscriptions, *node.publishers}
    yield lasting_bench
    for subscription in {*node.subscriptions} - kept:
        node.destroy_subscription(subscription)
    for publisher in {*node.publishers} - kept:
        node.destroy_publisher(publisher)


def counters(bench: Bench) -> dict[str, int]:
    """The node's account once it adds up: what came in went out, or is a drop of one cause."""
    names = ("frames in", "frames out")

    def counted() -> dict[str, int]:
        values = bench.values()
        drops = {key: int(value) for key, value in values.items() if key.startswith("dropped: ")}
        return {name: int(values[name]) for name in names if name in values} | drops

    def adds_up() -> bool:
        found = counted()
        return bool(found) and 2 * found["frames in"] == sum(found.values())

    bench.report_from_now()
    bench.spin_until(adds_up)
    return counted()


def faults(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Drops in between that a node that is merely slow does not have."""
    causes = [c for c in after if c.startswith("dropped: ") and c != "dropped: replaced"]
    return {c: after[c] - before.get(c, 0) for c in causes if after[c] != before.get(c, 0)}


def stamps(heard: list) -> list[tuple[int, int]]:
    return [(message.header.stamp.sec, message.header.stamp.nanosec) for message in heard]


def test_size_and_encoding_may_change_from_image_to_image(bench: Bench) -> None:
    heard = bench.hear("semantic")
    tall = picture(1, 2 * HEIGHT, WIDTH)
    grey = array.array("B", tall[:HEIGHT, :, 0].tobytes())
    changes = [
        ({}, (WIDTH, HEIGHT)),
        ({"encoding": "bgr8"}, (WIDTH, HEIGHT)),
        (
            {"height": 2 * HEIGHT, "data": array.array("B", tall.tobytes())},
            (WIDTH, 2 * HEIGHT),
        ),
        (
            {"encoding": "mono8", "step": WIDTH, "data": grey},
            (WIDTH, HEIGHT),
        ),
        ({"width": WIDTH // 2}, (WIDTH // 2, HEIGHT)),
        ({}, (WIDTH, HEIGHT)),
    ]
    before = counters(bench)
    for spoil, size in changes:
        message = following(**spoil)
        answer = bench.exchange(message, heard)
        assert answer.header == message.header
        assert (answer.width, answer.height) == size
    after = counters(bench)
    assert after["frames out"] - before["frames out"] >= len(changes)
    assert faults(before, after) == {}


def test_metres_come_with_a_calibration_that_fits_and_masks_without(bench: Bench) -> None:
    heard = {name: bench.hear(name) for name in ("semantic", "depth")}
    infos = bench.hear("camera_info", CameraInfo)

    def exchange() -> Image:
        message = following()
        bench.exchange(message, heard["semantic"])
        bench.drain()
        return message

    elsewhere = camera_info_message()
    elsewhere.header.frame_id = "rear_optical"
    bench.spin_until(lambda: bench.camera_info.get_subscription_count() == 1)
    for info in (None, camera_info_message(width=WIDTH + 2), elsewhere):
        if info is not None:
            bench.send(info)
            bench.drain()
        exchange()
        assert (heard["depth"], infos) == ([], [])
    message = following()  # late, and right
    bench.exchange(message, heard["depth"], camera_info_message())
    bench.exchange(message, infos, camera_info_message())
    assert set(stamps(heard["depth"])) == set(stamps(infos)) == set(stamps([message]))
    # The camera turns to another size: its old calibration is nobody's.
    tall = picture(1, 2 * HEIGHT, WIDTH)
    spoil = {"height": 2 * HEIGHT, "data": array.array("B", tall.tobytes())}
    turned = following(**spoil)
    bench.exchange(turned, heard["semantic"])
    bench.drain()
    assert stamps([turned])[0] not in stamps(heard["depth"])


def test_two_cameras_on_one_topic_are_told_and_never_mixed_up(bench: Bench) -> None:
    heard = bench.hear("semantic")
    other = bench.node.create_publisher(Image, "/image", SENSOR)
    bench.spin_until(lambda: other.get_subscription_count() == 1)
    sent = []
    for _ in range(4):
        front, rear = following(), following()
        rear.header.frame_id = "rear_optical"
        bench.exchange(front, heard)
        bench.image, camera = other, bench.image
        bench.exchange(rear, heard)
        bench.image = camera
        sent += [front, rear]
    headers = {(*stamp, m.header.frame_id) for m, stamp in zip(heard, stamps(heard), strict=True)}
    expected = zip(sent, stamps(sent), strict=True)
    assert headers == {(*stamp, message.header.frame_id) for message, stamp in expected}
    bench.spin_until(lambda: "2 publishers on /image" in bench.status().message)
    assert bench.status().level == DiagnosticStatus.WARN
    assert bench.values()["input publishers"] == "2"


def test_of_a_burst_the_newest_are_served_in_order_and_all_are_counted(bench: Bench) -> None:
    heard = bench.hear("semantic")
    bench.exchange(following(), heard)
    before = counters(bench)
    count = len(heard)
    burst: list[Image] = []

    def served() -> bool:
        """Whether three of the burst are answered, which goes on until then."""
        for _ in range(100):
            burst.append(following())
            bench.send(burst[-1])
        bench.drain(lambda: len(heard) >= count + 3)
        return len(burst) >= 500 and len(heard) >= count + 3

    bench.spin_until(served)
    bench.drain()
    after = counters(bench)
    answered = stamps(heard)[count:]
    assert answered == sorted(set(answered))
    assert set(answered) <= set(stamps(burst))
    came = after["frames in"] - before["frames in"]
    assert 3 <= came <= len(burst)  # best effort
    causes = {key for key, value in after.items() if before.get(key, 0) != value}
    assert causes <= {"frames in", "frames out", "dropped: replaced"}


RECORDER = """
import time
import rclpy
from rclpy.qos import HistoryPolicy, QoSProfile
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("slow_recorder")
everything = QoSProfile(history=HistoryPolicy.KEEP_ALL)
node.create_subscription(Image, "/depthforge/semantic", lambda _: time.sleep(3600), everything)
rclpy.spin(node)
"""


def test_a_recorder_that_hangs_keeps_nothing_from_the_planner(bench: Bench, domain: int) -> None:
    heard = bench.hear("semantic")
    recorder = subprocess.Popen([sys.executable, "-c", RECORDER], env=environment(domain))
    try:
        bench.spin_until(lambda: bench.node.count_subscribers("/depthforge/semantic") == 2)
        rounds = 2 * [20]
        for number, count in enumerate(rounds):
            for _ in range(count):
                message = following()
                assert bench.exchange(message, heard).header == message.header
            if number == 0:
                recorder.send_signal(signal.SIGSTOP)  # now it does not even acknowledge
    finally:
        recorder.kill()
        recorder.wait()
    assert bench.exchange(following(), heard).encoding == "mono8"


def test_a_camera_that_dies_is_told_and_its_successor_served(
    bench: Bench, domain: int, tmp_path: Path
) -> None:
    heard = bench.hear("semantic")
    assert bench.set(stall_after_s=0.5).successful
    camera = [
        sys.executable,
        "-m",
        "depthforge_ros.ros.harness.synthetic_camera",
        "--topic",
        "/image",
    ]
    camera += ["--width", str(WIDTH), "--height", str(HEIGHT), "--rate", "20", "--seconds", "600"]
    for _ in range(2):
        count = len(heard)
        process = subprocess.Popen(camera, env=environment(domain))
        try:
            bench.spin_until(lambda count=count: len(heard) >= count + 3)
        finally:
            process.kill()
            process.wait()
        bench.report_from_now()
        bench.spin_until(lambda: "input stalled: no image on /image" in bench.status().message)
    assert bench.values()["state"] == "active"
    answered = stamps(heard)
    assert answered == sorted(answered)


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_jumps_by_an_hour_stops_nothing(bench: Bench, jump_s: int) -> None:
    """ROS time and the camera's stamps together, as where one computer is set anew; then the camera
    alone, which no planner may believe.
    """
    heard = bench.hear("semantic")
    clock = bench.node.create_publisher(Clock, "/clock", 10)

    def node_s(now: Time) -> int:
        """The node's ROS time by its newest report, after another /clock."""
        clock.publish(Clock(clock=now))
        bench.drain()
        return bench.diagnostics[-1].header.stamp.sec

    assert bench.set(use_sim_time=True).successful
    try:
        bench.spin_until(lambda: clock.get_subscription_count() == 1)
        start_s = 1_800_000_000 + 10 * HOUR_S * (jump_s < 0)
        for second in range(4):
            message = following()
            now = message.header.stamp
            now.sec = start_s + second + (jump_s if second > 1 else 0)
            bench.spin_until(lambda now=now: node_s(now) == now.sec)
            if not second:
                assert bench.set(drop_stale=True).successful
            assert bench.exchange(message, heard).header == message.header
        cause = "dropped: stale" if jump_s < 0 else "dropped: future"
        assert cause not in bench.values()
        message.header.stamp.sec += jump_s

        def dropped() -> bool:
            bench.send(message)
            bench.drain()
            return int(bench.values().get(cause, 0)) > 0

        bench.spin_until(dropped)
    finally:
        assert bench.set(drop_stale=False).successful
        assert bench.set(use_sim_time=False).successful
    assert message.header.stamp not in [answer.header.stamp for answer in heard]


def test_a_hundred_lifecycles_leave_nothing_behind(bench: Bench, node: RunningNode) -> None:
    down = (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
    up = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    heard = bench.hear("semantic")

    def cycle() -> None:
        for transition in (*down, *up):
            assert bench.change(transition)

    def left() -> tuple[int, int, float]:
        bench.exchange(following(), heard)
        return node.threads(), node.handles(), resident_mib(node.process.pid)

    for _ in range(20):  # what is built on first use is there after that
        cycle()
    threads, handles, memory_mib = left()
    for _ in range(80):
        cycle()
    after = left()
    assert after[:2] == (threads, handles)
    assert after[2] - memory_mib < 4.0
