# SPDX-License-Identifier: Apache-2.0
"""The node's lifecycle over real DDS: transitions, failures with reasons, and its end."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from engines import HeldEngine
from held_node import HeldNode, start
from lifecycle_msgs.msg import Transition
from nodes import Bench, image_message, running_node
from waits import WAIT_S

from depthforge_ros.ros.node import node as node_module


@pytest.fixture
def held(domain: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldNode]:
    made = HeldNode(domain, monkeypatch)
    yield made
    made.close()


def hang(bench: Bench, engine: HeldEngine, index: int) -> None:
    """Send an image until the engine has started with it."""
    bench.spin_until(lambda: bench.image.get_subscription_count() == 1)

    def started() -> bool:
        bench.send(image_message(index))
        bench.drain()
        return engine.started.acquire(blocking=False)

    bench.spin_until(started)


def test_an_engine_that_hangs_is_told_given_up_and_followed_by_a_new_one(
    held: HeldNode, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "JOIN_TIMEOUT_S", 1.0)
    heard = bench.hear("semantic")
    assert bench.set(max_inference_s=0.1).successful
    start(bench)
    hang(bench, held.engines[0], 1)
    bench.wait_for("state", "active")
    bench.spin_until(lambda: bench.status().message.startswith("inference stalled: a frame has"))
    assert bench.status().level == DiagnosticStatus.ERROR
    assert bench.change(Transition.TRANSITION_DEACTIVATE)
    bench.wait_for("state", "inactive")
    assert bench.status().message.startswith("inference stalled: a frame has")

    assert not bench.change(Transition.TRANSITION_CLEANUP)
    assert bench.state() == "unconfigured"
    bench.wait_for("state", "unconfigured")
    assert bench.status().level == DiagnosticStatus.ERROR
    assert bench.status().message == "inference did not end within 1 s"

    start(bench)
    held.engines[1].permits.release(100)
    assert bench.exchange(image_message(2), heard).header.stamp.sec == 1_700_000_002
    bench.wait_for("state", "active")
    assert "did not end" not in bench.status().message
    held.engines[0].permits.release(100)  # the driver comes back, too late
    bench.exchange(image_message(3), heard)
    assert {message.header.stamp.sec for message in heard} == {1_700_000_002, 1_700_000_003}


def test_a_failed_activation_releases_everything_and_says_why(
    domain: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    override = "qos_overrides./camera_info.subscription.reliability:=some"
    held = HeldNode(domain, monkeypatch, override)
    try:
        publishers = {publisher.topic_name for publisher in held.node.publishers}
        for _ in range(2):  # configure works again
            assert bench.change(Transition.TRANSITION_CONFIGURE)
            assert not bench.change(Transition.TRANSITION_ACTIVATE)
            assert bench.state() == "unconfigured"
        assert {publisher.topic_name for publisher in held.node.publishers} == publishers
        topics = {subscription.topic_name for subscription in held.node.subscriptions}
        assert not topics & {"/image", "/camera_info"}
        bench.wait_for("state", "unconfigured")
        bench.spin_until(lambda: bench.status().level == DiagnosticStatus.ERROR)
        assert bench.status().message.startswith("activate failed: RuntimeError: ")
        assert "`some`" in bench.status().message
        assert bench.values()["state"] == "unconfigured"
    finally:
        held.close()


def test_a_frame_keeps_the_parameters_that_it_began_with(held: HeldNode, bench: Bench) -> None:
    heard = bench.hear("semantic")
    start(bench)
    (engine,) = held.engines
    hang(bench, engine, 1)
    bench.drain()
    assert bench.set(confidence_threshold=1.0).successful
    engine.permits.release(100)
    bench.spin_until(lambda: len(heard) >= 1)
    answer = bench.exchange(image_message(2), heard)
    assert heard[0].header.stamp.sec == 1_700_000_001
    assert set(np.unique(heard[0].data)) == {0, 10}
    assert set(np.unique(answer.data)) == {255}


def test_three_rounds_leave_no_thread_behind(domain: int, bench: Bench, tmp_path: Path) -> None:
    heard = bench.hear("semantic")
    threads, active = [], []
    with running_node(domain, tmp_path, checkpoint="instant", autostart=False) as node:
        bench.wait_for("state", "unconfigured")
        assert bench.status().level == DiagnosticStatus.OK
        for number in range(3):
            assert bench.change(Transition.TRANSITION_CONFIGURE)
            assert bench.state() == "inactive"
            assert bench.change(Transition.TRANSITION_ACTIVATE)
            stamp = bench.exchange(image_message(number), heard).header.stamp
            assert stamp.sec == 1_700_000_000 + number
            active.append(node.threads())
            assert bench.change(Transition.TRANSITION_DEACTIVATE)
            bench.send(image_message(20 + number))  # nobody is subscribed, nothing is published
            assert bench.change(Transition.TRANSITION_CLEANUP)
            assert bench.state() == "unconfigured"
            threads.append(node.threads())
        assert node.end() == 0
        assert "Traceback" not in node.log
    assert {message.header.stamp.sec - 1_700_000_000 for message in heard} == {0, 1, 2}
    assert threads[1] == threads[2]
    assert active[1] == active[2]


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"checkpoint": "/nowhere/a.safetensors"}, "/nowhere/a.safetensors"),
        ({"variant": "nanoo", "checkpoint": "instant"}, "variant 'nanoo' is unknown"),
        ({"checkpoint": "untrained", "device": "tpu9"}, "device 'tpu9' is not available"),
    ],
)
def test_what_cannot_be_loaded_is_a_failure_with_its_reason(
    domain: int, bench: Bench, tmp_path: Path, parameters: dict[str, str], reason: str
) -> None:
    with running_node(domain, tmp_path, **parameters) as node:
        bench.spin_until(
            lambda: bool(bench.diagnostics) and bench.status().level == DiagnosticStatus.ERROR
        )
        assert bench.status().message.startswith("configure failed: ")
        assert reason in bench.status().message
        assert bench.values()["state"] == "unconfigured"
        assert bench.state() == "unconfigured"
        # It lives on: put right, it works.
        assert bench.set(variant="nano").successful
        assert bench.set(checkpoint="instant").successful
        assert bench.change(Transition.TRANSITION_CONFIGURE)
        assert bench.change(Transition.TRANSITION_ACTIVATE)
        bench.wait_for("state", "active")
        assert bench.status().level != DiagnosticStatus.ERROR
        assert reason in node.log


def test_a_transition_that_the_state_lacks_is_refused(
    domain: int, bench: Bench, tmp_path: Path
) -> None:
    with running_node(domain, tmp_path, checkpoint="instant") as node:
        bench.wait_for("state", "active")
        assert bench.change(Transition.TRANSITION_CONFIGURE) is False
        assert bench.change(Transition.TRANSITION_CLEANUP) is False
        assert bench.state() == "active"
        assert node.process.poll() is None


def test_values_that_act_in_configure_are_refused_while_active(
    domain: int, bench: Bench, tmp_path: Path
) -> None:
    with running_node(domain, tmp_path, checkpoint="instant"):
        bench.wait_for("state", "active")
        refused = bench.set(variant="dinov2_s")
        assert (refused.successful, refused.reason) == (
            False,
            "'variant' takes effect in configure; deactivate and clean up first",
        )
        assert not bench.set(autostart=False).successful
        assert "out of range" in bench.set(confidence_threshold=1.5).reason
        assert "expected 0 or 64..4096" in bench.set(short_side_px=10).reason


def test_a_stalled_input_is_a_warning(domain: int, bench: Bench, tmp_path: Path) -> None:
    warn, error = DiagnosticStatus.WARN, DiagnosticStatus.ERROR
    limits = {"stall_after_s": 1.5, "stall_error_after_s": 3600.0}
    with running_node(domain, tmp_path, checkpoint="instant", **limits) as node:

        def reported(level: bytes, text: str) -> bool:
            status = bench.status() if bench.diagnostics else DiagnosticStatus()
            return status.level == level and status.message.startswith(text)

        def served() -> bool:
            bench.send(image_message(0))
            bench.drain()
            return reported(warn, "checkpoint 'instant'")

        bench.spin_until(lambda: reported(warn, "no image yet"))
        assert bench.set(stall_error_after_s=1.5).successful
        bench.spin_until(lambda: reported(error, "no image yet"))
        bench.spin_until(served)
        bench.spin_until(lambda: reported(error, "input stalled: no image on /"))
        assert bench.set(stall_error_after_s=3600.0).successful
        bench.spin_until(lambda: reported(warn, "input stalled: no image on /"))
        # What it listens to, and every change of level, is in the log too.
        listening = "active: listening to /image (sensor_msgs/Image, best effort, depth 1), "
        assert f"{listening}/camera_info (sensor_msgs/CameraInfo, best effort, depth 1)" in node.log
        text = r"depthforge: inference: (OK|WARN|ERROR): "
        levels = ["WARN", "ERROR", "WARN", "ERROR", "WARN"]
        bench.spin_until(lambda: re.findall(text, node.log) == levels)  # logged once it is sent


def test_shutdown_ends_the_lifecycle_and_not_the_process(
    domain: int, bench: Bench, tmp_path: Path
) -> None:
    with running_node(domain, tmp_path, checkpoint="instant") as node:
        bench.wait_for("state", "active")
        assert bench.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
        bench.wait_for("state", "finalized")
        assert node.end() == 0


# As where a disk hangs while weights are read.
ENDLESS_LOADING = """
import sys, time
from depthforge_ros import pipeline
from depthforge_ros.ros.node import process

pipeline.select_pipeline = lambda *_, **__: time.sleep(1e6)
sys.exit(process.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_configure_ends_the_process_in_order(
    domain: int, bench: Bench, tmp_path: Path, number: int
) -> None:
    with running_node(domain, tmp_path, program=("-c", ENDLESS_LOADING)) as node:
        bench.wait_for("state", "configuring")
        assert node.end(number) == 0
        assert "configure was given up because the process ends" in node.log
        assert "Traceback" not in node.log


def test_signals_twice_end_an_active_node_once(domain: int, bench: Bench, tmp_path: Path) -> None:
    with running_node(domain, tmp_path, checkpoint="instant") as node:
        bench.wait_for("state", "active")
        node.process.send_signal(signal.SIGINT)
        assert node.end() == 0
        assert "Traceback" not in node.log


def test_a_wrong_start_value_is_one_line_and_status_2(domain: int, tmp_path: Path) -> None:
    with running_node(domain, tmp_path, max_rate_hz=10) as node:
        assert node.process.wait(WAIT_S) == 2
        (line,) = node.log.splitlines()
    assert line == "depthforge_node: max_rate_hz is 10, an integer; expected a double: write 10.0"


def test_an_unknown_parameter_is_not_ignored_silently(
    domain: int, bench: Bench, tmp_path: Path
) -> None:
    with running_node(domain, tmp_path, checkpoint="instant", confidence_treshold=0.5) as node:
        bench.wait_for("state", "active")
        assert "parameter 'confidence_treshold' is unknown and ignored" in node.log
