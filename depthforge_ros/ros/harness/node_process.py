# SPDX-License-Identifier: Apache-2.0
"""Starts and ends nodes as processes, for demo and benchmark."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from depthforge_ros.interrupt import ENDING, on_signals
from depthforge_ros.resources import shipped_folder
from depthforge_ros.ros.harness.recorder import Recorder
from depthforge_ros.transport_command import NO_PROFILE, PROFILE_VARIABLES

START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 15.0
POLL_S = 0.05
LOG_LINES = 15  # of a process that failed, shown with its error
REPORT_AFTER_NS = 1_000_000_000  # how much later a report knows of every image sent before
SETTLE_TIMEOUT_S = 120.0
MASK_TIMEOUT_S = 3.0
DOMAINS = range(99, 79, -1)


def free_domain() -> int:
    """Return a ROS domain that no process of this machine uses.

    The first participant of a domain holds the UDP port 7400 + 250 · domain + 10 (RTPS 2.2,
    section 9.6.1.1). Raises RuntimeError if all of DOMAINS are taken.
    """
    for domain in DOMAINS:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7410 + 250 * domain))
            except OSError:
                continue
            return domain
    raise RuntimeError(
        f"the ROS domains {min(DOMAINS)}..{max(DOMAINS)} are all in use; give a --domain-id"
    )


def environment(domain_id: int | None, *, profile: bool = True) -> dict[str, str]:
    """Return the environment of a process on loopback, in a ROS domain that no one else uses.

    domain_id: None: a free one. profile: whether Fast DDS gets the shipped profile, without which
    large images get lost. Raises ValueError if there is no such domain.
    """
    if domain_id is None:
        domain_id = free_domain()
    if not 0 <= domain_id <= 232:
        raise ValueError(f"--domain-id is {domain_id}; expected 0..232")
    env = {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain_id),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    for name in (*PROFILE_VARIABLES, NO_PROFILE):
        env.pop(name, None)
    if not profile:
        return {**env, NO_PROFILE: "1"}
    shipped = str(shipped_folder("config") / "fastdds.xml")
    return {**env, **dict.fromkeys(PROFILE_VARIABLES, shipped)}


def use(env: Mapping[str, str]) -> None:
    """Apply the environment to this process, which listens too."""
    for name in (*PROFILE_VARIABLES, NO_PROFILE):
        os.environ.pop(name, None)
    os.environ.update(env)


@contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM and the end of the terminal raise KeyboardInterrupt, so no process is left."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # A shell's "&" makes a process ignore SIGINT.
    with on_signals(interrupt, (*ENDING, signal.SIGHUP)):
        yield


class Process:
    """A running process that writes into a log."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.pid = name, popen.pid
        self._popen, self._log = popen, log

    def ended(self) -> bool:
        """Whether it ended with status 0. Raises RuntimeError with its last log lines otherwise."""
        status = self._popen.poll()
        if status:
            said = self._log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]
            raise RuntimeError("\n".join([f"the {self.name} ended with status {status}:", *said]))
        return status == 0

    def check(self) -> None:
        """Raise RuntimeError if the process has ended."""
        if self.ended():
            raise RuntimeError(f"the {self.name} ended by itself")

    def end(self) -> None:
        """End the process: by SIGINT, and if that does not help, by SIGKILL."""
        try:
            if self._popen.poll() is None:
                self._popen.send_signal(signal.SIGINT)
                self._popen.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._popen.kill()
            self._popen.wait()


@contextmanager
def process(name: str, command: list[str], env: Mapping[str, str], log: Path) -> Iterator[Process]:
    """A process that runs for the time of the block."""
    with log.open("ab") as file:
        file.write(f"--- {name}: {' '.join(command)}\n".encode())
        file.flush()
        popen = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)
    running = Process(name, popen, log)
    try:
        yield running
    finally:
        running.end()


def node_command(
    parameters: Mapping[str, str | float | list[str]], remaps: Mapping[str, str]
) -> list[str]:
    """Return the command line of the node depthforge with parameters and remapped topics."""
    command = [sys.executable, "-m", "depthforge_ros.ros.node", "--ros-args"]
    for name, value in parameters.items():
        text = f"'{value}'" if isinstance(value, str) else str(value)
        command += ["-p", f"{name}:={text}"]
    for name, topic in remaps.items():
        command += ["-r", f"{name}:={topic}"]
    return command


def wait_until_active(recorder: Recorder, node: Process) -> None:
    """Wait until the node is active. Raises RuntimeError with its diagnostics if it fails."""

    def active() -> bool:
        report = recorder.report()
        if report.state == "unconfigured" and "failed" in report.message:
            raise RuntimeError(" ".join(report.message.split()))
        return report.state == "active"

    if not wait_for(active, node, START_TIMEOUT_S):
        raise RuntimeError(f"the node is not active after {START_TIMEOUT_S:.0f} s")


@contextmanager
def active_node(
    recorder: Recorder,
    parameters: Mapping[str, str | float | list[str]],
    remaps: Mapping[str, str],
    env: Mapping[str, str],
    log: Path,
) -> Iterator[Process]:
    """An active node in a process. Raises RuntimeError if it does not become active."""
    with process("node", node_command(parameters, remaps), env, log) as node:
        wait_until_active(recorder, node)
        yield node


def settle(recorder: Recorder, node: Process, *semantic: str) -> None:
    """Wait until every image sent so far is counted as published or dropped, and its mask is here.

    According to the node's diagnostics. Raises RuntimeError if frames vanish in the node.
    """
    sent_ns = recorder.now_ns()

    def accounted() -> bool:
        report = recorder.report()
        return report.stamp_ns - sent_ns > REPORT_AFTER_NS and report.counters.pending == 0

    if not wait_for(accounted, node, SETTLE_TIMEOUT_S):
        counters = recorder.report().counters
        raise RuntimeError(f"{counters.pending} frames are neither published nor dropped")
    # The node has sent them, so there is no more to wait for than their way here.
    wait_for(
        lambda: sum(map(recorder.heard, semantic)) >= recorder.report().counters.frames_out,
        node,
        MASK_TIMEOUT_S,
    )


def wait_for(condition: Callable[[], bool], node: Process, timeout_s: float) -> bool:
    """Return whether the condition became true in time. Raises RuntimeError if the node ends."""
    last = time.monotonic() + timeout_s
    while not condition():
        node.check()
        if time.monotonic() > last:
            return False
        time.sleep(POLL_S)
    return True
