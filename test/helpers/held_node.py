# SPDX-License-Identifier: Apache-2.0
"""The node in this process, with engines that answer when the test lets them."""

from __future__ import annotations

import threading

import pytest
import rclpy
from engines import HeldEngine
from lifecycle_msgs.msg import Transition
from nodes import HEIGHT, Bench
from rclpy.executors import SingleThreadedExecutor

from depthforge_ros.pipeline import Pipeline
from depthforge_ros.ros.node import node as node_module
from depthforge_ros.ros.node.node import DepthForgeNode


class HeldNode:
    """The node in this process, with engines that are held: one for each configure."""

    def __init__(self, domain: int, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
        self.engines: list[HeldEngine] = []
        monkeypatch.setattr(node_module, "load_pipeline", lambda *_: self._pipeline())
        arguments = [f"short_side_px:={HEIGHT}", "autostart:=false", "drop_stale:=false"]
        arguments += overrides
        given = [word for argument in arguments for word in ("-p", argument)]
        rclpy.init(args=["--ros-args", *given], domain_id=domain)
        self.node = DepthForgeNode()
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _pipeline(self) -> Pipeline:
        self.engines.append(HeldEngine())
        return Pipeline(self.engines[-1])

    def _spin(self) -> None:
        while not self._ending.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        for engine in self.engines:
            engine.permits.release(100)
        self._ending.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.close()
        rclpy.try_shutdown()


def start(bench: Bench) -> None:
    assert bench.change(Transition.TRANSITION_CONFIGURE)
    assert bench.change(Transition.TRANSITION_ACTIVATE)
