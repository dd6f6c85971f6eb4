# SPDX-License-Identifier: Apache-2.0
"""Topic to topic: a camera process, the node, and this process as the planner that listens."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depthforge_ros.ros.processes import environment, listening, node_command, process

TOPIC = "/camera/image_raw"
SEMANTIC = "/depthforge/semantic"


@dataclass(frozen=True)
class Setting:
    """What is measured. profile: whether the shipped Fast DDS profile is used."""

    width: int
    height: int
    rate_hz: float
    seconds: float
    variant: str
    checkpoint: str
    device: str
    profile: bool
    memory_every_s: float
    domain_id: int


@dataclass(frozen=True)
class Result:
    """latency_ms: p50, p90, p99 and worst, stamp to arrival of the mask. cpu_share: of one core.

    memory_mib: resident size of the node, a reading every memory_every_s.
    """

    sent: int
    frames_in: int
    received: int
    drops: Mapping[str, int]
    latency_ms: tuple[float, float, float, float]
    cpu_share: float
    memory_mib: tuple[float, ...]
    memory_every_s: float

    def slope_mib_per_hour(self) -> float:
        """Growth of the node over the second half, when everything has warmed up."""
        half = self.memory_mib[len(self.memory_mib) // 2 :]
        if len(half) < 3:
            return float("nan")
        hours = np.arange(len(half)) * self.memory_every_s / 3600
        return float(np.polyfit(hours, half, 1)[0])

    def as_mapping(self, setting: Setting) -> dict[str, Any]:
        """Everything as plain data, with the machine it was measured on."""
        return {
            "setting": dataclasses.asdict(setting),
            "result": dataclasses.asdict(self),
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
            },
        }


def measure(setting: Setting, log: Path) -> Result:
    """Run the graph for the time that the setting says. Raises RuntimeError where it fails."""
    env = environment(setting.domain_id, profile=setting.profile)
    parameters = {
        "variant": setting.variant,
        "checkpoint": setting.checkpoint,
        "device": setting.device,
    }
    camera = [sys.executable, "-m", "depthforge_ros.ros.camera", "--topic", TOPIC]
    camera += ["--width", str(setting.width), "--height", str(setting.height)]
    camera += ["--rate", f"{setting.rate_hz:g}", "--seconds", f"{setting.seconds:g}"]
    camera_log = log.with_name("camera.txt")
    memory_mib: list[float] = []
    with (
        process("node", node_command(parameters, {"image": TOPIC}), env, log) as node,
        listening(env, SEMANTIC, node, log) as recorder,
    ):
        with process("camera", camera, env, camera_log) as sender:
            cpu_s, begun_s = cpu_seconds(node.pid), time.monotonic()
            while sender.poll() is None:
                memory_mib.append(resident_mib(node.pid))
                time.sleep(min(setting.memory_every_s, 0.2 + setting.seconds / 20))
            elapsed_s = time.monotonic() - begun_s
            cpu_share = (cpu_seconds(node.pid) - cpu_s) / elapsed_s
        time.sleep(2.5)  # one more report of the node
        seen = recorder.seen
    if sender.returncode != 0:
        raise RuntimeError(f"the camera failed: {camera_log.read_text('utf-8', 'replace')}")
    sent = json.loads(camera_log.read_text("utf-8").strip().splitlines()[-1])["sent"]
    delays_ms = seen.delays_ms[SEMANTIC]
    if not delays_ms:
        raise RuntimeError(f"no mask came back; the node says: {seen.message}")
    prefix = "dropped: "
    return Result(
        sent=sent,
        frames_in=int(seen.diagnostics["frames in"]),
        received=seen.counts[SEMANTIC],
        drops={
            key.removeprefix(prefix): int(value)
            for key, value in seen.diagnostics.items()
            if key.startswith(prefix)
        },
        latency_ms=tuple(
            float(v) for v in (*np.percentile(delays_ms, (50, 90, 99)), max(delays_ms))
        ),
        cpu_share=cpu_share,
        memory_mib=tuple(memory_mib),
        memory_every_s=min(setting.memory_every_s, 0.2 + setting.seconds / 20),
    )


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Memory of a process that is in RAM and not shared: a shared-memory transport is no leak."""
    pages = [int(field) for field in Path(f"/proc/{pid}/statm").read_text("utf-8").split()]
    return (pages[1] - pages[2]) * os.sysconf("SC_PAGE_SIZE") / 2**20
