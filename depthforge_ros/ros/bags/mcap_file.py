# SPDX-License-Identifier: Apache-2.0
"""Reads one MCAP file (https://mcap.dev/spec), also without indexes, without an end, or damaged.

Works by blocks: a chunk, or messages that lie outside chunks one after the other. The blocks come
from the summary at the end of the file; if that is missing or incomplete, from a scan.
"""

from __future__ import annotations

import heapq
import struct
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import yaml
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.records import Attachment, Channel, Chunk, Metadata, Schema, Statistics
from mcap.stream_reader import get_chunk_data_stream

from depthforge_ros.ros.bags.topic import BagError, Topic, merged, recorded_topic

MAGIC = b"\x89MCAP0\r\n"
RUN_BYTES = 1 << 20
_RECORD = struct.Struct("<BQ")  # opcode and length
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_CDR = ("cdr", "")


class _Stream(ReadDataStream):
    """A record whose texts need not be UTF-8, as MCAP demands it."""

    def __init__(self, body: bytes | memoryview) -> None:
        super().__init__(BytesIO(body))

    def read_prefixed_string(self) -> str:
        return str(self.read(self.read4()), "utf-8", "replace")


class _DamageError(Exception):
    """A record that cannot be read; the text says why."""


@dataclass(frozen=True)
class _Block:
    """Records of the file. channels: that have messages in it; None: not known."""

    offset: int
    length: int
    start_ns: int
    chunk: bool
    channels: frozenset[int] | None
    complete: bool = True


class McapFile:
    """One MCAP file open for reading. Raises BagError if nothing in it can be read.

    named: what its path is called in messages, if it is a copy.
    topics: those with ROS 2 messages. losses: what was left out or cannot be read, in words.
    remarks: what else a reader of the bag should know. metadata: records by name, without
    rosbag2's own, from which custom_data and ros_distro come.
    """

    def __init__(self, path: Path, named: Path | None = None) -> None:
        self.path = named or path
        self.remarks: list[str] = []
        self.custom_data: dict[str, str] = {}
        self.ros_distro = ""
        self.metadata: list[tuple[str, dict[str, str]]] = []
        self.start_ns = self.end_ns = 0
        self._losses: dict[int, str] = {}  # by offset, as a file may be read several times
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._counts: Counter[int] = Counter()
        self._blocks: list[_Block] = []
        self._attachments: list[int] = []
        self._metadata: list[int] = []
        self._size = path.stat().st_size
        self._file = path.open("rb")
        try:
            if self._file.read(len(MAGIC)) != MAGIC:
                raise BagError(f"{path} is no MCAP file: it does not begin as one")
            if not self._read_summary():
                self._scan()
            self._read_metadata()
            self.topics = self._make_topics()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def losses(self) -> list[str]:
        """Return what could not be read so far, or was left out."""
        return [self._losses[offset] for offset in sorted(self._losses)]

    def messages(self, names: Collection[str]) -> Iterator[tuple[str, str, int, bytes]]:
        """Topic, type, log time [ns] and serialized message, in the order of log times."""
        chosen = {
            index: (channel.topic, topic.kind)
            for index, channel in self._channels.items()
            if channel.topic in names and (topic := self._topic_of.get(index)) is not None
        }
        heap: list[tuple] = [
            (block.start_ns, block.offset, -1, block)
            for block in self._blocks
            if block.channels is None or block.channels & chosen.keys()
        ]
        heapq.heapify(heap)
        while heap:
            time_ns, offset, index, item = heapq.heappop(heap)
            if index >= 0:
                channel, raw = item
                yield *chosen[channel], time_ns, bytes(raw)
                continue
            for number, (channel, log_ns, raw) in enumerate(self._messages_of(item)):
                if channel in chosen:
                    heapq.heappush(heap, (log_ns, offset, number, (channel, raw)))

    def attachments(self) -> Iterator[Attachment]:
        """Every attachment, read when it is asked for."""
        for offset in self._attachments:
            _, body = self._record_at(offset)
            yield Attachment.read(_Stream(body))

    def _read_summary(self) -> bool:
        """Take blocks and counts from the summary; False if it does not tell everything."""
        self._file.seek(0)
        try:
            summary = SeekingReader(self._file).get_summary()
        except Exception:  # whatever broken bytes lead the parser to
            return False
        if summary is None or summary.statistics is None:
            return False
        counts = summary.statistics
        counted = {index for index, count in counts.channel_message_counts.items() if count}
        complete = (
            len(summary.chunk_indexes) == counts.chunk_count
            and bool(summary.chunk_indexes) >= bool(counts.message_count)
            and sum(counts.channel_message_counts.values()) == counts.message_count
            and counted <= summary.channels.keys()
            and {c.schema_id for c in summary.channels.values()} - {0} <= summary.schemas.keys()
            and len(summary.attachment_indexes) == counts.attachment_count
            and len(summary.metadata_indexes) == counts.metadata_count
        )
        others = self._between_chunks(
            {
                index.chunk_start_offset: index.chunk_length + index.message_index_length
                for index in summary.chunk_indexes
            }
        )
        # Messages may lie outside of chunks, where no index leads to them.
        if not complete or (others is not None and others[Opcode.MESSAGE]):
            return False
        self._schemas, self._channels = summary.schemas, summary.channels
        self._counts = Counter(counts.channel_message_counts)
        # Of the chunks: some writers leave zeros in the statistics.
        times = [(c.message_start_time, c.message_end_time) for c in summary.chunk_indexes]
        filled = [(start, end) for start, end in times if end]
        self.start_ns = min((start for start, _ in filled), default=0)
        self.end_ns = max((end for _, end in filled), default=0)
        self._blocks = [
            _Block(
                index.chunk_start_offset,
                index.chunk_length,
                index.message_start_time,
                True,
                # Message indexes may be absent, whatever the chunk holds.
                frozenset(index.message_index_offsets) or None,
            )
            for index in summary.chunk_indexes
        ]
        self._attachments = [index.offset for index in summary.attachment_indexes]
        self._metadata = [index.offset for index in summary.metadata_indexes]
        if others is not None:  # some tools rewrite chunks and leave the rest of the index
            self._attachments, self._metadata = others[Opcode.ATTACHMENT], others[Opcode.METADATA]
        return True

    def _between_chunks(self, chunks: dict[int, int]) -> dict[int, list[int]] | None:
        """Offsets of the records between chunks, by opcode; None if the way through them breaks.

        chunks: their offsets and lengths, with their message indexes.
        """
        found: dict[int, list[int]] = defaultdict(list)
        offset = len(MAGIC)
        while offset + _RECORD.size <= self._size:
            if offset in chunks:
                offset += chunks[offset]
                continue
            self._file.seek(offset)
            opcode, length = _RECORD.unpack(self._file.read(_RECORD.size))
            if opcode == Opcode.DATA_END:
                return found
            if opcode == 0:
                break
            found[opcode].append(offset)
            offset += _RECORD.size + length
        return None

    def _scan(self) -> None:
        """Read the file from its beginning as far as it goes."""
        offset, ended = len(MAGIC), False
        run: list[tuple[int, int, int]] = []
        times: list[int] = []
        broken_at = None
        while offset + _RECORD.size <= self._size:
            self._file.seek(offset)
            opcode, length = _RECORD.unpack(self._file.read(_RECORD.size))
            end = offset + _RECORD.size + length
            complete = end <= self._size
            if opcode == 0 or not complete:
                broken_at = offset
            if opcode == 0 or not (complete or opcode == Opcode.CHUNK):
                break
            ended = ended or opcode == Opcode.DATA_END
            if run and (opcode != Opcode.MESSAGE or offset - run[0][0] > RUN_BYTES):
                times += self._add_run(run, offset)
                run = []
            try:
                if opcode == Opcode.MESSAGE:
                    channel, _, log_ns, _ = _MESSAGE.unpack(self._file.read(_MESSAGE.size))
                    run.append((offset, channel, log_ns))
                elif opcode == Opcode.CHUNK:
                    times += self._add_chunk(offset, min(end, self._size) - offset, complete)
                elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL) and not ended:
                    self._define(opcode, self._file.read(length))
                elif opcode == Opcode.ATTACHMENT:
                    self._attachments.append(offset)
                elif opcode == Opcode.METADATA:
                    self._metadata.append(offset)
                elif opcode == Opcode.STATISTICS:  # what was cut out leaves no other trace
                    stored = Statistics.read(_Stream(self._file.read(length)))
                    self._counts |= Counter(stored.channel_message_counts)
            except Exception:  # whatever broken bytes lead a parser to
                broken_at = offset
                break
            offset = end
        if run:
            times += self._add_run(run, min(offset, self._size))
        self.start_ns, self.end_ns = min(times, default=0), max(times, default=0)
        if not ended:
            left = self._size - (offset if broken_at is None else broken_at)
            self._losses[self._size] = (
                f"{self.path} breaks off {left} bytes before its end, as if its recorder was "
                "killed; `mcap recover` makes a whole file of what can be read"
            )

    def _add_run(self, run: list[tuple[int, int, int]], end: int) -> list[int]:
        times = [log_ns for *_, log_ns in run]
        channels = frozenset(channel for _, channel, _ in run)
        start = run[0][0]
        self._blocks.append(_Block(start, end - start, min(times), False, channels))
        self._counts.update(channel for _, channel, _ in run)
        return times

    def _add_chunk(self, offset: int, length: int, complete: bool) -> list[int]:
        block = _Block(offset, length, 0, True, None, complete)
        found: list[tuple[int, int]] = []
        for channel, log_ns, _ in self._messages_of(block, define=True):
            found.append((channel, log_ns))
        times = [log_ns for _, log_ns in found]
        if found:
            channels = frozenset(channel for channel, _ in found)
            self._blocks.append(_Block(offset, length, min(times), True, channels, complete))
            self._counts.update(channel for channel, _ in found)
        return times

    def _define(self, opcode: int, body: bytes | memoryview) -> None:
        stream = _Stream(body)
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(stream)
            self._schemas[schema.id] = schema
        else:
            channel = Channel.read(stream)
            self._channels[channel.id] = channel

    def _record_at(self, offset: int) -> tuple[int, bytes]:
        self._file.seek(offset)
        opcode, length = _RECORD.unpack(self._file.read(_RECORD.size))
        return opcode, self._file.read(length)

    def _messages_of(
        self, block: _Block, *, define: bool = False
    ) -> Iterator[tuple[int, int, memoryview]]:
        """Channel, log time and content of a block's messages up to a damage, which is noted.

        The message right before a damage is left out: the damage may begin in it. define: whether
        schemas and channels in it are remembered.
        """
        last: tuple[int, int, memoryview] | None = None
        try:
            for opcode, body in _records(self._content(block)):
                if opcode == Opcode.MESSAGE:
                    if last is not None:
                        yield last
                    channel, _, log_ns, _ = _MESSAGE.unpack_from(body)
                    last = channel, log_ns, body[_MESSAGE.size :]
                elif define and opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                    self._define(opcode, body)
        except Exception as error:  # whatever broken bytes lead a parser to
            if block.complete:
                text = str(error) or type(error).__name__
                self._losses[block.offset] = (
                    f"{self.path} is damaged in the {block.length} bytes from byte {block.offset}: "
                    f"{text}"
                )
                return
        if last is not None:
            yield last

    def _content(self, block: _Block) -> bytes:
        """The records of a block, decompressed."""
        self._file.seek(block.offset)
        data = self._file.read(block.length)
        if not block.chunk:
            return data
        if data[:1] != bytes([Opcode.CHUNK]):
            raise _DamageError("no chunk begins there")
        chunk = Chunk.read(_Stream(data[_RECORD.size :]))
        if not block.complete:
            chunk.uncompressed_crc = 0  # of more than there is
        stream, length = get_chunk_data_stream(chunk, validate_crc=True)
        if block.complete and length != chunk.uncompressed_size:
            raise _DamageError(f"a chunk has {length} of {chunk.uncompressed_size} bytes")
        return stream.read(length)

    def _read_metadata(self) -> None:
        for offset in self._metadata:
            try:
                _, body = self._record_at(offset)
                record = Metadata.read(_Stream(body))
                if record.name != "rosbag2":
                    self.metadata.append((record.name, record.metadata))
                    continue
                content: dict = yaml.safe_load(record.metadata.get("serialized_metadata", "")) or {}
                content = content.get("rosbag2_bagfile_information", content)
                self.custom_data |= content.get("custom_data") or {}
                distro = record.metadata.get("ROS_DISTRO") or content.get("ros_distro")
                self.ros_distro = self.ros_distro or distro or ""
            except Exception as error:  # whatever broken bytes lead a parser to
                self._losses[offset] = f"{self.path}: a metadata record cannot be read: {error}"

    def _make_topics(self) -> list[Topic]:
        self._topic_of: dict[int, Topic] = {}
        foreign: set[str] = set()
        for index in self._counts.keys() - self._channels.keys():
            if self._counts[index]:
                self._losses[-1 - index] = (
                    f"{self.path}: {self._counts[index]} messages have no channel and are left out"
                )
        for index, channel in sorted(self._channels.items()):
            schema = self._schemas.get(channel.schema_id)
            encoding = channel.message_encoding
            count = self._counts[index]
            ros1 = encoding == "ros1" or (schema is not None and schema.encoding == "ros1msg")
            if ros1 or encoding not in _CDR or schema is None:
                what = "ROS 1" if ros1 else "untyped" if encoding in _CDR else encoding
                foreign.add(what)
                text = f"{channel.topic}: {count} {what} messages are left out"
                if count:
                    self._losses[-1 - index] = text
                else:
                    self.remarks.append(f"{channel.topic}: a {what} topic without messages")
                continue
            self._topic_of[index] = recorded_topic(
                channel.topic,
                schema.name,
                schema.data.decode("utf-8", "replace"),
                channel.metadata.get("topic_type_hash", ""),
                channel.metadata.get("offered_qos_profiles", ""),
                count,
                schema.encoding,
            )
        if "ROS 1" in foreign and not self._topic_of:
            raise BagError(
                f"{self.path} holds ROS 1 messages; convert the .bag that it was made from with "
                "`rosbags-convert --src NAME.bag --dst NAME`"
            )
        return merged(list(self._topic_of.values()))


def _records(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Opcode and content of the records one after the other. Raises _DamageError."""
    view, offset = memoryview(data), 0
    while offset < len(data):
        if offset + _RECORD.size > len(data):
            raise _DamageError(f"a record breaks off after {len(data) - offset} bytes")
        opcode, length = _RECORD.unpack_from(data, offset)
        begin = offset + _RECORD.size
        offset = begin + length
        if opcode == 0 or offset > len(data):
            raise _DamageError(f"a record of type {opcode} claims {length} bytes")
        yield opcode, view[begin:offset]
