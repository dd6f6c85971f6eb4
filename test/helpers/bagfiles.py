# SPDX-License-Identifier: Apache-2.0
"""Bags for tests, written with the rosbags library, and what is in them."""

from __future__ import annotations

import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from rclpy.serialization import serialize_message
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from depthforge_ros.ros.messages import rgb8_message

START_NS = 1_700_000_000_000_000_000
PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
HEIGHT, WIDTH = 32, 48


class Recorded(NamedTuple):
    """One message of a bag."""

    topic: str
    kind: str
    time_ns: int
    raw: bytes


def qos(
    reliability: str = "RELIABLE",
    durability: str = "VOLATILE",
    depth: int = 5,
    history: str = "KEEP_LAST",
) -> Qos:
    return Qos(
        QosHistory[history],
        depth,
        QosReliability[reliability],
        QosDurability[durability],
        QosTime(0, 0),
        QosTime(2147483647, 4294967295),
        QosLiveliness.AUTOMATIC,
        QosTime(9223372036, 854775807),
        False,
    )


def header(time_ns: int, frame_id: str = "front") -> Header:
    made = Header(frame_id=frame_id)
    made.stamp.sec, made.stamp.nanosec = divmod(time_ns, 1_000_000_000)
    return made


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def image(index: int, time_ns: int) -> Image:
    return rgb8_message(header(time_ns), picture(index))


def compressed(index: int, time_ns: int, suffix: str = ".png") -> CompressedImage:
    content = cv2.imencode(suffix, picture(index)[..., ::-1])[1].tobytes()
    data = array.array("B", content)
    return CompressedImage(header=header(time_ns), format=suffix[1:], data=data)


def info(time_ns: int) -> CameraInfo:
    made = CameraInfo(header=header(time_ns), width=WIDTH, height=HEIGHT)
    made.k = [50.0, 0.0, 24.0, 0.0, 50.0, 16.0, 0.0, 0.0, 1.0]
    made.p = [50.0, 0.0, 24.0, 0.0, 0.0, 50.0, 16.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return made


def kind_of(message: object) -> str:
    cls = type(message)
    return f"{cls.__module__.split('.')[0]}/msg/{cls.__name__}"


def text(content: str) -> String:
    return String(data=content)


def recorded(topic: str, time_ns: int, message: object) -> Recorded:
    return Recorded(topic, kind_of(message), time_ns, serialize_message(message))


def write_bag(
    path: Path,
    messages: Sequence[Recorded],
    storage: str = "mcap",
    profiles: dict[str, list[Qos]] | None = None,
) -> Path:
    """A bag of the messages, in their order."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Writer(path, version=8, storage_plugin=PLUGINS[storage]) as writer:
        connections = {}
        for message in messages:
            if message.topic not in connections:
                connections[message.topic] = writer.add_connection(
                    message.topic,
                    message.kind,
                    typestore=store,
                    offered_qos_profiles=(profiles or {}).get(message.topic, [qos()]),
                )
            writer.write(connections[message.topic], message.time_ns, message.raw)
    return path


def read_bag(path: Path) -> list[Recorded]:
    """All messages of a bag, in its order."""
    with Reader(path) as reader:
        return [Recorded(c.topic, c.msgtype, t, bytes(raw)) for c, t, raw in reader.messages()]
