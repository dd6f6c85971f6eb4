# SPDX-License-Identifier: Apache-2.0
"""Messages published over DDS when their time has come.

A source has topics, and messages with a time each. Times are deadlines on the steady clock,
counted from the start, so nothing drifts.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock

SECOND_NS = 1_000_000_000
# A reader learns of a writer after the writer learns of it, and until then drops best-effort data.
_MATCHING_S = 0.5
_ACKNOWLEDGE_S = 5.0


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
    """What can be played. start_ns: time of its beginning; duration_ns: of one pass.

    speed: how many of its seconds pass in one of ours. skipped counts what could not be read.
    """

    offers: Mapping[str, Offer]
    start_ns: int
    duration_ns: int
    speed: float
    skipped: int

    def items(self) -> Iterator[Item]:
        """Messages in the order of their times, read from the disk as they are needed."""
        ...


@dataclass
class Report:
    """What was published, by topic; by how much the worst message was late."""

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
    timeout_s: float = 30.0,
) -> Report:
    """Publish the source until its end, or for ever with `loop`, or until `stop` is set.

    clock_hz: /clock carries the source's time that often; 0: no /clock. wait_for_subscribers:
    subscriptions on all topics together, /clock too, that must be there before the first message.
    After the last message, waits for reliable subscriptions to have everything.

    Raises TimeoutError where the subscriptions do not come within timeout_s.
    """
    publishers = {
        topic: node.create_publisher(offer.kind, topic, offer.qos)
        for topic, offer in source.offers.items()
    }
    clock = node.create_publisher(Clock, "/clock", 10) if clock_hz else None
    report = Report()
    everything = {**publishers, **({"/clock": clock} if clock else {})}
    _await_subscribers(everything, wait_for_subscribers, timeout_s, stop)
    while not stop.is_set():
        _one_pass(source, publishers, clock, clock_hz, stop, report)
        if not loop:
            break
    report.interrupted = stop.is_set()
    until = time.monotonic() + _ACKNOWLEDGE_S
    for publisher in publishers.values():
        left_s = max(until - time.monotonic(), 0.0)
        publisher.wait_for_all_acked(Duration(nanoseconds=int(left_s * SECOND_NS)))
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
    wall_ns, begun_ns = time.time_ns(), time.monotonic_ns()
    ticks = 0

    def sleep_until(offset_ns: int) -> bool:
        """Wait for that long after the start, ticking; False where play was stopped."""
        nonlocal ticks
        while clock is not None and (tick_ns := round(ticks * SECOND_NS / clock_hz)) <= offset_ns:
            if stop.wait(max(begun_ns + tick_ns - time.monotonic_ns(), 0) / SECOND_NS):
                return False
            now_ns = source.start_ns + round(tick_ns * source.speed)
            clock.publish(Clock(clock=time_message(now_ns)))
            ticks += 1
        return not stop.wait(max(begun_ns + offset_ns - time.monotonic_ns(), 0) / SECOND_NS)

    for item in itertools.chain(first, items):
        offset_ns = round((item.time_ns - source.start_ns) / source.speed)
        if not sleep_until(offset_ns):
            return
        late_s = (time.monotonic_ns() - begun_ns - offset_ns) / SECOND_NS
        publishers[item.topic].publish(item.message(wall_ns))
        report.published[item.topic] += 1
        report.latest_s = max(report.latest_s, late_s)
    # The last image of a folder lasts as long as the others, or a loop would stumble.
    sleep_until(round(source.duration_ns / source.speed))


def _await_subscribers(
    publishers: Mapping[str, Publisher], wanted: int, timeout_s: float, stop: threading.Event
) -> None:
    if not wanted:
        return
    until = time.monotonic() + timeout_s
    while not stop.is_set():
        matched = {t: p.get_subscription_count() for t, p in publishers.items()}
        if sum(matched.values()) >= wanted:
            stop.wait(_MATCHING_S)
            return
        if time.monotonic() > until:
            counts = ", ".join(f"{topic} {count}" for topic, count in matched.items())
            raise TimeoutError(
                f"{sum(matched.values())} of {wanted} subscriptions within {timeout_s:g} s: "
                f"{counts}"
            )
        stop.wait(0.02)


def time_message(time_ns: int) -> Time:
    """A ROS time from nanoseconds."""
    return Time(sec=time_ns // SECOND_NS, nanosec=time_ns % SECOND_NS)
