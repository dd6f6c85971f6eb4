# SPDX-License-Identifier: Apache-2.0
"""Reads rosbag2 bags: topics, raw messages in order, and an account of what could not be read.

Messages stay serialized: a bag is replayed or copied byte for byte, and only images are converted.
"""

from __future__ import annotations

import heapq
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from depthforge_ros.frame import Frame
from depthforge_ros.ros.bags.compression import MAGIC, unpack_file, unpack_message
from depthforge_ros.ros.bags.layout import (
    COMPRESSED,
    METADATA,
    is_bag,
    split_files,
    storage_suffix,
)
from depthforge_ros.ros.bags.topic import (
    BagError,
    Topic,
    full_type_name,
    merged,
    parsed_qos,
    recorded_topic,
)
from depthforge_ros.ros.images import BadImage, ImageReader

if TYPE_CHECKING:
    from mcap.records import Attachment

    from depthforge_ros.ros.bags.mcap_file import McapFile
    from depthforge_ros.ros.bags.sqlite_file import SqliteFile

IMAGE_TYPES = {
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
}
"""Type names of the topics that hold camera images, with their class."""

MAX_LOG_TIME_NS = 2**63 - 1
"""Latest log time that every storage format and ROS can hold."""


def _storage(suffix: str) -> type[McapFile] | type[SqliteFile]:
    """Return the reader of a format; each needs packages that the other does without."""
    if suffix == ".mcap":
        from depthforge_ros.ros.bags.mcap_file import McapFile

        return McapFile
    from depthforge_ros.ros.bags.sqlite_file import SqliteFile

    return SqliteFile


class Bag:
    """A bag open for reading: a folder, or one storage file. See `open_bag`.

    start_ns, duration_ns: from the first log time to the last. remarks: what a reader of the bag
    should know, though nothing is lost.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.remarks: list[str] = []
        self._losses: list[str] = []
        self._read: dict[str, str] = {}
        described: dict[str, Any] = {}
        if path.is_dir():
            described = self._description()
            paths = self._storage_paths(described)
        else:
            paths = [path]
        self._files: list[McapFile | SqliteFile] = []
        for place in paths:
            opened = self._opened(place, stack)
            if opened is not None:
                stack.callback(opened.close)
                self._files.append(opened)
        if not self._files:
            raise BagError("; ".join(self._losses) or f"bag {path} has no storage file")
        format_name = described.get("compression_format") or "zstd"
        self._compressed = str(described.get("compression_mode")).lower() == "message"
        if self._compressed and format_name != "zstd":
            self._losses.append(
                f"{path}: its messages are compressed by {format_name}; expected zstd"
            )
        self.remarks += [text for file in self._files for text in file.remarks]
        self.topics = self._described_topics(described)
        filled = [file for file in self._files if file.end_ns]
        self.start_ns = max(min((file.start_ns for file in filled), default=0), 0)
        self.duration_ns = max((file.end_ns for file in filled), default=0) - self.start_ns
        self.custom_data: dict[str, str] = {}
        for file in self._files:
            self.custom_data |= file.custom_data
        if isinstance(custom := described.get("custom_data"), dict):
            self.custom_data |= {str(name): str(text) for name, text in custom.items()}
        distros = (file.ros_distro for file in self._files)
        self.ros_distro = str(described.get("ros_distro") or next(filter(None, distros), ""))
        self.metadata = [record for file in self._files for record in file.metadata]

    def messages(self, names: Collection[str] | None = None) -> Iterator[tuple[Topic, int, bytes]]:
        """Topic, log time [ns] and serialized message, in the order of log times.

        names: only these topics; None: all. After the last message, what was read is compared with
        what the bag declares; see `losses`.
        """
        chosen = {t.name for t in self.topics if names is None or t.name in names}
        topics = {(topic.name, topic.kind): topic for topic in self.topics}
        read: Counter[tuple[str, str]] = Counter()
        timeless: Counter[str] = Counter()
        for name, kind, time_ns, raw in self._in_order(chosen):
            content: bytes | None = raw
            if not 0 <= time_ns <= MAX_LOG_TIME_NS:
                timeless[name] += 1
                text = f"{name}: {timeless[name]} messages have log times outside of 1970 to 2262"
                self._read[f"{name} timeless"] = f"{text} and are left out"
                continue
            # Also where metadata.yaml, which would say so, is absent.
            if self._compressed or raw.startswith(MAGIC):
                content = unpack_message(raw)
            if content is not None:  # else it is not counted as read
                read[name, kind] += 1
                yield topics[name, kind], time_ns, content
        for topic in self.topics:
            count = read[topic.name, topic.kind]
            if topic.name in chosen and count < topic.count:
                self._read[topic.name] = f"{topic.name}: {count} of {topic.count} messages read"

    def _in_order(self, names: Collection[str]) -> Iterator[tuple[str, str, int, bytes]]:
        """Messages of all files in the order of log times. Files are begun when their time comes,
        and need not lie in the order in which they were recorded.
        """
        streams = [self._messages_of(file, names) for file in self._files]
        heap: list[tuple[int, int, tuple[str, str, int, bytes] | None]]
        heap = [(file.start_ns, number, None) for number, file in enumerate(self._files)]
        heapq.heapify(heap)
        while heap:
            _, number, message = heapq.heappop(heap)
            if message is not None:
                yield message
            following = next(streams[number], None)
            if following is not None:
                heapq.heappush(heap, (following[2], number, following))

    def _messages_of(
        self, file: McapFile | SqliteFile, names: Collection[str]
    ) -> Iterator[tuple[str, str, int, bytes]]:
        try:
            yield from file.messages(names)
        except Exception as error:  # whatever broken bytes lead a parser to
            self._read[str(file.path)] = f"{file.path} cannot be read any further: {error}"

    def attachments(self) -> Iterator[Attachment]:
        """Every attachment of its MCAP files."""
        for file in self._files:
            yield from file.attachments()

    def losses(self) -> list[str]:
        """Return what could not be read so far or was left out, in words. Empty: nothing was."""
        found = [text for file in self._files for text in file.losses()]
        return [*self._losses, *found, *self._read.values()]

    def _description(self) -> dict[str, Any]:
        """Return the content of metadata.yaml, empty if there is none that can be read."""
        place = self.path / METADATA
        if not place.is_file():
            self.remarks.append(f"{self.path} has no {METADATA}; `ros2 bag reindex` writes one")
            return {}
        try:
            content = yaml.safe_load(place.read_text("utf-8"))["rosbag2_bagfile_information"]
            if not isinstance(content["relative_file_paths"], list):
                raise TypeError("relative_file_paths is no list")
            return content
        except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
            text = " ".join(str(error).split())
            self._losses.append(f"{place} cannot be read: {text}; `ros2 bag reindex` writes one")
            return {}

    def _storage_paths(self, described: dict[str, Any]) -> list[Path]:
        """Return the files of the bag that exist, those that metadata.yaml names first."""
        found = split_files(self.path) or sorted(
            path for path in self.path.iterdir() if storage_suffix(path)
        )
        if not described:
            return found
        names = [PurePath(str(name)).name for name in described["relative_file_paths"]]
        named = list(dict.fromkeys(self.path / name for name in names))
        there = {path: _as_file(path) for path in named}
        if found and not any(there.values()):  # renamed; counts are compared nevertheless
            self.remarks.append(
                f"{METADATA} names {', '.join(names) or 'no files'}; {self.path} has "
                f"{', '.join(path.name for path in found)}, read instead"
            )
            return found
        for path, file in there.items():
            if file is None:
                self._losses.append(f"{path} is missing")
        known = [*named, *there.values()]
        for path in found:
            if path not in known and path.with_name(f"{path.name}{COMPRESSED}") not in named:
                self._losses.append(f"{path} is left out: {METADATA} does not name it")
        return [file for file in there.values() if file is not None]

    def _opened(self, path: Path, stack: ExitStack) -> McapFile | SqliteFile | None:
        """Return the storage file open; None if it cannot be opened, which is noted."""
        suffix = storage_suffix(path)
        try:
            if not suffix:
                raise BagError(f"{path} is neither .mcap nor .db3")
            if not path.stat().st_size:
                raise BagError(f"{path} is empty")
            if path.suffix != COMPRESSED:
                return _storage(suffix)(path)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            whole = folder / path.with_suffix("").name
            if fault := unpack_file(path, whole):
                self._losses.append(fault)
            return _storage(suffix)(whole, path)
        except ImportError:
            raise
        except Exception as error:  # whatever broken bytes lead a parser to
            text = str(error) if isinstance(error, BagError) else f"{path}: {error}"
            self._losses.append(text)
            return None

    def _described_topics(self, described: dict[str, Any]) -> list[Topic]:
        """Return the topics of all files; counts and QoS also as metadata.yaml has them."""
        topics = {(t.name, t.kind): t for t in merged([t for f in self._files for t in f.topics])}
        entries = described.get("topics_with_message_count")
        for entry in entries if isinstance(entries, list) else []:
            try:
                about, count = entry["topic_metadata"], int(entry["message_count"])
                key = str(about["name"]), full_type_name(about["type"])
                offered = about.get("offered_qos_profiles", "")
            except (LookupError, TypeError, ValueError):
                continue
            known = topics.get(key)
            if known is None:
                if about.get("serialization_format", "cdr") == "cdr":
                    digest = about.get("type_description_hash", "")
                    topics[key] = recorded_topic(*key, "", digest, offered, count)
                continue
            qos = known.qos or parsed_qos(offered)
            topics[key] = replace(known, qos=qos, count=max(known.count, count))
        return list(topics.values())


def _as_file(path: Path) -> Path | None:
    """Return the path if it is a file, else the same file compressed or decompressed, or None."""
    packed = path.suffix == COMPRESSED
    other = path.with_suffix("") if packed else path.with_name(f"{path.name}{COMPRESSED}")
    return next((file for file in (path, other) if file.is_file()), None)


@contextmanager
def open_bag(path: Path) -> Iterator[Bag]:
    """The bag open for reading. Raises BagError naming the bag and what is wrong with it."""
    if not path.exists():
        raise BagError(f"bag {path} does not exist")
    if not is_bag(path):
        raise BagError(
            f"{path} is no bag; expected a .mcap, .db3 or .db3.zstd, or a folder with "
            "metadata.yaml or with NAME_0.mcap, NAME_1.mcap ..."
        )
    with ExitStack() as stack:
        try:
            bag = Bag(path, stack)
        except ImportError:
            raise
        except Exception as error:  # whatever a broken file leads a parser to
            raise BagError(f"bag {path} cannot be opened: {error}") from error
        yield bag


def frame_from_raw(
    kind: str, raw: bytes, reader: ImageReader | None = None
) -> tuple[Frame, Header]:
    """Return the frame in a serialized message of one of IMAGE_TYPES, and the message's header.

    reader: of the camera, which remembers the bits of its samples; None: the image by itself.
    Raises BadImage; its cause is corrupt_message if not even the message can be read.
    """
    try:
        message = deserialize_message(raw, IMAGE_TYPES[kind])
    except RuntimeError as error:
        raise BadImage(
            "corrupt_message", f"{kind} of {len(raw)} bytes cannot be read: {error}"
        ) from error
    return (reader or ImageReader())(message), message.header
