# SPDX-License-Identifier: Apache-2.0
"""The real graph of a demo: player, node and recorder in processes of their own, over DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from depthforge_ros.ros.recorder import Recorded, Recorder

IMAGE_TOPIC = "/camera/image_raw"
CAMERA_INFO_TOPIC = "/camera/camera_info"
NODE = "/depthforge"
START_TIMEOUT_S = 120.0
REPORT_NS = 1_500_000_000  # the node reports once a second
DRAIN_TIMEOUT_S = 60.0
END_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Settings:
    """What the node runs and how fast the camera is."""

    variant: str
    checkpoint: str
    device: str
    rate_hz: float
    domain_id: int


def environment(domain_id: int) -> dict[str, str]:
    """Loopback only, in a domain of its own: a demo disturbs no vehicle and no other demo."""
    return {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain_id),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }


def drive_through(
    images: Path, fov_deg: float, bag: Path, depth_topic: str, settings: Settings, log: Path
) -> Recorded:
    """Play a folder of images through the node and record everything into `bag`.

    fov_deg: horizontal field of view of the camera. Raises RuntimeError naming the log where a
    process fails or does not answer.
    """
    env = environment(settings.domain_id)
    os.environ.update(env)  # the recorder lives in this process
    outputs = ["semantic", "confidence", depth_topic, "semantic_color", "overlay"]
    node = [sys.executable, "-m", "depthforge_ros.ros.node", "--ros-args"]
    parameters = {
        "variant": settings.variant,
        "checkpoint": settings.checkpoint,
        "device": settings.device,
    }
    for name, value in parameters.items():
        node += ["-p", f"{name}:='{value}'"]
    node += ["-r", f"image:={IMAGE_TOPIC}", "-r", f"camera_info:={CAMERA_INFO_TOPIC}"]
    play = [sys.executable, "-m", "depthforge_ros.cli", "play", str(images)]
    play += ["--topic", IMAGE_TOPIC, "--fov", f"{fov_deg:.4f}", "--rate", f"{settings.rate_hz:g}"]
    play += [
        "--frame-id",
        "camera_optical_frame",
        "--wait-for-subscribers",
        "4",
    ]  # node and recorder, two topics
    with (
        process("node", node, env, log) as running,
        Recorder(
            bag,
            [IMAGE_TOPIC, *(f"{NODE}/{name}" for name in outputs)],
            [CAMERA_INFO_TOPIC, f"{NODE}/camera_info"],
            f"{NODE}/labels",
        ) as recorder,
    ):
        wait_for(lambda: recorder.state() == "active", START_TIMEOUT_S, recorder, running, log)
        with process("player", play, env, log) as player:
            if player.wait() != 0:
                raise RuntimeError(f"the player ended with status {player.returncode}; see {log}")
        last = time.monotonic() + DRAIN_TIMEOUT_S
        while time.monotonic() < last and not drained(recorder.seen, f"{NODE}/semantic"):
            time.sleep(0.1)
    return recorder.seen


def drained(seen: Recorded, semantic: str) -> bool:
    """Whether every frame that reached the node is accounted for, and its mask is here.

    By the node's own report, and only once it is newer than the last image.
    """
    said = seen.diagnostics
    dropped = sum(int(count) for key, count in said.items() if key.startswith("dropped: "))
    frames_in, frames_out = int(said["frames in"]), int(said["frames out"])
    fresh = seen.reported_ns - seen.last_ns.get(IMAGE_TOPIC, 0) > REPORT_NS
    return fresh and frames_in == frames_out + dropped and seen.counts[semantic] >= frames_out


def wait_for(
    condition: Callable[[], bool],
    timeout_s: float,
    recorder: Recorder,
    running: subprocess.Popen,
    log: Path,
) -> None:
    """Wait for the node. Raises RuntimeError with what the node says where it does not come."""
    last = time.monotonic() + timeout_s
    while not condition():
        if running.poll() is not None:
            raise RuntimeError(f"the node ended with status {running.returncode}; see {log}")
        if recorder.state() == "unconfigured" and "failed" in recorder.seen.message:
            raise RuntimeError(recorder.seen.message)
        if time.monotonic() > last:
            raise RuntimeError(f"the node is not active after {timeout_s:.0f} s; see {log}")
        time.sleep(0.05)


@contextmanager
def process(
    name: str, command: list[str], env: dict[str, str], log: Path
) -> Iterator[subprocess.Popen]:
    """A process that writes into the log and is gone at the end, politely if it lets us."""
    with log.open("ab") as file:
        file.write(f"--- {name}: {' '.join(command)}\n".encode())
        file.flush()
        running = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield running
        finally:
            if running.poll() is None:
                running.send_signal(signal.SIGINT)
                try:
                    running.wait(END_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    running.kill()
                    running.wait()
