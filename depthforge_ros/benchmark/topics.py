# SPDX-License-Identifier: Apache-2.0
"""Measures from topic to topic: cameras, the node, and this process as the listening planner."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from depthforge_ros.benchmark.machine import processor
from depthforge_ros.ros.harness.node_process import (
    Process,
    active_node,
    environment,
    process,
    settle,
    use,
    wait_for,
)
from depthforge_ros.ros.harness.recorder import image_recorder
from depthforge_ros.ros.harness.synthetic_camera import FRAME_ID

SLOPE_SPAN_S = 30.0  # a shorter span measures the growth of a starting node


@dataclass(frozen=True)
class Setting:
    """One measurement.

    cameras: number of cameras, each at rate_hz. profile: whether the shipped Fast DDS profile is
    used. parameters: further parameters of the node.
    """

    width: int
    height: int
    rate_hz: float
    seconds: float
    variant: str
    checkpoint: str
    device: str
    profile: bool
    memory_every_s: float
    domain_id: int | None
    cameras: int = 1
    parameters: Mapping[str, str | float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the cameras; empty for a single camera."""
        return [f"camera{number + 1}" for number in range(self.cameras)] * (self.cameras > 1)

    @property
    def topics(self) -> list[str]:
        """Image topics, one per camera."""
        return [f"/{name}/image" for name in self.names] or ["/image"]

    @property
    def masks(self) -> list[str]:
        """Mask topics, one per camera."""
        return [f"/depthforge/{name}/semantic" for name in self.names] or ["/depthforge/semantic"]


@dataclass(frozen=True)
class Result:
    """Figures of all cameras together.

    sent_s: duration of sending. camera_late_ms: largest delay of an image. received_each: masks of
    each camera. latency_ms: p50, p90, p99 and worst, from the stamp, taken right before an image is
    published, to the arrival of its mask. jitter_ms: standard deviation of the latency.
    wrong_stamps: masks whose header no image of their camera had, or out of order. cpu_s: processor
    time of the node while images came. memory: pairs of seconds and MiB of the node's unshared
    resident memory, one every memory_every_s.
    """

    sent: int
    sent_s: float
    camera_late_ms: float
    frames_in: int
    received: int
    received_each: tuple[int, ...]
    drops: Mapping[str, int]
    latency_ms: tuple[float, ...]
    jitter_ms: float
    wrong_stamps: int
    cpu_s: float
    memory: tuple[tuple[float, float], ...]

    @property
    def rate_hz(self) -> float:
        """Masks per second of all cameras together."""
        return self.received / self.sent_s

    def slope_mib_per_hour(self) -> float | None:
        """Return the growth over the second half; None if that is shorter than SLOPE_SPAN_S."""
        half = np.array(self.memory[len(self.memory) // 2 :])  # [readings, 2]
        if len(half) < 3 or half[-1, 0] - half[0, 0] < SLOPE_SPAN_S:
            return None
        return float(np.polyfit(half[:, 0] / 3600, half[:, 1], 1)[0])

    def as_mapping(self, setting: Setting) -> dict[str, Any]:
        """Return setting, figures and machine as plain data."""
        return {
            "setting": dataclasses.asdict(setting),
            "result": dataclasses.asdict(self) | {"slope_mib_per_hour": self.slope_mib_per_hour()},
            "machine": {
                "processor": processor(),
                "cores": len(os.sched_getaffinity(0)),
                "python": platform.python_version(),
            },
        }


def measure(setting: Setting, folder: Path) -> Result:
    """Run the setting and return its figures; logs go to the folder.

    Raises RuntimeError if a process fails or no mask comes back.
    """
    env = environment(setting.domain_id, profile=setting.profile)
    use(env)
    parameters = {
        "variant": setting.variant,
        "checkpoint": setting.checkpoint,
        "device": setting.device,
        **({"cameras": setting.names} if setting.names else {}),
        **setting.parameters,
    }
    camera = [sys.executable, "-m", "depthforge_ros.ros.harness.synthetic_camera"]
    camera += [word for topic in setting.topics for word in ("--topic", topic)]
    camera += ["--width", str(setting.width), "--height", str(setting.height)]
    camera += ["--rate", f"{setting.rate_hz:g}", "--seconds", f"{setting.seconds:g}"]
    camera_log = folder / "camera.txt"
    with (
        image_recorder(*setting.masks) as recorder,
        active_node(recorder, parameters, {}, env, folder / "node.txt") as node,
    ):
        with recorder.recording() as seen:
            before_s = cpu_seconds(node.pid)
            with process("camera", camera, env, camera_log) as sender:
                wait_for(
                    lambda: any(map(recorder.heard, setting.masks)) or sender.ended(),
                    node,
                    math.inf,
                )
                memory = watch_memory(node, sender, setting.memory_every_s)
            cpu_s = cpu_seconds(node.pid) - before_s
            settle(recorder, node, *setting.masks)
        report = recorder.report()
    sent = json.loads(camera_log.read_text("utf-8").splitlines()[-1])
    received = tuple(len(seen.headers[topic]) for topic in setting.masks)
    if not any(received):
        raise RuntimeError(f"no mask came back; the node reports: {report.message}")
    delays_ms = seen.delays_ms(*setting.masks)
    return Result(
        sent=sent["sent"],
        sent_s=sent["seconds"],
        camera_late_ms=sent["late_ms"],
        frames_in=report.counters.frames_in,
        received=sum(received),
        received_each=received,
        drops=report.counters.drops,
        latency_ms=tuple(float(ms) for ms in np.percentile(delays_ms, (50, 90, 99, 100))),
        jitter_ms=float(delays_ms.std()),
        wrong_stamps=sum(
            seen.wrong_headers(topic, stamps_ns, FRAME_ID)
            for topic, stamps_ns in zip(setting.masks, sent["stamps_ns"], strict=True)
        ),
        cpu_s=cpu_s,
        memory=memory,
    )


def watch_memory(node: Process, sender: Process, every_s: float) -> tuple[tuple[float, float], ...]:
    """Return seconds and resident MiB of the node until the sender ends; at least one pair."""
    started_s = time.monotonic()
    readings = [(0.0, resident_mib(node.pid))]
    while not wait_for(sender.ended, node, every_s):
        readings.append((time.monotonic() - started_s, resident_mib(node.pid)))
    return tuple(readings)


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Return the unshared resident memory; a shared-memory transport is no leak."""
    pages = [int(field) for field in Path(f"/proc/{pid}/statm").read_text("utf-8").split()]
    return (pages[1] - pages[2]) * os.sysconf("SC_PAGE_SIZE") / 2**20
