# SPDX-License-Identifier: Apache-2.0
"""Reads rosbag2 bags: topics, raw messages in order, and an account of what could not be read.

Messages stay serialized: a bag is replayed or copied byte for byte, and only images are converted.
"""

from __future__ import annotations

import shutil
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
        self._decompress = None
        if str(described.get("compression_mode")).lower() == "message":
            self._decompress = _zstd()
        self.remarks += [text for file in self._files for text in file.remarks]
        self.topics = self._described_topics(described)
        filled = [file for file in self._files if file.end_ns]
        self.start_ns = min((file.start_ns for file in filled), default=0)
        self.duration_ns = max((file.end_ns for file in filled), default=0) - self.start_ns
        self.custom_data: dict[str, str] = {}
        for file in self._files:
            self.custom_data |= file.custom_data
        self.custom_data |= described.get("custom_data") or {}
        distros = (file.ros_distro for file in self._files)
        self.ros_distro = described.get("ros_distro") or next(filter(None, distros), "")
        self.metadata = [record for file in self._files for record in file.metadata]

    def messages(self, names: Collection[str] | None = None) -> Iterator[tuple[Topic, int, bytes]]:
        """Topic, log time [ns] and serialized message, file after file, by log time in each.

        names: only these topics; None: all. After the last message, what was read is compared with
        what the bag declares; see `losses`.
        """
        chosen = {t.name for t in self.topics if names is None or t.name in names}
        topics = {(topic.name, topic.kind): topic for topic in self.topics}
        read: Counter[tuple[str, str]] = Counter()
        for file in self._files:
            for name, kind, time_ns, raw in self._messages_of(file, chosen):
                topic = topics[name, kind]
                if self._decompress is not None:
                    unpacked = self._decompressed(raw)
                    if unpacked is None:
                        continue
                    raw = unpacked
                read[name, kind] += 1
                yield topic, time_ns, raw
        for topic in self.topics:
            count = read[topic.name, topic.kind]
            if topic.name in chosen and count < topic.count:
                self._read[topic.name] = f"{topic.name}: {count} of {topic.count} messages read"

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
        named = [self.path / PurePath(name).name for name in described["relative_file_paths"]]
        for path in named:
            if not path.is_file():
                self._losses.append(f"{path} is missing")
        unnamed = [path for path in found if path not in named]
        for path in unnamed:
            if not any(path.with_name(f"{path.name}{COMPRESSED}") == other for other in named):
                self._losses.append(f"{path} is left out: {METADATA} does not name it")
        return [path for path in named if path.is_file()]

    def _opened(self, path: Path, stack: ExitStack) -> McapFile | SqliteFile | None:
        """Return the storage file open; None if it cannot be opened, which is noted."""
        suffix = storage_suffix(path)
        try:
            if not suffix:
                raise BagError(f"{path} is neither .mcap nor .db3")
            if not path.stat().st_size:
                raise BagError(f"{path} is empty")
            if path.suffix == COMPRESSED:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                whole = folder / path.with_suffix("").name
                _decompress_file(path, whole)
                path = whole
            return _storage(suffix)(path)
        except ImportError:
            raise
        except Exception as error:  # whatever broken bytes lead a parser to
            text = str(error) if isinstance(error, BagError) else f"{path}: {error}"
            self._losses.append(text)
            return None

    def _described_topics(self, described: dict[str, Any]) -> list[Topic]:
        """Return the topics of all files; counts and QoS also as metadata.yaml has them."""
        topics = {(t.name, t.kind): t for t in merged([t for f in self._files for t in f.topics])}
        for entry in described.get("topics_with_message_count") or []:
            try:
                about, count = entry["topic_metadata"], int(entry["message_count"])
                key = about["name"], full_type_name(about["type"])
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

    def _decompressed(self, raw: bytes) -> bytes | None:
        assert self._decompress is not None
        try:
            return self._decompress.decompressobj().decompress(raw)
        except Exception:  # of zstandard
            return None  # counted as not read


def _zstd() -> Any:
    """Return a decompressor of zstandard, which comes with mcap."""
    import zstandard

    return zstandard.ZstdDecompressor()


def _decompress_file(path: Path, target: Path) -> None:
    """Raises BagError if the content of the file is damaged."""
    with path.open("rb") as source, target.open("wb") as file:
        try:
            shutil.copyfileobj(_zstd().stream_reader(source), file)
        except OSError:
            raise
        except Exception as error:  # of zstandard
            raise BagError(f"{path} cannot be decompressed: {error}") from error


@contextmanager
def open_bag(path: Path) -> Iterator[Bag]:
    """The bag open for reading. Raises BagError naming the bag and what is wrong with it."""
    if not path.exists():
        raise BagError(f"bag {path} does not exist")
    if not is_bag(path):
        raise BagError(
            f"{path} is no bag; expected a .mcap or .db3, or a folder with metadata.yaml or with "
            "NAME_0.mcap, NAME_1.mcap ..."
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
