# SPDX-License-Identifier: Apache-2.0
"""A bag that can be played: raw messages with the QoS they were recorded with."""

from __future__ import annotations

import struct
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rosbags.rosbag2 import Reader

from depthforge_ros.ros.bags.reader import (
    BagError,
    bag_messages,
    bag_topics,
    message_class,
    open_bag,
    qos_profile,
)
from depthforge_ros.ros.play.publisher import SECOND_NS, Item, Offer

# Behind the four bytes of encapsulation, the stamp of a header is the first thing in a message.
_STAMP_OFFSET = 4


class BagSource:
    """The messages of an open bag, byte for byte.

    topics: only these; None: all. restamp: header stamps are moved, all by the same time line, so
    that what was recorded now is stamped now; equal stamps stay equal. Messages that do not begin
    with a header keep what is in them. skipped counts messages whose type is not installed.

    Raises BagError where the bag has no such topic.
    """

    def __init__(
        self,
        reader: Reader,
        topics: Collection[str] | None = None,
        speed: float = 1.0,
        restamp: bool = False,
    ) -> None:
        recorded = bag_topics(reader)
        names = [topic.name for topic in recorded]
        unknown = sorted(set(topics or ()) - set(names))
        if unknown:
            raise BagError(
                f"bag {reader.path} has no topic {', '.join(unknown)}; it has {', '.join(names)}"
            )
        self._reader = reader
        self.speed = speed
        self.offers: dict[str, Offer] = {}
        self.skipped = 0
        self._restamped: set[str] = set()
        self._kinds: dict[str, str] = {}
        for topic in recorded:
            if topics is not None and topic.name not in topics:
                continue
            kind = message_class(topic.kind)
            if kind is None or topic.name in self.offers:
                reason = "is not installed" if kind is None else "is a second type"
                text = f"{topic.name}: {topic.kind} {reason}; {topic.count} messages skipped"
                print(text, file=sys.stderr)
                self.skipped += topic.count
                continue
            self.offers[topic.name] = Offer(kind, qos_profile(topic))
            self._kinds[topic.name] = topic.kind
            first_field = next(iter(kind.get_fields_and_field_types().values()), "")
            if restamp and first_field == "std_msgs/Header":
                self._restamped.add(topic.name)
        self.start_ns = reader.start_time
        # rosbags counts one past the end. A bag of one moment must not loop without a pause.
        self.duration_ns = reader.duration - 1 if reader.duration > 1 else SECOND_NS

    def items(self) -> Iterator[Item]:
        """Every message that can be published, at its log time."""
        for connection, time_ns, raw in bag_messages(self._reader, self.offers.keys()):
            topic = connection.topic
            if connection.msgtype == self._kinds[topic]:
                build = self._moved if topic in self._restamped else _unchanged
                yield Item(time_ns, topic, partial(build, raw))

    def _moved(self, raw: bytes, started_ns: int) -> bytes:
        if len(raw) < _STAMP_OFFSET + 8:
            return raw
        layout = "<iI" if raw[1] & 1 else ">iI"  # encapsulation: CDR_LE is 1, CDR_BE is 0
        sec, nanosec = struct.unpack_from(layout, raw, _STAMP_OFFSET)
        age_ns = sec * SECOND_NS + nanosec - self.start_ns
        stamp_ns = max(started_ns + round(age_ns / self.speed), 0)
        moved = bytearray(raw)
        struct.pack_into(layout, moved, _STAMP_OFFSET, *divmod(stamp_ns, SECOND_NS))
        return bytes(moved)


def _unchanged(raw: bytes, _: int) -> bytes:
    return raw


@contextmanager
def open_bag_source(
    path: Path, topics: Collection[str] | None, speed: float, restamp: bool
) -> Iterator[BagSource]:
    """A bag open for playing; see BagSource. Raises BagError."""
    with open_bag(path) as reader:
        yield BagSource(reader, topics, speed, restamp)
