# SPDX-License-Identifier: Apache-2.0
"""Bags of forty lines of text."""

from __future__ import annotations

from pathlib import Path

from bagfiles import START_NS, Recorded, recorded, text
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter

from depthforge_ros.ros.bags.reader import Bag, open_bag

STRING = "std_msgs/msg/String"
TEXTS = [recorded("/text", START_NS + i, text(f"line {i:04d} ".ljust(500))) for i in range(40)]
DEFINITION = b"string data\n"


def mcap(path: Path, messages: list[Recorded] = TEXTS, **options: object) -> Path:
    """An MCAP file of texts in chunks of 4 kB, as the mcap library writes it with these options."""
    options = {"chunk_size": 4096, "compression": CompressionType.NONE, **options}
    with path.open("wb") as file:
        writer = McapWriter(file, **options)
        writer.start("ros2", "test")
        schema = writer.register_schema(STRING, "ros2msg", DEFINITION)
        channel = writer.register_channel("/text", "cdr", schema)
        for message in messages:
            writer.add_message(channel, message.time_ns, message.raw, message.time_ns)
        writer.finish()
    return path


def read(path: Path) -> tuple[list[tuple], Bag]:
    """Every message that can be read, and the bag."""
    with open_bag(path) as bag:
        return [(t.name, t.kind, time_ns, raw) for t, time_ns, raw in bag.messages()], bag


def expected(messages: list[Recorded] = TEXTS) -> list[tuple]:
    return [tuple(message) for message in messages]
