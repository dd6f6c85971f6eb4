# SPDX-License-Identifier: Apache-2.0
"""`depthforge status` over DDS, and how it reads reports."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys

import pytest
from dds import Listener, environment, own_domain
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rich.console import Console
from waits import WAIT_S

from depthforge_ros.ros.monitor import status_command
from depthforge_ros.ros.monitor.report import Level, per_second, reports_of
from depthforge_ros.ros.monitor.status_table import line, screen

VALUES = {
    "state": "active",
    "variant": "nano",
    "input topic": "/cam/image",
    "input publishers": "1",
    "latency p50 ms": "41.5",
    "latency p99 ms": "63.0",
    "frame age ms": "",
    "withheld: depth": "no camera_info for 96x64",
}


def array(seconds: float, frames: int, replaced: int, level: bytes = DiagnosticStatus.OK):
    """A report of the node in namespace front, and one of somebody else."""
    counters = {"frames in": frames + replaced, "frames out": frames, "dropped: replaced": replaced}
    values = [KeyValue(key=k, value=str(v)) for k, v in {**VALUES, **counters}.items()]
    own = DiagnosticStatus(
        name="front/depthforge: inference", level=level, message="20.0 frames/s", values=values
    )
    message = DiagnosticArray(status=[DiagnosticStatus(name="lidar: driver", level=level), own])
    message.header.stamp.sec = int(seconds)
    message.header.stamp.nanosec = round((seconds - int(seconds)) * 1e9)
    return message


def test_reports_of_the_node_are_found_and_rates_are_of_their_stamps() -> None:
    (old,), (new,) = (reports_of(array(*args)) for args in ((10.0, 100, 5), (12.5, 150, 7)))
    assert (new.name, new.level, new.message) == (
        "front/depthforge: inference", Level.OK, "20.0 frames/s",
    )  # fmt: skip
    assert new.drops == {"replaced": 7}
    assert new.number("latency p50 ms") == 41.5
    assert new.number("frame age ms") is None
    assert per_second(old, new, "frames out") == 20.0
    assert per_second(old, new, "frames in") == pytest.approx(52 / 2.5)
    assert per_second(None, new, "frames out") is None
    assert per_second(new, old, "frames out") is None  # a restarted node
    assert reports_of(array(1, 1, 1), "/depthforge") == []
    assert len(reports_of(array(1, 1, 1), "/front/depthforge")) == 1
    assert line(new, old) == (
        "OK front/depthforge: inference: in 20.8 Hz, out 20.0 Hz, p50 41.5 ms, p99 63.0 ms, "
        "dropped replaced 7; 20.0 frames/s"
    )


def test_the_screen_shows_level_rates_latency_drops_and_what_is_withheld() -> None:
    (old,), (new,) = (reports_of(array(*args)) for args in ((10.0, 100, 5), (12.5, 150, 7)))

    def text(age_s: float) -> str:
        file = io.StringIO()
        Console(file=file, width=100).print(screen([(new, old, age_s)], 3.0))
        return file.getvalue()

    shown = text(0.5)
    for part in (
        "front/depthforge: inference", "OK  20.0 frames/s", "/cam/image", "publishers: 1",
        "20.8 Hz in, 20.0 Hz out", "total 157 in, 150 out", "p50 41.5 ms, p99 63.0 ms",
        "age of stamp - ms", "replaced 7", "variant: nano",
        "not published: no camera_info for 96x64",
    ):  # fmt: skip
        assert part in shown, shown
    assert "STALE  no report for 9 s; the last one: 20.0 frames/s" in text(9.0)


@pytest.mark.parametrize(
    ("level", "status"), [(DiagnosticStatus.WARN, 0), (DiagnosticStatus.ERROR, 1)]
)
def test_the_verb_prints_once_and_its_status_is_the_level(level: bytes, status: int) -> None:
    domain = own_domain()
    command = [sys.executable, "-m", "depthforge_ros.cli", "status", "--once"]
    command += ["--timeout", str(WAIT_S)]
    with Listener(domain) as camera:
        publisher = camera.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        process = subprocess.Popen(
            command, env=environment(domain), stdout=subprocess.PIPE, text=True
        )

        def ended() -> bool:
            publisher.publish(array(1.0, 1, 0, level))
            return process.poll() is not None

        camera.spin_until(ended)
    assert process.returncode == status
    assert f"{Level(int.from_bytes(level, 'little')).name}  20.0 frames/s" in process.stdout.read()


def test_silence_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(own_domain()))
    parser = argparse.ArgumentParser()
    status_command.configure(parser)
    assert status_command.run(parser.parse_args(["--timeout", "0.3"])) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "depthforge status: no report of a node depthforge on /diagnostics with"
    )
    assert error.endswith("; nobody publishes it\n")
    with pytest.raises(ValueError, match=r"--timeout is 0\.0; expected seconds above 0"):
        status_command.run(parser.parse_args(["--timeout", "0"]))
