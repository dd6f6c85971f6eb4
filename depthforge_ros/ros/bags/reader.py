# SPDX-License-Identifier: Apache-2.0
"""Reading rosbag2 bags: topics, raw messages in order, the QoS they were offered with, and frames.

Messages stay serialized until somebody needs their content: a bag is replayed or copied byte for
byte, and only images are looked into.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rclpy.duration import Duration
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.serialization import deserialize_message
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from depthforge_ros.frame import Frame
from depthforge_ros.ros.images import BadImage, frame_from_compressed, frame_from_image

if TYPE_CHECKING:
    from rosbags.interfaces.typing import Typesdict

IMAGE_TYPES = {
    "sensor_msgs/msg/Image": (Image, frame_from_image),
    "sensor_msgs/msg/CompressedImage": (CompressedImage, frame_from_compressed),
}
"""Type names of the topics that hold camera images, with their class and their conversion."""

MAX_LATCHED = 1000
"""Most messages that a latched topic keeps for late subscribers when it is played."""

_DEFAULT_DEPTH = 10
_INFINITE_NS = 2**63 - 1
_NO_DEFINITION_HASH = "RIHS01_" + "0" * 64

_HISTORY = {
    QosHistory.KEEP_LAST: HistoryPolicy.KEEP_LAST,
    QosHistory.KEEP_ALL: HistoryPolicy.KEEP_ALL,
}
_LIVELINESS = {
    QosLiveliness.AUTOMATIC: LivelinessPolicy.AUTOMATIC,
    QosLiveliness.MANUAL_BY_TOPIC: LivelinessPolicy.MANUAL_BY_TOPIC,
}
_UNSET = QosTime(0, 0)


class BagError(ValueError):
    """A bag that cannot be read, or one that may not be written; the text names it."""


@dataclass(frozen=True)
class Topic:
    """One topic of a bag.

    definition: the text of its message type, empty where nobody knows it. digest: its RIHS01 type
    hash. qos: every profile it was offered with.
    """

    name: str
    kind: str
    definition: str
    digest: str
    qos: tuple[Qos, ...]
    count: int = 0


def is_bag(path: Path) -> bool:
    """Whether the path is a rosbag2 folder, or one of its storage files."""
    return (path / "metadata.yaml").is_file() or path.suffix in (".mcap", ".db3")


@contextmanager
def open_bag(path: Path) -> Iterator[Reader]:
    """The bag open for reading. Raises BagError naming the bag and what is wrong with it."""
    if not path.exists():
        raise BagError(f"bag {path} does not exist")
    if not is_bag(path):
        raise BagError(
            f"{path} is no bag; expected a folder with metadata.yaml, or a .mcap or .db3"
        )
    try:
        reader = Reader(path)
        reader.open()
    except Exception as error:  # the formats' parsers raise whatever broken bytes lead them to
        raise BagError(f"bag {path} cannot be opened: {error}") from error
    try:
        yield reader
    finally:
        reader.close()


def bag_messages(
    reader: Reader, topics: Collection[str] | None = None
) -> Iterator[tuple[Connection, int, bytes]]:
    """Connection, log time [ns] and serialized message, in the order of the bag.

    topics: only these; None: all. Raises BagError where the bag breaks off.
    """
    chosen = [c for c in reader.connections if topics is None or c.topic in topics]
    if not chosen:
        return
    try:
        yield from reader.messages(chosen)
    except Exception as error:  # see open_bag
        raise BagError(f"bag {reader.path} cannot be read any further: {error}") from error


def bag_topics(reader: Reader) -> list[Topic]:
    """The topics of an open bag, in its order."""
    return [_topic(connection) for connection in reader.connections]


def own_topic(name: str, kind: str, *, latched: bool = False) -> Topic:
    """A topic as the node offers it: reliable, keep last 1, volatile unless latched."""
    store = get_typestore(Stores.LATEST)
    profile = Qos(
        QosHistory.KEEP_LAST,
        1,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        _UNSET,
        _UNSET,
        QosLiveliness.AUTOMATIC,
        _UNSET,
        False,
    )
    definition, _ = store.generate_msgdef(kind, ros_version=2)
    return Topic(name, kind, definition, store.hash_rihs01(kind), (profile,))


def frame_from_raw(kind: str, raw: bytes) -> tuple[Frame, Header]:
    """The frame in a serialized message of one of IMAGE_TYPES, and the message's header.

    Raises BadImage; its cause is corrupt_message where not even the message can be read.
    """
    message_class, convert = IMAGE_TYPES[kind]
    try:
        message = deserialize_message(raw, message_class)
    except RuntimeError as error:
        raise BadImage(
            "corrupt_message", f"{kind} of {len(raw)} bytes cannot be read: {error}"
        ) from error
    return convert(message), message.header


def message_class(kind: str) -> type | None:
    """The class of a message type such as sensor_msgs/msg/Image, None where it is not installed."""
    try:
        return pkgutil.resolve_name(kind.replace("/msg/", ".msg:"))
    except (ImportError, AttributeError, ValueError):
        return None


def qos_profile(topic: Topic) -> QoSProfile:
    """The profile that offers a recorded topic again.

    A topic of several publishers gets the strongest of their offers, which every subscription
    that matched one of them accepts. What was not recorded (no DDS tells the history of a remote
    publisher) becomes reliable, volatile, keep last 10; latched topics keep all that the bag has.
    """
    reliable = [q.reliability is not QosReliability.BEST_EFFORT for q in topic.qos] or [True]
    latched = any(q.durability is QosDurability.TRANSIENT_LOCAL for q in topic.qos)
    known = [q for q in topic.qos if q.history in _HISTORY and q.depth > 0]
    depth = max((q.depth for q in known), default=_DEFAULT_DEPTH)
    if latched:
        depth = max(depth, min(topic.count, MAX_LATCHED))
    keeps_all = any(q.history is QosHistory.KEEP_ALL for q in topic.qos)
    deadline_ns = [_nanoseconds(q.deadline) for q in topic.qos]
    lifespan_ns = [_nanoseconds(q.lifespan) for q in topic.qos]
    lease_ns = [_nanoseconds(q.liveliness_lease_duration) for q in topic.qos]
    manual = any(q.liveliness is QosLiveliness.MANUAL_BY_TOPIC for q in topic.qos)
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if keeps_all else HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if any(reliable) else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        # Zero is "unspecified", which is what infinite means too.
        deadline=Duration(nanoseconds=min(filter(None, deadline_ns), default=0)),
        lifespan=Duration(nanoseconds=max(lifespan_ns, default=0) if all(lifespan_ns) else 0),
        liveliness=LivelinessPolicy.MANUAL_BY_TOPIC if manual else LivelinessPolicy.AUTOMATIC,
        liveliness_lease_duration=Duration(nanoseconds=min(filter(None, lease_ns), default=0)),
    )


def _nanoseconds(time: QosTime) -> int:
    """The duration in nanoseconds, 0 where it is unspecified or infinite."""
    total_ns = time.sec * 1_000_000_000 + time.nsec
    # Releases have written infinity as 2^63 - 1 ns and as 2^31 - 1 s with 2^32 - 1 ns.
    return 0 if total_ns >= _INFINITE_NS or time.sec >= 2**31 - 1 else total_ns


def _topic(connection: Connection) -> Topic:
    """The topic with its definition: the bag's own, else that of the latest release."""
    definition, digest, kind = connection.msgdef.data, connection.digest, connection.msgtype
    store = get_typestore(Stores.LATEST)
    if not definition and kind in store.fielddefs:
        definition, _ = store.generate_msgdef(kind, ros_version=2)
    if not digest and definition:
        store = get_typestore(Stores.EMPTY)
        store.register(_parsed(definition, kind))
        digest = store.hash_rihs01(kind)
    return Topic(
        connection.topic,
        kind,
        definition,
        digest or _NO_DEFINITION_HASH,
        tuple(connection.ext.offered_qos_profiles),
        connection.msgcount,
    )


def _parsed(definition: str, kind: str) -> Typesdict:
    is_idl = definition.startswith("=" * 80 + "\nIDL: ")
    return get_types_from_idl(definition) if is_idl else get_types_from_msg(definition, kind)
