# SPDX-License-Identifier: Apache-2.0
"""`depthforge benchmark`: a few images through camera, node and listener, and how it counts."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dds import own_domain
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from waits import WAIT_S

from depthforge_ros import cli
from depthforge_ros.benchmark.machine import processor
from depthforge_ros.benchmark.node import failed
from depthforge_ros.benchmark.topics import Result, cpu_seconds, resident_mib
from depthforge_ros.ros.harness.recorder import Recorded
from depthforge_ros.ros.serialized import header_bytes


def benchmark(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "depthforge_ros.cli", "benchmark", *map(str, options)]
    command += ["--domain-id", str(own_domain())]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * WAIT_S, check=False)


def assert_adds_up(result: dict[str, Any], sent: int, sent_s: float, reported: str) -> None:
    """Every image of a run is accounted for, in the figures and in what the command reported."""
    assert result["sent"] == sent
    assert result["sent_s"] >= sent_s
    assert 1 <= result["frames_in"] <= sent
    assert result["frames_in"] == result["received"] + sum(result["drops"].values())
    p50, p90, p99, worst = result["latency_ms"]
    assert 0 < p50 <= p90 <= p99 <= worst
    assert result["wrong_stamps"] == 0
    assert result["cpu_s"] > 0
    assert len(result["memory"]) >= 2
    assert all(mib > 50 for _, mib in result["memory"])
    assert result["slope_mib_per_hour"] is None
    assert f"images sent {sent} in {result['sent_s']:.1f} s" in reported
    assert f"masks received {result['received']} (" in reported


def test_every_image_is_accounted_for(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    options = ("--size", "64x48", "--rate", "10", "--seconds", "2", "--memory-every", "0.1")
    done = benchmark(*options, "--json", out)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text("utf-8"))
    setting, result, machine = figures["setting"], figures["result"], figures["machine"]
    assert (setting["width"], setting["height"]) == (64, 48)
    assert setting["profile"] is True
    assert_adds_up(result, 20, 1.9, done.stdout)  # the last of 20 images at 10 Hz comes at 1.9 s
    assert machine["processor"] == processor() != ""
    assert "transport profile" in done.stdout


def test_two_settings_are_measured_in_turn_and_compared(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    options = ("--size", "64x48", "--rate", "10", "--seconds", "2", "--memory-every", "0.1")
    options += ("--cameras", "2", "--set", "short_side_px=64,max_rate_hz=50")
    options += ("--vs", "cameras=1,short_side_px=96,transport=default", "--pairs", "1")
    done = benchmark(*options, "--json", out)
    assert done.returncode == 0, done.stderr
    two, one = json.loads(out.read_text("utf-8"))
    assert (two["setting"]["cameras"], one["setting"]["cameras"]) == (2, 1)
    assert [figures["setting"]["profile"] for figures in (two, one)] == [True, False]
    assert [f"transport {name}" in done.stdout for name in ("profile", "default")] == [True, True]
    set_of = [figures["setting"]["parameters"] for figures in (two, one)]
    assert set_of == [{"short_side_px": px, "max_rate_hz": 50.0} for px in (64, 96)]
    for figures, sent in ((two, 40), (one, 20)):
        result = figures["result"]
        assert_adds_up(result, sent, 1.9, done.stdout)
        assert sum(result["received_each"]) == result["received"] >= 1
    assert all(count >= 1 for count in two["result"]["received_each"])
    rates = [f["result"]["received"] / f["result"]["sent_s"] for f in (two, one)]
    ratio = f"{rates[0] / rates[1]:.3f}"
    line = "over cameras=1,short_side_px=96,transport=default, median of 1 pairs: "
    assert f"{line}masks/s {ratio} ({ratio} to {ratio})" in done.stdout


def test_a_short_soak_of_the_network_finds_no_wrong_stamp(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    options = ("--checkpoint", "untrained", "--size", "64x48", "--seconds", "3")
    done = benchmark("soak", *options, "--memory-every", "0.5", "--json", out)
    assert done.returncode == 0, done.stderr
    assert "of which 0 have a wrong stamp" in done.stdout
    figures = json.loads(out.read_text("utf-8"))
    result = figures["result"]
    assert figures["setting"]["rate_hz"] == 10
    assert result["sent"] == 30
    assert result["received"] >= 1
    assert result["wrong_stamps"] == 0


def test_a_soak_fails_by_stamps_and_by_growth() -> None:
    def growing(mib_per_hour: float) -> list[tuple[float, float]]:
        return [(10.0 * i, 300.0 + 10.0 * i * mib_per_hour / 3600) for i in range(20)]

    assert not failed(result(growing(9)))
    assert failed(result(growing(11)))
    assert failed(dataclasses.replace(result([(0.0, 300.0)]), wrong_stamps=1))


def test_headers_are_wrong_that_no_image_had_or_that_come_out_of_turn() -> None:
    def header(stamp_ns: int, frame_id: str = "camera") -> bytes:
        message = Image(header=Header(frame_id=frame_id))
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        return header_bytes(serialize_message(message))

    sent = [10**9 * second + 7 for second in range(1, 6)]
    came = [header(sent[0]), header(sent[2]), header(sent[4])]
    assert Recorded({"a": came}, {"a": []}).wrong_headers("a", sent, "camera") == 0
    came += [header(sent[4]), header(sent[3]), header(8), header(sent[0], "rear")]
    assert Recorded({"a": came}, {"a": []}).wrong_headers("a", sent, "camera") == 4


def test_a_node_that_cannot_work_is_one_line() -> None:
    done = benchmark("--checkpoint", "none.safetensors", "--size", "64x48", "--seconds", "1")
    line = "depthforge benchmark: configure failed: no weights at none.safetensors\n"
    assert (done.returncode, done.stderr) == (1, line)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--size", "big"], "--size is 'big'; expected WIDTHxHEIGHT in pixels, width first"),
        (["--size", "8x8"], "--size is '8x8'; the node takes sides of at least 16"),
        (["--rate", "0"], "--rate is 0.0; expected a number above 0"),
        (["--seconds", "inf"], "--seconds is inf; expected a number above 0"),
        (["--rate", "1", "--seconds", "0.1"], "0.1 s at 1 Hz is not even one image"),
        (["--json", "/nowhere/a.json"], "--json is /nowhere/a.json, whose folder does not exist"),
        (["--domain-id", "400"], "--domain-id is 400; expected 0..232"),
        (["--cameras", "0"], "--cameras is 0; expected 1..16"),
        (["--vs", "cameras=17"], "--cameras is 17; expected 1..16"),
        (["--vs", "camera=2"], "--vs has 'camera=2'; expected NAME=VALUE of cameras, size"),
        (["--vs", "short_side_px=small"], "--vs has 'short_side_px=small'; short_side_px is a int"),
        (["--set", "short_side=256"], "--set has 'short_side=256'; expected NAME=VALUE of a param"),
        (["--set", "variant=dinov2_s"], "--set has 'variant=dinov2_s'; give --variant, which is"),
        (["--set", "full_size=1"], "--set has 'full_size=1'; full_size is"),
        (["--vs", "rate=fast"], "--vs has 'rate=fast', which is no number"),
        (["--vs", "transport=tcp"], "transport is 'tcp'; expected profile or default"),
        (["--vs", "cameras=2", "--pairs", "0"], "--pairs is 0; expected at least 1"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], options: list[str], line: str
) -> None:
    assert cli.main(["benchmark", *options]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"depthforge benchmark: {line}")
    assert errors.count("\n") == 1


def result(memory: list[tuple[float, float]]) -> Result:
    return Result(
        sent=1,
        sent_s=1.0,
        camera_late_ms=0.0,
        frames_in=1,
        received=1,
        received_each=(1,),
        drops={},
        latency_ms=(1.0, 1.0, 1.0, 1.0),
        jitter_ms=0.0,
        wrong_stamps=0,
        cpu_s=1.0,
        memory=tuple(memory),
    )


def test_the_slope_is_that_of_the_second_half() -> None:
    warming = [(10.0 * index, 100.0 + 50 * index) for index in range(5)]
    growing = [(10.0 * index, 300.0 + index) for index in range(5, 10)]  # 1 MiB in 10 s
    assert result(warming + growing).slope_mib_per_hour() == pytest.approx(360)
    assert result(growing).slope_mib_per_hour() is None  # 20 s tell nothing of an hour


WORKER = """
import sys, time
print("ready", flush=True)
sys.stdin.readline()
held = bytearray(b"x") * (64 << 20)
started_s = time.process_time()
while time.process_time() - started_s < 0.3:
    pass
print(time.process_time(), flush=True)
sys.stdin.readline()
"""


def test_cpu_and_memory_are_those_of_the_process() -> None:
    """A process that does nothing else, and waits while it is looked at."""
    command = [sys.executable, "-c", WORKER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as worker:
        assert worker.stdout.readline() == "ready\n"
        before_mib = resident_mib(worker.pid)
        print(file=worker.stdin, flush=True)
        used_s = float(worker.stdout.readline())
        assert cpu_seconds(worker.pid) == pytest.approx(used_s, abs=0.1)
        assert resident_mib(worker.pid) - before_mib == pytest.approx(64, abs=8)
        print(file=worker.stdin, flush=True)
    assert worker.returncode == 0
