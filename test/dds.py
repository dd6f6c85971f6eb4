# SPDX-License-Identifier: Apache-2.0
"""A listener on real DDS, on loopback, for tests whose talker is another process."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
_numbers = itertools.count(os.getpid())


def own_domain() -> int:
    """A domain of this test's own, 101..119: tests that run at the same time do not meet."""
    return 101 + next(_numbers) % 19


def environment(domain: int) -> dict[str, str]:
    """The environment of a process on that domain."""
    return {**os.environ, "ROS_DOMAIN_ID": str(domain)}


class Listener:
    """A node with subscriptions that keep what they get. Use as a context manager."""

    def __init__(self, domain: int) -> None:
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node("listener", context=self._context)
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
        self.node.create_subscription(kind, topic, received.append, qos, raw=raw)
        return received

    def spin_until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Receive until the condition holds. Raises TimeoutError."""
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError(f"not within {timeout_s} s")
            self._executor.spin_once(timeout_sec=0.05)

    def drain(self) -> None:
        """Receive what has arrived already."""
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            self._executor.spin_once(timeout_sec=0.05)
