# SPDX-License-Identifier: Apache-2.0
"""`depthforge play` in a process of its own, and bags for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bagfiles import START_NS, compressed, image, info, qos, recorded, text, write_bag
from dds import Listener, environment
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from waits import WAIT_S

MANY = QoSProfile(depth=100)
BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
WAIT_SURELY = ("--wait-for-node", "/listener")
"""For tests that count: until the listener's readers know the player's writers, too."""
STEP_NS = 40_000_000


def command(path: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "depthforge_ros.cli", "play", str(path), *options]


@contextmanager
def playing(domain: int, path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(path, "--timeout", str(WAIT_S), *options),
        env=environment(domain),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def play_to_the_end(
    listener: Listener, domain: int, path: Path, *options: str, status: int = 0
) -> tuple[str, str]:
    """Receive until the player has ended with that status; its stdout and stderr."""
    with playing(domain, path, *options) as process:
        listener.spin_until(lambda: process.poll() is not None)
        out, errors = process.communicate()
        assert process.returncode == status, errors
    listener.drain()
    return out, errors


def stamp_ns_of(message: Clock) -> int:
    return message.clock.sec * 1_000_000_000 + message.clock.nanosec


def log_ns(index: int) -> int:
    return START_NS + index * STEP_NS


def bag_of(folder: Path, storage: str) -> Path:
    """Images, compressed ones, CameraInfo and a latched text, each with a QoS of its own."""
    messages = [recorded("/latched", log_ns(0), text("once"))]
    for index in range(5):
        stamp = log_ns(index) - 3_000_000
        messages += [
            recorded("/front/image_raw", log_ns(index), image(index, stamp)),
            recorded("/front/camera_info", log_ns(index), info(stamp)),
            recorded("/rear/compressed", log_ns(index) + 1000, compressed(index, stamp, ".jpg")),
        ]
    profiles = {
        "/latched": [qos(durability="TRANSIENT_LOCAL", depth=1)],
        "/front/image_raw": [qos("BEST_EFFORT", depth=10)],
        "/rear/compressed": [qos("UNKNOWN", "UNKNOWN", 0, "UNKNOWN")],
    }
    return write_bag(folder / "bag", messages, storage, profiles)
