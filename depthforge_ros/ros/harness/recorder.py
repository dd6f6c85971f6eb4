# SPDX-License-Identifier: Apache-2.0
"""Records inputs and outputs of a running node: counts, arrival times and bags.

Only diagnostics are deserialized: a recorder that falls behind would measure itself.
read_recording.py reads the bags.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from depthforge_ros.ros.bags.resumable_writer import SegmentedBag
from depthforge_ros.ros.bags.topic import own_topic
from depthforge_ros.ros.serialized import header_bytes, header_stamp_ns, packed_header

STATUS = "depthforge: inference"
QUEUE = 30  # a second of a fast camera; the disk may pause that long


@dataclass(frozen=True)
class Counters:
    """The node's counters of frames. without_camera_info: frames that no CameraInfo fitted."""

    frames_in: int = 0
    frames_out: int = 0
    without_camera_info: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)

    @property
    def pending(self) -> int:
        """Return the number of frames that are neither published nor dropped."""
        return self.frames_in - self.frames_out - sum(self.drops.values())

    def since(self, earlier: Counters) -> Counters:
        """Return the differences to earlier counters."""
        grown = {cause: self.drops[cause] - earlier.drops.get(cause, 0) for cause in self.drops}
        return Counters(
            self.frames_in - earlier.frames_in,
            self.frames_out - earlier.frames_out,
            self.without_camera_info - earlier.without_camera_info,
            {cause: count for cause, count in grown.items() if count},
        )


@dataclass(frozen=True)
class Report:
    """The node's last diagnostics. stamp_ns: its wall clock; all is empty before the first."""

    state: str = ""
    message: str = ""
    counters: Counters = Counters()
    stamp_ns: int = 0


@dataclass(frozen=True)
class Recorded:
    """Messages received during one recording, by topic and in order of arrival.

    headers: serialized. arrivals_ns: wall clock, like the stamps.
    """

    headers: dict[str, list[bytes]]
    arrivals_ns: dict[str, list[int]]

    def delays_ms(self, *topics: str) -> np.ndarray:
        """Return the time from stamp to arrival of every message of the topics: [n]."""
        headers = [header for topic in topics for header in self.headers[topic]]
        stamps_ns = [header_stamp_ns(header) for header in headers]
        arrivals_ns = [arrival_ns for topic in topics for arrival_ns in self.arrivals_ns[topic]]
        return (np.array(arrivals_ns) - np.array(stamps_ns)) / 1e6

    def delay_percentiles_ms(self, topic: str, *percents: float) -> tuple[float, ...]:
        """Return percentiles of the delays of a topic, NaN if nothing was received."""
        delays_ms = self.delays_ms(topic)
        if not len(delays_ms):
            return (float("nan"),) * len(percents)
        return tuple(float(value) for value in np.percentile(delays_ms, percents))

    def wrong_headers(self, topic: str, stamps_ns: Sequence[int], frame_id: str) -> int:
        """Return how many messages have the header of no image, or of an older one than before.

        stamps_ns, frame_id: of the images, in the order in which they were sent.
        """
        sent = {packed_header(stamp_ns, frame_id): i for i, stamp_ns in enumerate(stamps_ns)}
        wrong, newest = 0, -1
        for header in self.headers[topic]:
            place = sent.get(header, -1)
            wrong += place <= newest
            newest = max(newest, place)
        return wrong


class Recorder:
    """A listener with its own thread, from construction to the end of its context.

    topics: message class by topic name, each with a header. latched: likewise without one, for
    topics whose last message belongs to every recording.
    """

    def __init__(self, topics: Mapping[str, type], latched: Mapping[str, type]) -> None:
        self._topics, self._latched = topics, latched
        self._kept: dict[str, bytes] = {}
        self._report = Report()
        self._failure: Exception | None = None
        self._lock = threading.Lock()  # the two below change together
        self._bag: SegmentedBag | None = None
        self._seen = self._nothing()
        self._heard: Counter[str] = Counter()
        self._context = rclpy.Context()
        self._context.init()
        self._node = Node("depthforge_recorder", context=self._context)
        for name, cls in topics.items():
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

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self._context.try_shutdown()
        self._thread.join()

    def report(self) -> Report:
        """Return the node's last diagnostics. Raises RuntimeError if recording has failed."""
        if self._failure is not None:
            name = type(self._failure).__name__
            raise RuntimeError(f"recording failed: {name}: {self._failure}") from self._failure
        return self._report

    def heard(self, topic: str) -> int:
        """Return the number of messages on the topic since construction."""
        return self._heard[topic]

    @staticmethod
    def now_ns() -> int:
        """Return the time of the clock of `Report.stamp_ns`."""
        return time.time_ns()

    @contextmanager
    def recording(self, target: Path | None = None) -> Iterator[Recorded]:
        """The messages received within the block; with a target, also written into a bag.

        The bag appears if the block ends without an error. Raises BagError, and RuntimeError if
        recording failed.
        """
        seen = self._nothing()
        if target is None:
            with self._into(None, seen):
                yield seen
            return
        own = [own_topic(name, type_name(cls)) for name, cls in self._topics.items()]
        own += [own_topic(n, type_name(cls), latched=True) for n, cls in self._latched.items()]
        job = {"recorded": sorted(topic.name for topic in own)}
        # One file, however long: what is recorded here is short.
        with SegmentedBag(target, own, job=job, storage="mcap", segment_bytes=1 << 40) as bag:
            with self._into(bag, seen):
                yield seen
            self.report()
            bag.finish()

    @contextmanager
    def _into(self, bag: SegmentedBag | None, seen: Recorded) -> Iterator[None]:
        with self._lock:
            self._bag, self._seen = bag, seen
            for name, raw in self._kept.items():
                self._write(name, self._latched[name], raw)
        try:
            yield
        finally:
            with self._lock:
                self._bag, self._seen = None, self._nothing()

    def _nothing(self) -> Recorded:
        return Recorded({name: [] for name in self._topics}, {name: [] for name in self._topics})

    def _write(self, name: str, cls: type, raw: bytes) -> None:
        if self._bag is not None:
            self._bag.write(name, type_name(cls), time.time_ns(), raw)

    def _subscribe(self, name: str, cls: type, durability: DurabilityPolicy) -> None:
        latched = name in self._latched

        def keep(raw: bytes) -> None:
            now_ns = time.time_ns()
            with self._lock:
                self._heard[name] += 1
                if latched:
                    self._kept[name] = raw
                else:
                    self._seen.headers[name].append(header_bytes(raw))
                    self._seen.arrivals_ns[name].append(now_ns)
                self._write(name, cls, raw)

        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=QUEUE,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=durability,
        )
        self._node.create_subscription(cls, name, keep, qos, raw=True)

    def _diagnosed(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name != STATUS:
                continue
            said = {pair.key: pair.value for pair in status.values}
            prefix = "dropped: "
            counters = Counters(
                int(said["frames in"]),
                int(said["frames out"]),
                int(said["camera_info: missing"]),
                {k.removeprefix(prefix): int(v) for k, v in said.items() if k.startswith(prefix)},
            )
            stamp = message.header.stamp
            # Stamped by the node: a report that was delivered late is as old as it says.
            stamp_ns = stamp.sec * 10**9 + stamp.nanosec
            self._report = Report(said["state"], status.message, counters, stamp_ns)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return
        except Exception as error:  # such as a full disk; `report` raises it
            self._failure = error


def image_recorder(*topics: str) -> Recorder:
    """A recorder of image topics."""
    return Recorder(dict.fromkeys(topics, Image), {})


def type_name(cls: type) -> str:
    """The ROS name of a message class, such as sensor_msgs/msg/Image."""
    package, folder, _ = cls.__module__.split(".", 2)
    return f"{package}/{folder}/{cls.__name__}"
