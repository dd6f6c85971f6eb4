# SPDX-License-Identifier: Apache-2.0
"""Topic to topic: a process of cameras, the node, and this process as the planner that listens."""

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
    environment,
    node_command,
    process,
    settle,
    use,
    wait_for,
    wait_until_active,
)
from depthforge_ros.ros.harness.recorder import image_recorder
from depthforge_ros.ros.harness.synthetic_camera import FRAME_ID

SLOPE_SPAN_S = 30.0  # a node that has just started grows, and an hour's worth of that means nothing


@dataclass(frozen=True)
class Setting:
    """What is measured. cameras: how many share the node, each at the rate. profile: whether the
    shipped Fast DDS profile is used. parameters: others of the node.
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
        """Of the cameras; a single one has none."""
        return [f"camera{number + 1}" for number in range(self.cameras)] * (self.cameras > 1)

    @property
    def topics(self) -> list[str]:
        """Of the images, one a camera."""
        return [f"/{name}/image" for name in self.names] or ["/image"]

    @property
    def masks(self) -> list[str]:
        """Topics of the masks, one a camera."""
        return [f"/depthforge/{name}/semantic" for name in self.names] or ["/depthforge/semantic"]


@dataclass(frozen=True)
class Result:
    """The figures, of all cameras together.

    sent_s: how long the cameras took to send; camera_late_ms: their worst image. received_each:
    masks of each camera. latency_ms: p50, p90, p99 and worst, from the stamp, taken right before an
    image is published, to the arrival of its mask; jitter_ms: its standard deviation. wrong_stamps:
    masks with a header that no image of their camera had, or that came out of turn. cpu_s: of the
    node, while images came. memory: seconds and MiB of the node that are in RAM and not shared, one
    pair every memory_every_s.
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
        """Masks a second, of all cameras together."""
        return self.received / self.sent_s

    def slope_mib_per_hour(self) -> float | None:
        """Growth of the node over the second half; None where that is too short to tell."""
        half = np.array(self.memory[len(self.memory) // 2 :])  # [readings, 2]
        if len(half) < 3 or half[-1, 0] - half[0, 0] < SLOPE_SPAN_S:
            return None
        return float(np.polyfit(half[:, 0] / 3600, half[:, 1], 1)[0])

    def as_mapping(self, setting: Setting) -> dict[str, Any]:
        """Everything as plain data, with the machine it was measured on."""
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
    """Run the graph for the time that the setting says; logs go to the folder.

    Raises RuntimeError where something fails or no mask comes back.
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
        process("node", node_command(parameters, {}), env, folder / "node.txt") as node,
    ):
        wait_until_active(recorder, node)
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
        raise RuntimeError(f"no mask came back; the node says: {report.message}")
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
    """Seconds and resident MiB of the node until the sender has ended, one reading at least."""
    started_s = time.monotonic()
    readings = [(0.0, resident_mib(node.pid))]
    while not wait_for(sender.ended, node, every_s):
        readings.append((time.monotonic() - started_s, resident_mib(node.pid)))
    return tuple(readings)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Memory of a process that is in RAM and not shared: a shared-memory transport is no leak."""
    pages = [int(field) for field in Path(f"/proc/{pid}/statm").read_text("utf-8").split()]
    return (pages[1] - pages[2]) * os.sysconf("SC_PAGE_SIZE") / 2**20
