# SPDX-License-Identifier: Apache-2.0
"""A listener on real DDS, on loopback, for tests whose talker is another process."""

from __future__ import annotations

import functools
import itertools
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from waits import WAIT_S

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

# Below the domains that demo and benchmark choose from, and above what people type. Up to 101,
# ports of RTPS lie below those that Linux gives away for a moment (32768 and on).
BLOCK = 6
BLOCKS = range(20, 80, BLOCK)
_claims: list[socket.socket] = []  # held until this process ends


@functools.cache
def _numbers() -> itertools.cycle[int]:
    """Domains of this process's own, in turn, claimed by a name that only one process can bind."""
    for first in BLOCKS:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0depthforge_ros tests, ROS domains from {first}")
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return itertools.cycle(range(first, first + BLOCK))
    raise RuntimeError(f"{len(BLOCKS)} test runs are going on already; no ROS domain is left")


def own_domain() -> int:
    """A domain that no other process tests in, and that nobody is in.

    Raises RuntimeError where there is none.
    """
    for domain in itertools.islice(_numbers(), BLOCK):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                # The first participant of a domain holds this port (RTPS 2.2, section 9.6.1.1).
                probe.bind(("", 7410 + 250 * domain))
            except OSError:
                continue
            return domain
    raise RuntimeError("somebody is in every ROS domain of this test run")


def environment(domain: int) -> dict[str, str]:
    """The environment of a process on that domain."""
    return {**os.environ, "ROS_DOMAIN_ID": str(domain)}


class Listener:
    """A node with subscriptions that keep what they get. Use as a context manager."""

    def __init__(self, domain: int, name: str = "listener") -> None:
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node(name, context=self._context)
        self._count = 0  # of messages
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def subscribe(
        self, kind: type, topic: str, qos: QoSProfile | int, *, raw: bool = False
    ) -> list:
        """The list that messages (serialized where `raw`) are appended to."""
        received: list[Any] = []

        def receive(message: Any) -> None:
            self._count += 1
            received.append(message)

        self.node.create_subscription(kind, topic, receive, qos, raw=raw)
        return received

    def spin_until(self, condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Receive until the condition holds. Raises TimeoutError."""
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError(f"not within {timeout_s} s")
            self._executor.spin_once(timeout_sec=0.05)

    def drain(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Receive what has arrived already, or until there is enough.

        For 0.3 s, or longer where a busy machine has not come to the end of it by then.
        """
        started, quiet = time.monotonic(), 0
        while not enough():
            lasted = time.monotonic() - started
            if lasted > 3.0 or (lasted > 0.3 and quiet >= 3):
                return
            before = self._count
            self._executor.spin_once(timeout_sec=0.05)
            quiet = quiet + 1 if self._count == before else 0
