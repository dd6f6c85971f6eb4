# SPDX-License-Identifier: Apache-2.0
"""The judgement that /diagnostics gives on counters."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import rclpy.logging
from clocks import Clock
from diagnostic_msgs.msg import DiagnosticStatus

from depthforge_ros.engine import INSTANT, UNTRAINED, Journal
from depthforge_ros.ros.messages import ABSENT
from depthforge_ros.ros.node.diagnostics import (
    MEANINGLESS,
    EngineReport,
    NodeStatus,
    Source,
    status,
)
from depthforge_ros.ros.node.heartbeat import Heartbeat
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.ros.node.statistics import Statistics

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
ACTIVE = NodeStatus(
    "active", source=Source("/image", 1), variant="nano", backend="eager", device="cpu"
)


def judged(
    statistics: Statistics, situation: NodeStatus = ACTIVE, limits: Parameters | None = None
) -> tuple[bytes, str]:
    health = statistics.snapshot()
    made = status("depthforge: inference", situation, health, limits or Parameters())
    return made.level, made.message


def test_drops_by_design_are_no_reason_to_warn(clock: Clock, statistics: Statistics) -> None:
    statistics.frame_in(clock(), clock())
    for cause in ("replaced", "rate_limit", "no_listener", "inactive"):
        statistics.drop(cause)
    assert judged(statistics) == (OK, "0.0 frames/s")


def test_a_fault_is_reported_once_and_stays_counted(clock: Clock, statistics: Statistics) -> None:
    statistics.frame_in(clock(), clock())
    statistics.drop("short_data", "has 7 bytes")
    statistics.drop("short_data", "has 8 bytes")
    statistics.drop("bad_aspect", "image is 900x16")
    expected = (WARN, "dropped: bad_aspect 1, short_data 2; last: image is 900x16")
    assert judged(statistics) == expected
    assert judged(statistics)[0] == OK
    statistics.drop("inference_error", "RuntimeError: out of memory")
    assert judged(statistics) == (
        ERROR,
        "dropped: inference_error 1; last: RuntimeError: out of memory",
    )
    assert statistics.snapshot().drops == {"short_data": 2, "bad_aspect": 1, "inference_error": 1}


def test_silence_is_measured_from_the_last_frame_or_the_opening(
    clock: Clock, statistics: Statistics
) -> None:
    clock.now_ms += 60_000
    statistics.open_input()
    clock.now_ms += 900
    assert judged(statistics)[0] == OK
    clock.now_ms += 200
    nowhere = replace(ACTIVE, source=Source("/image", 0))
    text = "no image yet on /image for 1.1 s"
    assert judged(statistics, nowhere) == (WARN, f"{text}; it has no publisher")
    level, message = judged(statistics)
    assert level == WARN
    assert message.startswith(f"{text}; 1 publisher(s) and nothing arrives: check its QoS and the")
    statistics.frame_in(clock(), clock())
    assert judged(statistics)[0] == OK
    clock.now_ms += 2000
    assert judged(statistics) == (WARN, "input stalled: no image on /image for 2.0 s")
    clock.now_ms += 2000
    assert judged(statistics)[0] == WARN
    clock.now_ms += 100
    assert judged(statistics) == (ERROR, "input stalled: no image on /image for 4.1 s")
    patient = Parameters(stall_after_s=10.0, stall_error_after_s=20.0)
    assert judged(statistics, limits=patient)[0] == OK


def test_a_node_that_is_not_active_is_judged_by_its_last_configure(
    clock: Clock, statistics: Statistics
) -> None:
    clock.now_ms += 60_000
    for state in ("unconfigured", "configuring", "inactive", "finalized"):
        assert judged(statistics, NodeStatus(state)) == (OK, state)
    failed = NodeStatus("unconfigured", failure="configure failed: no weights at /a")
    assert judged(statistics, failed) == (ERROR, "configure failed: no weights at /a")


def test_the_status_has_every_value_by_name(clock: Clock, statistics: Statistics) -> None:
    engine = EngineReport(
        self_check="eager bf16: labels agree on 99.90%",
        refused=(("tensorrt fp16", "depth differs by 3%"),),
        notes=(("memory", "4 images at once"),),
    )
    situation = NodeStatus(
        "active",
        "",
        "nano",
        "a.safetensors",
        "cuda:0",
        "eager",
        "bf16",
        Source("/cam/image", 1),
        engine,
    )
    statistics.open_input()
    clock.now_ms += 500
    statistics.frame_in(clock(), clock())
    statistics.frame_out(12_340_000, 45_670_000, 1920, 1080)
    statistics.drop("replaced")
    statistics.add("missing_camera_info")
    statistics.note(withheld={"camera_info": "there is none"}, ground_residual=0.0123)
    statistics.note(input_encoding="mono16, 12 bits", calibration="rectified, P holds (D is zero)")
    made = status("depthforge: inference", situation, statistics.snapshot(), Parameters())
    assert (made.name, made.hardware_id) == ("depthforge: inference", "cuda:0")
    assert {entry.key: entry.value for entry in made.values} == {
        "state": "active",
        "backend": "eager",
        "precision": "bf16",
        "variant": "nano",
        "checkpoint": "a.safetensors",
        "input topic": "/cam/image",
        "input publishers": "1",
        "input encoding": "mono16, 12 bits",
        "input size": "1920x1080",
        "frames in": "1",
        "frames out": "1",
        "rate Hz": "1.0",
        "latency p50 ms": "12.3",
        "latency p99 ms": "12.3",
        "frame age ms": "45.7",
        "calibration": "rectified, P holds (D is zero)",
        "camera_info: missing": "1",
        "label_info": ABSENT or "published",
        "ground": "residual 1.2%",
        "depth scale": "",
        "camera height by depth m": "",
        "engine progress": "",
        "self-check": "eager bf16: labels agree on 99.90%",
        "refused: tensorrt fp16": "depth differs by 3%",
        "engine: memory": "4 images at once",
        "withheld: camera_info": "there is none",
        "dropped: replaced": "1",
    }


def test_what_became_of_the_engine_is_told(statistics: Statistics) -> None:
    statistics.open_input()
    journal = Journal()
    journal.proceed("building tensorrt bf16 for 480x352: 20 s")
    configuring = NodeStatus("configuring", engine=EngineReport.of(journal))
    assert judged(statistics, configuring) == (OK, f"configuring: {journal.progress}")
    journal.proceed("")
    journal.refuse("tensorrt bf16", "self-check: depth differs by 3.00%; allowed 1%")
    journal.note("memory", "cuda:0 is short of memory: 4 images at once")
    active = replace(ACTIVE, engine=EngineReport.of(journal))
    refused = "engine tensorrt bf16 refused: self-check: depth differs by 3.00%; allowed 1%"
    assert judged(statistics, active) == (WARN, f"{refused}; {journal.notes['memory']}")
    journal.fail("cuda:0 does not answer any more")
    level, message = judged(statistics, replace(ACTIVE, engine=EngineReport.of(journal)))
    assert (level, message.split("; ")[0]) == (ERROR, "cuda:0 does not answer any more")


def test_masks_that_mean_nothing_are_a_warning(statistics: Statistics) -> None:
    statistics.open_input()
    for checkpoint in MEANINGLESS:
        level, message = judged(statistics, NodeStatus("active", checkpoint=checkpoint))
        assert (level, message) == (WARN, f"checkpoint {checkpoint!r}: masks mean nothing")
    assert set(MEANINGLESS) == {UNTRAINED, INSTANT}


def test_an_output_that_is_withheld_is_a_warning_with_its_reason_until_it_is_not(
    statistics: Statistics,
) -> None:
    statistics.open_input()
    statistics.note(
        withheld={"depth": "road is 0.1% of the image; expected 2.0%"}, ground_residual=None
    )
    assert judged(statistics) == (WARN, "no depth: road is 0.1% of the image; expected 2.0%")
    statistics.note(withheld={}, ground_residual=0.01)
    assert judged(statistics)[0] == OK
    assert statistics.snapshot().ground_residual == 0.01
    statistics.note(withheld={"depth": "no road"}, ground_residual=None)
    assert statistics.snapshot().ground_residual is None
    statistics.open_input()
    assert statistics.snapshot().withheld == {}


def test_a_frame_that_stays_at_hand_is_an_error_in_every_state(
    clock: Clock, statistics: Statistics
) -> None:
    with statistics.working():
        clock.now_ms += 1000
        statistics.frame_in(clock(), clock())
        assert judged(statistics)[0] == OK
        clock.now_ms += 100
        text = "inference stalled: a frame has been worked on for {} s (eager on cpu)"
        assert judged(statistics) == (WARN, text.format(1.1))
        clock.now_ms += 3000
        statistics.frame_in(clock(), clock())
        assert judged(statistics) == (ERROR, text.format(4.1))
        inactive = NodeStatus("inactive", backend="eager", device="cpu")
        assert judged(statistics, inactive) == (ERROR, text.format(4.1))
        patient = Parameters(stall_after_s=9.0, max_inference_s=11.0)
        assert judged(statistics, limits=patient)[0] == OK
        statistics.stage("publishing")
        assert judged(statistics)[1].startswith("publishing stalled: a frame has been worked on")
    assert judged(statistics)[0] == OK


@pytest.mark.parametrize(
    ("age_ms", "limit_s", "expected"),
    [
        (999, 1.0, (OK, "1.0 frames/s")),
        (1500, 1.0, (WARN, "frames are 1.5 s old when published; allowed 1.0 s")),
        (1500, 0.0, (OK, "1.0 frames/s")),
        (-99, 1.0, (OK, "1.0 frames/s")),
        (-300, 0.0, (WARN, "stamp is 0.3 s in the future")),
        (None, 1.0, (WARN, "frame age unknown: use_sim_time is set and /clock is silent")),
    ],
)
def test_a_frames_age_has_a_limit_on_both_sides(
    statistics: Statistics, age_ms: int | None, limit_s: float, expected: tuple[bytes, str]
) -> None:
    statistics.open_input()
    statistics.frame_out(1, None if age_ms is None else age_ms * 1_000_000, 640, 480)
    assert judged(statistics, limits=Parameters(max_frame_age_s=limit_s)) == expected


def test_stamps_of_zero_are_a_warning_where_their_age_is_no_reason_to_drop(
    clock: Clock, statistics: Statistics
) -> None:
    statistics.open_input()
    for limits, expected in (
        (Parameters(drop_stale=False), (WARN, "stamps are zero: 2")),
        (Parameters(max_frame_age_s=0.0), (WARN, "stamps are zero: 2")),
        (Parameters(), (OK, "0.0 frames/s")),  # the drop says it
    ):
        for stamp_ns in (0, 0, 5):
            statistics.frame_in(clock(), stamp_ns)
        assert judged(statistics, limits=limits) == expected
        assert judged(statistics, limits=limits)[0] == OK


def test_an_input_of_nothing_but_faults_is_an_error_as_silence_is(
    clock: Clock, statistics: Statistics
) -> None:
    statistics.open_input()
    seen = []
    for _ in range(5):
        clock.now_ms += 1000
        statistics.frame_in(clock(), 1)
        statistics.drop("stale", "it is 9.0 s old; allowed 1 s")
        seen.append(judged(statistics))
    assert seen[:4] == 4 * [(WARN, "dropped: stale 1; last: it is 9.0 s old; allowed 1 s")]
    text = "dropped: stale 1 and none served for 5.0 s; last: it is 9.0 s old; allowed 1 s"
    assert seen[4] == (ERROR, text)
    statistics.frame_in(clock(), 1)
    statistics.frame_out(1, 1, 640, 480)
    statistics.drop("stale", "it is 9.0 s old; allowed 1 s")
    assert judged(statistics)[0] == WARN


def test_a_listener_that_takes_nothing_is_named_by_what_it_listens_to(
    statistics: Statistics,
) -> None:
    statistics.open_input()
    for seconds, level in ((0.9, OK), (1.1, WARN), (4.1, ERROR)):
        statistics.note(unacknowledged={"semantic": seconds})
        assert judged(statistics)[0] == level
    assert judged(statistics)[1] == "listener stalled: semantic not acknowledged for 4.1 s"
    statistics.note(unacknowledged={})
    assert judged(statistics)[0] == OK


def test_a_picture_that_is_not_drawn_is_a_warning_and_no_drop(
    clock: Clock, statistics: Statistics
) -> None:
    statistics.open_input()
    statistics.frame_out(1, 1, 640, 480)
    statistics.add("undrawn", undrawn_text="error: no colour")
    assert judged(statistics) == (WARN, "not drawn: 1; last: error: no colour")
    assert judged(statistics)[0] == OK
    assert statistics.snapshot().drops == {}


def test_a_slow_viewer_is_no_error(clock: Clock, statistics: Statistics) -> None:
    statistics.open_input()
    statistics.frame_in(clock(), clock())
    for output, level in (("depth", ERROR), ("overlay", WARN), ("semantic/compressed", WARN)):
        statistics.note(unacknowledged={output: 60.0})
        text = f"listener stalled: {output} not acknowledged for 60.0 s"
        assert judged(statistics) == (level, text)


def test_a_subscriber_that_needs_vision_msgs_is_a_warning_where_it_is_absent(
    clock: Clock, statistics: Statistics
) -> None:
    statistics.open_input()
    statistics.frame_in(clock(), clock())
    waiting = replace(ACTIVE, source=Source("/image", 1, label_info_listeners=2))
    assert judged(statistics, waiting) == (WARN, f"no label_info: {ABSENT}, and 2 subscribe to it")


def test_a_doubtful_calibration_is_a_warning(clock: Clock, statistics: Statistics) -> None:
    statistics.open_input()
    statistics.frame_in(clock(), clock())
    statistics.note(calibration_warning="K and P differ by 12.0%")
    assert judged(statistics) == (WARN, "K and P differ by 12.0%")


def test_all_causes_are_told_and_the_worst_one_first(clock: Clock, statistics: Statistics) -> None:
    statistics.open_input()
    statistics.frame_in(clock(), 0)
    statistics.note(withheld={"depth": "no road"}, ground_residual=None)
    assert judged(statistics) == (WARN, "no depth: no road")
    statistics.frame_in(clock(), 0)
    clock.now_ms += 6000  # what was withheld from the last frame says nothing any more
    assert judged(statistics, limits=Parameters(drop_stale=False)) == (
        ERROR,
        "input stalled: no image on /image for 6.0 s; stamps are zero: 1",
    )


def test_every_change_of_level_is_logged_and_none_ends_the_heartbeat(capfd) -> None:
    """rclpy refuses a line of code that logs with another severity than before."""
    logger = rclpy.logging.get_logger("levels")
    node = SimpleNamespace(get_logger=lambda: logger)
    heartbeat = SimpleNamespace(_levels={}, _node=node)
    for level in (WARN, ERROR, OK, ERROR, WARN, OK):
        Heartbeat._log(heartbeat, DiagnosticStatus(name="node", level=level, message="x"))
    logged = [line.split("]: ")[1] for line in capfd.readouterr().err.splitlines()]
    assert logged == [f"node: {name}: x" for name in ("WARN", "ERROR", "OK", "ERROR", "WARN", "OK")]
