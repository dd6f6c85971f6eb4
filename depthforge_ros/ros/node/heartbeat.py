# SPDX-License-Identifier: Apache-2.0
"""The thread that publishes /diagnostics once a second and logs changes of level."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.publisher import Publisher

from depthforge_ros.ros.messages import ABSENT
from depthforge_ros.ros.node.camera_names import topic_of
from depthforge_ros.ros.node.diagnostics import NodeStatus, Source, statuses
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.ros.node.statistics import Acknowledgements, Statistics

TICK_S = 0.25
TICKS_PER_REPORT = 4

_LEVELS = {
    DiagnosticStatus.OK: "OK",
    DiagnosticStatus.WARN: "WARN",
    DiagnosticStatus.ERROR: "ERROR",
}


@dataclass(frozen=True)
class Snapshot:
    """State of the node at one moment. topics, publishers: by camera, of images, and of outputs."""

    status: NodeStatus
    values: Parameters
    statistics: Mapping[str, Statistics]
    topics: Mapping[str, str]
    publishers: Mapping[str, Mapping[str, Publisher]]


class Heartbeat:
    """Publishes what `look` returns, also while configure blocks the executor, until `close`."""

    def __init__(self, node: Node, look: Callable[[], Snapshot]) -> None:
        self._node, self._look = node, look
        self._acknowledgements: dict[str, Acknowledgements] = {}
        self._levels: dict[str, bytes] = {}
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="depthforge_heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        ticks = 0
        while not self._closing.wait(TICK_S):
            ticks += 1
            try:
                snapshot = self._look()
                self._watch_listeners(snapshot)
                if ticks % TICKS_PER_REPORT == 0:
                    self._report(snapshot)
            except Exception:
                if not self._node.context.ok():
                    return
                # Diagnostics must go on: a silent node looks like a dead one.
                self._node.get_logger().error(
                    f"diagnostics failed: {traceback.format_exc()}", throttle_duration_sec=5.0
                )

    def _report(self, snapshot: Snapshot) -> None:
        report = DiagnosticArray()
        report.header.stamp = self._node.get_clock().now().to_msg()
        healths = {camera: s.snapshot() for camera, s in snapshot.statistics.items()}
        sources = {camera: self._source(camera, t) for camera, t in snapshot.topics.items()}
        name = self._node.get_fully_qualified_name().lstrip("/")
        report.status = statuses(name, snapshot.status, healths, sources, snapshot.values)
        self._publisher.publish(report)
        for status in report.status:
            self._log(status)

    def _log(self, status: DiagnosticStatus) -> None:
        """Log the message of a status whose level changed."""
        before = self._levels.get(status.name, DiagnosticStatus.OK)
        self._levels[status.name] = status.level
        if status.level == before:
            return
        text = f"{status.name}: {_LEVELS[status.level]}: {status.message}"
        logger = self._node.get_logger()
        # A line each: rclpy allows one severity for every line of code that logs.
        if status.level == DiagnosticStatus.ERROR:
            logger.error(text)
        elif status.level == DiagnosticStatus.WARN:
            logger.warning(text)
        else:
            logger.info(text)

    def _source(self, camera: str, topic: str) -> Source:
        """What is on a camera's topics now."""
        waiting = 0
        if ABSENT:
            label_info = f"{self._node.get_fully_qualified_name()}/{topic_of(camera, 'label_info')}"
            waiting = self._node.count_subscribers(label_info)
        return Source(topic, self._node.count_publishers(topic), waiting)

    def _watch_listeners(self, snapshot: Snapshot) -> None:
        """Note of which outputs a listener has not acknowledged the newest message."""
        for camera, statistics in snapshot.statistics.items():
            watched = self._acknowledgements.setdefault(camera, Acknowledgements())
            publishers = snapshot.publishers.get(camera, {})
            statistics.note(unacknowledged=watched.poll(publishers))
