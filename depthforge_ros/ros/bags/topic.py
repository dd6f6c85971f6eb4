# SPDX-License-Identifier: Apache-2.0
"""One topic of a bag: its type, how it was offered, and how it is offered again."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.validate_full_topic_name import validate_full_topic_name
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2.metadata import parse_qos
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

MAX_LATCHED = 1000
"""Most messages that a latched topic keeps for late subscribers when it is played."""

MESSAGE_TEXT = "ros2msg"
"""Name of the language of .msg files."""

_DEFAULT_DEPTH = 10
_MAX_DEPTH = 2**31 - 1  # of DDS
_INFINITE_NS = 2**63 - 1
_NO_DEFINITION_HASH = "RIHS01_" + "0" * 64
_IDL_START = "=" * 80 + "\nIDL: "
_UNSET = QosTime(0, 0)

_HISTORY = {
    QosHistory.KEEP_LAST: HistoryPolicy.KEEP_LAST,
    QosHistory.KEEP_ALL: HistoryPolicy.KEEP_ALL,
}


class BagError(ValueError):
    """A bag that cannot be read, or one that may not be written; the text names it."""


@dataclass(frozen=True)
class Topic:
    """One topic of a bag.

    kind: message type, such as sensor_msgs/msg/Image. definition: the text of its type, empty if
    unknown, in the language `encoding` (ros2msg, ros2idl, omgidl ...). digest: its RIHS01 type hash
    (REP-2016), zeros if the definition cannot be parsed. qos: every profile it was offered with.
    count: messages that the bag declares.
    """

    name: str
    kind: str
    definition: str
    digest: str
    qos: tuple[Qos, ...]
    count: int = 0
    encoding: str = ""


def recorded_topic(
    name: str,
    kind: str,
    definition: str,
    digest: str,
    qos: str | list,
    count: int,
    encoding: str = "",
) -> Topic:
    """Return a topic as a storage file describes it.

    definition: empty: that of the latest ROS release, if it has the type. digest: empty: computed.
    qos: as recorded, YAML or parsed YAML; nothing is made of what cannot be parsed.
    """
    kind = full_type_name(kind)
    if not definition and kind in (store := get_typestore(Stores.LATEST)).fielddefs:
        definition, _ = store.generate_msgdef(kind, ros_version=2)
        encoding = MESSAGE_TEXT
    digest = digest or _digest_of(kind, definition)
    return Topic(name, kind, definition, digest, parsed_qos(qos), count, encoding)


def parsed_qos(text: str | list) -> tuple[Qos, ...]:
    """Return the profiles as recorded, YAML or parsed YAML; none if they cannot be read."""
    try:
        return tuple(map(_checked, parse_qos(text)))
    except Exception:  # whatever a parser makes of a foreign text
        return ()


def _checked(qos: Qos) -> Qos:
    """The profile with numbers for what should be some; ValueError if they are none."""
    times = (qos.deadline, qos.lifespan, qos.liveliness_lease_duration)
    deadline, lifespan, lease = (QosTime(int(time.sec), int(time.nsec)) for time in times)
    return qos._replace(
        depth=int(qos.depth or 0),
        deadline=deadline,
        lifespan=lifespan,
        liveliness_lease_duration=lease,
    )


def own_topic(name: str, kind: str, *, latched: bool = False) -> Topic:
    """Return a topic as the node offers it: reliable, keep last 1, volatile unless latched."""
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
    digest = store.hash_rihs01(kind)
    return Topic(name, kind, definition, digest, (profile,), encoding=MESSAGE_TEXT)


def merged(topics: Sequence[Topic]) -> list[Topic]:
    """Return one topic for all of a name and type: counts added, each QoS profile once."""
    found: dict[tuple[str, str], Topic] = {}
    for topic in topics:
        known = found.setdefault((topic.name, topic.kind), replace(topic, qos=(), count=0))
        found[topic.name, topic.kind] = replace(
            known,
            definition=known.definition or topic.definition,
            encoding=known.encoding if known.definition else topic.encoding,
            qos=tuple(dict.fromkeys((*known.qos, *topic.qos))),
            count=known.count + topic.count,
        )
    return list(found.values())


def full_type_name(kind: str) -> str:
    """Return package/msg/Name, also for package/Name, which some writers leave in a bag."""
    return re.sub(r"^([^/]+)/([^/]+)$", r"\1/msg/\2", kind)


def message_class(kind: str) -> type | None:
    """Return the class of a type that topics carry, None if it is not installed.

    Such as sensor_msgs/msg/Image, and the parts of services and actions:
    std_srvs/srv/SetBool_Event, example_interfaces/action/Fibonacci_FeedbackMessage.
    """
    package, _, rest = kind.partition("/")
    space, _, name = rest.partition("/")
    whole, _, part = name.rpartition("_")
    inner = {"srv": f"{whole}.{part}", "action": f"{whole}.Impl.{part}"}.get(space, name)
    try:
        found = pkgutil.resolve_name(f"{package}.{space}:{inner}")
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None


def name_fault(topic: str) -> str:
    """Return why ROS has no topic of that name, empty if it may have one."""
    try:
        validate_full_topic_name(f"/{topic.removeprefix('/')}")
    except InvalidTopicNameException as error:
        return str(error).splitlines()[0].removesuffix(":")
    return ""


def _digest_of(kind: str, definition: str) -> str:
    text = definition.replace("\r\n", "\n")
    try:
        is_idl = text.startswith(_IDL_START)
        store = get_typestore(Stores.EMPTY)
        store.register(get_types_from_idl(text) if is_idl else get_types_from_msg(text, kind))
        return store.hash_rihs01(kind)
    except Exception:  # no text, an absent dependency, wstring; only the hash is unknown then
        return _NO_DEFINITION_HASH


def qos_profile(topic: Topic) -> QoSProfile:
    """Return the profile that offers a recorded topic again.

    A topic of several publishers gets the strongest of their offers, which every subscription
    that matched one of them accepts. What was not recorded (no DDS tells the history of a remote
    publisher) becomes reliable, volatile, keep last 10; latched topics keep all that the bag has.
    """
    reliable = [q.reliability is not QosReliability.BEST_EFFORT for q in topic.qos] or [True]
    latched = any(q.durability is QosDurability.TRANSIENT_LOCAL for q in topic.qos)
    known = [q for q in topic.qos if q.history in _HISTORY and q.depth > 0]
    depth = min(max((q.depth for q in known), default=_DEFAULT_DEPTH), _MAX_DEPTH)
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
    """Return the duration in nanoseconds, 0 if it is unspecified or infinite."""
    total_ns = time.sec * 1_000_000_000 + time.nsec
    # Releases have written infinity as 2^63 - 1 ns and as 2^31 - 1 s with 2^32 - 1 ns.
    return 0 if total_ns >= _INFINITE_NS or time.sec >= 2**31 - 1 else total_ns
