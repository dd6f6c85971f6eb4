# SPDX-License-Identifier: Apache-2.0
"""Reads a recorded drive back: every image with its mask and depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from depthforge_ros.ros.bags.reader import open_bag
from depthforge_ros.ros.serialized import stamp_ns as stamp_of

_PIXELS = {"rgb8": ("u1", (3,)), "mono8": ("u1", ()), "32FC1": ("<f4", ())}


@dataclass(frozen=True)
class Seen:
    """One image with its results: None if the node dropped it or had no depth.

    depth is in the unit of its topic.
    """

    stamp_ns: int
    rgb: np.ndarray  # [H, W, 3] uint8
    labels: np.ndarray | None = None  # [h, w] uint8
    depth: np.ndarray | None = None  # [h, w] float32


def recorded(bag: Path, image: str, labels: str, depth: str) -> Iterator[Seen]:
    """Every image of the bag in order, joined by stamp with the topics of labels and depth."""
    names = {image: "rgb", labels: "labels", depth: "depth"}
    with open_bag(bag) as reader:
        # Outputs come after their image and in any order; a first pass over the stamps counts them.
        promised = Counter(stamp_of(raw) or 0 for *_, raw in reader.messages(names))
        waiting: dict[int, dict[str, np.ndarray]] = {stamp_ns: {} for stamp_ns in sorted(promised)}
        for topic, _, raw in reader.messages(names):
            parts = waiting[stamp_of(raw) or 0]
            parts[names[topic.name]] = pixels(deserialize_message(raw, Image))
            while waiting:
                stamp_ns, parts = next(iter(waiting.items()))
                if len(parts) < promised[stamp_ns]:
                    break
                del waiting[stamp_ns]
                if "rgb" in parts:
                    yield Seen(stamp_ns, **parts)


def pixels(message: Image) -> np.ndarray:
    """The pixels of an image message as player and node publish them, without padding."""
    dtype, channels = _PIXELS[message.encoding]
    shape = (message.height, message.width, *channels)
    return np.frombuffer(message.data, dtype).reshape(shape)
