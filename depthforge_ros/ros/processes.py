# SPDX-License-Identifier: Apache-2.0
"""Nodes in processes of their own, started and ended by demo and benchmark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sensor_msgs.msg import Image

from depthforge_ros.resources import shipped_folder
from depthforge_ros.ros.recorder import Recorder

START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 15.0
PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"


def environment(domain_id: int, *, profile: bool = True) -> dict[str, str]:
    """Loopback only, in a domain of its own, so that no vehicle and no neighbour is disturbed.

    profile: whether Fast DDS gets the shipped profile, without which large images get lost.
    """
    env = {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain_id),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    env.pop(PROFILE, None)
    if profile:
        env[PROFILE] = str(shipped_folder("config") / "fastdds.xml")
    return env


def use(env: Mapping[str, str]) -> None:
    """Make this process, which listens too, part of the same environment."""
    os.environ.pop(PROFILE, None)
    os.environ.update(env)


def node_command(parameters: Mapping[str, str], remaps: Mapping[str, str]) -> list[str]:
    """The command line of the node depthforge with string parameters and remapped topics."""
    command = [sys.executable, "-m", "depthforge_ros.ros.node", "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:='{value}'"]
    for name, topic in remaps.items():
        command += ["-r", f"{name}:={topic}"]
    return command


def wait_until_active(recorder: Recorder, running: subprocess.Popen, log: Path) -> None:
    """Wait until the node works. Raises RuntimeError with what it says where it does not."""
    last = time.monotonic() + START_TIMEOUT_S
    while recorder.state() != "active":
        if running.poll() is not None:
            raise RuntimeError(f"the node ended with status {running.returncode}; see {log}")
        if recorder.state() == "unconfigured" and "failed" in recorder.seen.message:
            raise RuntimeError(recorder.seen.message)
        if time.monotonic() > last:
            raise RuntimeError(f"the node is not active after {START_TIMEOUT_S:.0f} s; see {log}")
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


@contextmanager
def listening(
    env: Mapping[str, str], topic: str, node: subprocess.Popen, log: Path
) -> Iterator[Recorder]:
    """A listener to an image topic of an active node, in this process."""
    use(env)
    with Recorder(None, {topic: Image}, {}) as recorder:
        wait_until_active(recorder, node, log)
        yield recorder
