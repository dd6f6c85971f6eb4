# SPDX-License-Identifier: Apache-2.0
"""Messages published over DDS when their time has come.

A source has topics, and messages with a time each. Times are deadlines on the steady clock,
counted from the start, so nothing drifts.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

SECOND_NS = 1_000_000_000
# A reader learns of a writer after the writer learns of it, and until then drops best-effort data.
_MATCHING_S = 0.5
# A writer's announcement that got lost is repeated with the next heartbeat, in Fast DDS after 3 s.
# Worth waiting for where every image counts.
_SURELY_MATCHING_S = 3.5
_ACKNOWLEDGE_S = 5.0
_LINGER_S = 0.5  # nobody acknowledges best-effort data, and none arrives after its writer is gone
_POLL_S = 0.02
_SILENCE_S = 60.0  # a longer pause is announced, so that nobody takes it for the end
_MAX_TIME_NS = 2**31 * SECOND_NS  # of builtin_interfaces/Time


@dataclass(frozen=True)
class Offer:
    """A topic to publish: its message class and its QoS."""

    kind: type
    qos: QoSProfile


@dataclass(frozen=True)
class Item:
    """One message: when, on the time line of its source, and where to.

    message: called right before publication with the wall time at which the pass began [ns];
    gives a message of the offered class, or its serialized bytes.
    """

    time_ns: int
    topic: str
    message: Callable[[int], Any]


class Source(Protocol):
    """A source of messages. start_ns: time of its beginning; duration_ns: of one pass.

    speed: how many of its seconds pass in one of ours. skipped counts what could not be read.
    """

    @property
    def offers(self) -> Mapping[str, Offer]:
        """Type and QoS of every topic."""
        ...

    @property
    def start_ns(self) -> int:
        """Time of the beginning."""
        ...

    @property
    def duration_ns(self) -> int:
        """Duration of one pass."""
        ...

    @property
    def speed(self) -> float:
        """Seconds of the source per second."""
        ...

    @property
    def skipped(self) -> int:
        """Number of messages that could not be read."""
        ...

    def items(self) -> Iterator[Item]:
        """Messages in the order of their times, read from the disk as they are needed."""
        ...

    def losses(self) -> list[str]:
        """Return what could not be read so far, in words."""
        ...


@dataclass
class Report:
    """Number of messages published by topic, and the largest delay of one."""

    published: Counter[str] = field(default_factory=Counter)
    latest_s: float = 0.0
    interrupted: bool = False


def play(
    node: Node,
    source: Source,
    stop: threading.Event,
    *,
    loop: bool = False,
    clock_hz: float = 0.0,
    wait_for_subscribers: int = 0,
    wait_for_node: str = "",
    timeout_s: float = 30.0,
) -> Report:
    """Publish the source until its end, with `loop` again and again, or until `stop` is set.

    clock_hz: /clock carries the source's time that often; 0: no /clock. wait_for_subscribers:
    subscriptions on all topics together, /clock too, that must be there before the first message.
    wait_for_node: full name of a node that must have subscribed to an image topic before.
    After the last message, waits for reliable subscriptions to have everything, and a moment for
    the others.

    Raises TimeoutError if the subscriptions do not come within timeout_s, ValueError if a node is
    waited for and the source has no image topic, or if /clock cannot hold the source's times.
    """
    if clock_hz and source.start_ns + source.duration_ns >= _MAX_TIME_NS:
        end_s = (source.start_ns + source.duration_ns) / SECOND_NS
        raise ValueError(f"log times go up to {end_s:.0f} s; /clock cannot hold times from 2^31 s")
    publishers = {
        topic: node.create_publisher(offer.kind, topic, offer.qos)
        for topic, offer in source.offers.items()
    }
    clock = node.create_publisher(Clock, "/clock", 10) if clock_hz else None
    report = Report()
    everything = {**publishers, **({"/clock": clock} if clock else {})}
    if wait_for_subscribers:
        _await_subscribers(everything, wait_for_subscribers, timeout_s, stop)
    if wait_for_node:
        kinds = {topic: offer.kind for topic, offer in source.offers.items()}
        images = [topic for topic, kind in kinds.items() if kind in (Image, CompressedImage)]
        _await_node(node, images, wait_for_node, timeout_s, stop)
    while not stop.is_set():
        _one_pass(source, publishers, clock, clock_hz, stop, report)
        if not loop:
            break
    report.interrupted = stop.is_set()
    until = time.monotonic() + _ACKNOWLEDGE_S
    for publisher in publishers.values():
        left_s = max(until - time.monotonic(), 0.0)
        publisher.wait_for_all_acked(Duration(nanoseconds=int(left_s * SECOND_NS)))
    stop.wait(_LINGER_S)
    return report


def _one_pass(
    source: Source,
    publishers: Mapping[str, Publisher],
    clock: Publisher | None,
    clock_hz: float,
    stop: threading.Event,
    report: Report,
) -> None:
    items = source.items()
    first = list(itertools.islice(items, 1))  # read before the time starts, so that it is not late
    wall_ns, started_ns = time.time_ns(), time.monotonic_ns()
    ticks = 0

    def sleep_until(offset_ns: int) -> bool:
        """Wait for that long after the start, ticking; False where play was stopped."""
        nonlocal ticks
        while clock is not None and (tick_ns := round(ticks * SECOND_NS / clock_hz)) <= offset_ns:
            if stop.wait(max(started_ns + tick_ns - time.monotonic_ns(), 0) / SECOND_NS):
                return False
            now_ns = source.start_ns + round(tick_ns * source.speed)
            clock.publish(Clock(clock=time_message(now_ns)))
            ticks += 1
        left_s = max(started_ns + offset_ns - time.monotonic_ns(), 0) / SECOND_NS
        return not stop.wait(min(left_s, threading.TIMEOUT_MAX))

    for item in itertools.chain(first, items):
        offset_ns = round((item.time_ns - source.start_ns) / source.speed)
        pause_s = (started_ns + offset_ns - time.monotonic_ns()) / SECOND_NS
        if pause_s > _SILENCE_S:
            pause = timedelta(seconds=min(round(pause_s), _MAX_TIME_NS // SECOND_NS))
            print(f"next message in {pause}; Ctrl-C ends the wait", file=sys.stderr, flush=True)
        if not sleep_until(offset_ns):
            return
        late_s = (time.monotonic_ns() - started_ns - offset_ns) / SECOND_NS
        publishers[item.topic].publish(item.message(wall_ns))
        report.published[item.topic] += 1
        report.latest_s = max(report.latest_s, late_s)
    # The last image of a folder lasts as long as the others, or a loop would stumble.
    sleep_until(round(source.duration_ns / source.speed))


def _await_subscribers(
    publishers: Mapping[str, Publisher], expected: int, timeout_s: float, stop: threading.Event
) -> None:
    def matched() -> dict[str, int]:
        return {topic: p.get_subscription_count() for topic, p in publishers.items()}

    if not _came_true(lambda: sum(matched().values()) >= expected, timeout_s, _MATCHING_S, stop):
        counts = ", ".join(f"{topic} {count}" for topic, count in matched().items())
        raise TimeoutError(
            f"{sum(matched().values())} of {expected} subscriptions within {timeout_s:g} s: "
            f"{counts}"
        )


def _await_node(
    node: Node, topics: Sequence[str], name: str, timeout_s: float, stop: threading.Event
) -> None:
    if not topics:
        raise ValueError(f"node {name} is waited for to see images, and there are none to publish")

    def listeners() -> set[str]:
        infos = [info for topic in topics for info in node.get_subscriptions_info_by_topic(topic)]
        return {f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos}

    if not _came_true(lambda: name in listeners(), timeout_s, _SURELY_MATCHING_S, stop):
        raise TimeoutError(
            f"node {name} has not subscribed to {' or '.join(topics)} within {timeout_s:g} s; "
            f"subscribed: {', '.join(sorted(listeners())) or 'nobody'}"
        )


def _came_true(
    condition: Callable[[], bool], timeout_s: float, matching_s: float, stop: threading.Event
) -> bool:
    """Wait until the condition holds and for matching_s more; False if the time is over first.

    A stop ends the waiting too.
    """
    until = time.monotonic() + timeout_s
    while not stop.is_set():
        if condition():
            stop.wait(matching_s)
            return True
        if time.monotonic() > until:
            return False
        stop.wait(_POLL_S)
    return True


def time_message(time_ns: int) -> Time:
    """A ROS time from nanoseconds."""
    return Time(sec=time_ns // SECOND_NS, nanosec=time_ns % SECOND_NS)
