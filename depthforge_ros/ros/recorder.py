# SPDX-License-Identifier: Apache-2.0
"""Writes what a running node takes and gives into one bag, and reads it back joined by stamp.

Nothing is deserialized while recording: a recorder that falls behind would measure itself.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from depthforge_ros.ros.bags import bag_messages, open_bag, own_topic
from depthforge_ros.ros.messages import frame_from_image, stamp_ns
from depthforge_ros.ros.segments import SegmentedBag

QUEUE = 100
_HEADER = struct.Struct("<4xiI")  # CDR encapsulation, then the stamp that every header begins with
_PIXELS = {"mono8": np.dtype("u1"), "32FC1": np.dtype("<f4")}


@dataclass
class Recorded:
    """What was seen so far, by topic. delays_ms: from the header's stamp to the arrival here.

    last_ns, reported_ns: steady clock, of the last message and of the node's last report.
    """

    counts: Counter[str] = field(default_factory=Counter)
    delays_ms: dict[str, list[float]] = field(default_factory=dict)
    diagnostics: dict[str, str] = field(default_factory=dict)
    message: str = ""
    last_ns: dict[str, int] = field(default_factory=dict)
    reported_ns: int = 0


class Recorder:
    """Counts, times and keeps messages from construction to the end of its context.

    topics: message class by topic name; latched: likewise, for topics whose last message is to be
    had at any time. target: the bag to write, or None to measure only.
    """

    def __init__(
        self, target: Path | None, topics: Mapping[str, type], latched: Mapping[str, type]
    ) -> None:
        self.seen = Recorded()
        self._context = rclpy.Context()
        self._context.init()
        self._node = Node("depthforge_recorder", context=self._context)
        self._bag = None if target is None else _bag(target, topics, latched)
        for name, cls in topics.items():
            self.seen.delays_ms[name] = []
            self._subscribe(name, cls, DurabilityPolicy.VOLATILE)
        for name, cls in latched.items():
            self._subscribe(name, cls, DurabilityPolicy.TRANSIENT_LOCAL)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 10)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="depthforge_recorder", daemon=True)
        self._thread.start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Finish the bag, or give it up where an exception came through."""
        self._executor.shutdown()
        self._context.try_shutdown()
        self._thread.join()
        if self._bag is not None:
            if kind is None:
                self._bag.finish()
            self._bag.__exit__(kind, *_)

    def state(self) -> str:
        """The lifecycle state that the node last reported, empty before the first report."""
        return self.seen.diagnostics.get("state", "")

    def _subscribe(self, name: str, cls: type, durability: DurabilityPolicy) -> None:
        delays_ms = self.seen.delays_ms.get(name)
        kind = type_name(cls)

        def keep(raw: bytes) -> None:
            now_ns = time.time_ns()
            if self._bag is not None:
                self._bag.write(name, kind, now_ns, raw)
            self.seen.counts[name] += 1
            self.seen.last_ns[name] = time.monotonic_ns()
            if delays_ms is not None:
                sec, nanosec = _HEADER.unpack_from(raw)
                delays_ms.append((now_ns - sec * 1_000_000_000 - nanosec) / 1e6)

        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=QUEUE,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=durability,
        )
        self._node.create_subscription(cls, name, keep, qos, raw=True)

    def _diagnosed(self, report: DiagnosticArray) -> None:
        for status in report.status:
            if status.name.endswith(": inference"):
                self.seen.diagnostics = {pair.key: pair.value for pair in status.values}
                self.seen.message = status.message
                self.seen.reported_ns = time.monotonic_ns()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return


def type_name(cls: type) -> str:
    """The ROS name of a message class, such as sensor_msgs/msg/Image."""
    package, folder, _ = cls.__module__.split(".", 2)
    return f"{package}/{folder}/{cls.__name__}"


def _bag(target: Path, topics: Mapping[str, type], latched: Mapping[str, type]) -> SegmentedBag:
    own = [own_topic(name, type_name(cls)) for name, cls in topics.items()]
    own += [own_topic(name, type_name(cls), latched=True) for name, cls in latched.items()]
    job = {"recorded": sorted([*topics, *latched])}
    # One file, however long: what is recorded here is short.
    bag = SegmentedBag(target, own, job=job, storage="mcap", segment_bytes=1 << 40)
    return bag.__enter__()


@dataclass(frozen=True)
class Seen:
    """One frame with what the node said about it. depth is in the unit of the topic."""

    stamp_ns: int
    rgb: np.ndarray  # [H, W, 3] uint8
    labels: np.ndarray  # [h, w] uint8
    confidence: np.ndarray  # [h, w] uint8
    depth: np.ndarray  # [h, w] float32


def recorded(bag: Path, image: str, node: str, depth: str) -> Iterator[Seen]:
    """Every image of the bag whose mask, confidence and depth came back, joined by their stamp."""
    topics = {
        image: "rgb",
        f"{node}/semantic": "labels",
        f"{node}/confidence": "confidence",
        f"{node}/{depth}": "depth",
    }
    parts: dict[int, dict[str, np.ndarray]] = {}
    with open_bag(bag) as reader:
        for connection, _, raw in bag_messages(reader, topics):
            message = deserialize_message(raw, Image)
            stamp = stamp_ns(message.header)
            part = parts.setdefault(stamp, {})
            part[topics[connection.topic]] = pixels(message)
            if len(part) == len(topics):
                yield Seen(stamp_ns=stamp, **parts.pop(stamp))


def pixels(message: Image) -> np.ndarray:
    """The pixels of an image message as the node publishes them, rgb8 where it is a picture."""
    dtype = _PIXELS.get(message.encoding)
    if dtype is None:
        return frame_from_image(message).rgb
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)
