# SPDX-License-Identifier: Apache-2.0
"""A bag that can be played: raw messages with the QoS they were recorded with."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from depthforge_ros.ros.bags.reader import Bag, open_bag
from depthforge_ros.ros.bags.topic import BagError, message_class, name_fault, qos_profile
from depthforge_ros.ros.play.publisher import SECOND_NS, Item, Offer
from depthforge_ros.ros.serialized import moved_stamp, stamp_ns

SAME_CLOCK_NS = 600 * SECOND_NS
"""Stamps that lie no further from their log time than others are of the same clock."""


class BagSource:
    """The messages of an open bag, byte for byte.

    topics: only these; None: all. restamp: header stamps are moved, all by the same time line, so
    that what was recorded now is stamped now; equal stamps stay equal. Stamps of another clock than
    the bag's (since a device was switched on, or of a simulation) get a time line of their own,
    stamps of zero stay zero, and messages that do not begin with a header keep what is in them.
    skipped counts messages whose type is not installed, or whose topic ROS cannot have.

    Raises BagError if the bag has no such topic.
    """

    def __init__(
        self,
        bag: Bag,
        topics: Collection[str] | None = None,
        speed: float = 1.0,
        restamp: bool = False,
    ) -> None:
        recorded = bag.topics
        names = [topic.name for topic in recorded]
        unknown = sorted(set(topics or ()) - set(names))
        if unknown:
            raise BagError(
                f"bag {bag.path} has no topic {', '.join(unknown)}; it has {', '.join(names)}"
            )
        self._bag = bag
        self.speed = speed
        self.offers: dict[str, Offer] = {}
        self.skipped = 0
        self._restamped: set[str] = set()
        self._clocks_ns: list[int] = [0]  # log time minus stamp of every clock so far
        self._kinds: dict[str, str] = {}
        for topic in recorded:
            if topics is not None and topic.name not in topics:
                continue
            kind = message_class(topic.kind)
            fault = name_fault(topic.name)
            if fault or kind is None or topic.name in self.offers:
                reason = "is not installed" if kind is None else "is a second type"
                text = f"{topic.name}: {fault or f'{topic.kind} {reason}'}; "
                text += f"{topic.count} messages skipped"
                print(text, file=sys.stderr)
                self.skipped += topic.count
                continue
            self.offers[topic.name] = Offer(kind, qos_profile(topic))
            self._kinds[topic.name] = topic.kind
            fields = kind.get_fields_and_field_types()  # type: ignore[attr-defined]  # a message
            first_field = next(iter(fields.values()), "")
            if restamp and first_field == "std_msgs/Header":
                self._restamped.add(topic.name)
        self.start_ns = bag.start_ns
        # A bag of one moment must not loop without a pause.
        self.duration_ns = bag.duration_ns or SECOND_NS

    def items(self) -> Iterator[Item]:
        """Every message that can be published, at its log time."""
        for topic, time_ns, raw in self._bag.messages(self.offers.keys()):
            if topic.kind == self._kinds[topic.name]:
                build = partial(_unchanged, raw)
                if topic.name in self._restamped:
                    build = partial(self._moved, raw, time_ns)
                yield Item(time_ns, topic.name, build)

    def losses(self) -> list[str]:
        """Return what of the bag could not be read so far, in words."""
        return self._bag.losses()

    def _moved(self, raw: bytes, log_ns: int, started_ns: int) -> bytes:
        recorded_ns = stamp_ns(raw)
        if not recorded_ns:
            return raw
        age_ns = recorded_ns + self._clock_ns(log_ns - recorded_ns) - self.start_ns
        return moved_stamp(raw, max(started_ns + round(age_ns / self.speed), 0))

    def _clock_ns(self, apart_ns: int) -> int:
        """Return the distance of the clock from which a stamp is that far before its log time."""
        for clock_ns in self._clocks_ns:
            if abs(apart_ns - clock_ns) <= SAME_CLOCK_NS:
                return clock_ns
        self._clocks_ns.append(apart_ns)
        return apart_ns


def _unchanged(raw: bytes, _: int) -> bytes:
    return raw


@contextmanager
def open_bag_source(
    path: Path, topics: Collection[str] | None, speed: float, restamp: bool
) -> Iterator[BagSource]:
    """A bag open for playing; see BagSource. Raises BagError."""
    with open_bag(path) as bag:
        for text in bag.remarks:
            print(text, file=sys.stderr)
        yield BagSource(bag, topics, speed, restamp)
