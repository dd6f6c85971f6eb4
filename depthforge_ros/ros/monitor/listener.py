# SPDX-License-Identifier: Apache-2.0
"""An rclpy node of a tool that listens until it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node


@contextmanager
def listening(name: str) -> Iterator[Node]:
    """Yield a node without parameters and services, in a context of its own."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    try:
        node = Node(name, context=context, enable_rosout=False, start_parameter_services=False)
        yield node
        node.destroy_node()
    finally:
        context.try_shutdown()


def spin(node: Node, step: Callable[[], bool], every_s: float, end_s: float | None = None) -> None:
    """Receive, and call `step` every so often until it returns False or `end_s` is reached.

    end_s: on the steady clock (time.monotonic); None: no end.
    """
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    next_s = time.monotonic()
    try:
        while end_s is None or time.monotonic() < end_s:
            wait_s = max(0.0, next_s - time.monotonic())
            executor.spin_once(timeout_sec=min(wait_s, 0.1))
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + every_s
                if not step():
                    return
    except ExternalShutdownException:
        return
    finally:
        executor.shutdown()
