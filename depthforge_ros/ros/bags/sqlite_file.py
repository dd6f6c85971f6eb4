# SPDX-License-Identifier: Apache-2.0
"""Reads one sqlite3 file of rosbag2, also one whose recorder was killed.

A killed recorder leaves messages in NAME.db3-wal, SQLite's write-ahead log
(https://sqlite.org/wal.html), which is read with the file and changes neither.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

import yaml

from depthforge_ros.ros.bags.topic import BagError, Topic, recorded_topic

LOG_MAGIC = b"\x37\x7f\x06"
"""Beginning of a write-ahead log (https://sqlite.org/fileformat2.html#walformat)."""


class SqliteFile:
    """One .db3 file open for reading, with the attributes of McapFile.

    named: what its path is called in messages, if it is a copy. Raises BagError if nothing
    in it can be read.
    """

    def __init__(self, path: Path, named: Path | None = None) -> None:
        self.path = named or path
        # The files that SQLite keeps beside it are there, whatever links lead to it.
        self._place = path.resolve()
        self.remarks: list[str] = []
        self.custom_data: dict[str, str] = {}
        self.ros_distro = ""
        self.metadata: list[tuple[str, dict[str, str]]] = []
        self.topics: list[Topic] = []
        self.start_ns = self.end_ns = 0
        self._losses: list[str] = []
        self._topic_of: dict[int, Topic] = {}
        self._damaged = False
        self._stack = ExitStack()
        try:
            self._database = self._open()
            self._read_topics()
        except sqlite3.Error as error:
            self.close()
            raise BagError(f"{path} cannot be read: {error}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def losses(self) -> list[str]:
        """Return what could not be read so far, or was left out."""
        return self._losses

    def attachments(self) -> Iterator:
        """Return nothing: sqlite3 has no attachments."""
        return iter(())

    def messages(self, names: Collection[str]) -> Iterator[tuple[str, str, int, bytes]]:
        """Topic, type, log time [ns] and serialized message, in the order of log times."""
        chosen = {index: topic for index, topic in self._topic_of.items() if topic.name in names}
        # A damaged file is read in the order of its pages, which needs no index.
        order = "id" if self._damaged else "timestamp, id"
        places = ",".join("?" * len(chosen))
        query = (
            f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({places}) "
            f"ORDER BY {order}"
        )
        try:
            for index, time_ns, raw in self._database.execute(query, tuple(chosen)):
                if isinstance(time_ns, int) and isinstance(raw, bytes):  # else damaged, not counted
                    yield chosen[index].name, chosen[index].kind, time_ns, raw
        except sqlite3.Error as error:
            self._lose(f"{self.path} breaks off: {error}")

    def _open(self) -> sqlite3.Connection:
        place = self._place
        log = place.with_name(f"{place.name}-wal")
        journal = place.with_name(f"{place.name}-journal")
        if journal.is_file() and journal.stat().st_size:
            self._lose(
                f"{self.path} has a rollback journal: its recorder was killed while it wrote, and "
                "the last messages may be wrong or missing"
            )
        if not (log.is_file() and log.stat().st_size):
            return self._connected(place, "mode=ro&immutable=1")
        with log.open("rb") as file:
            if file.read(len(LOG_MAGIC)) != LOG_MAGIC:
                self._lose(f"{log} is damaged: SQLite ignores it, and with it the last messages")
        index = place.with_name(f"{place.name}-shm")
        if not index.exists():  # SQLite leaves it behind
            self._stack.callback(index.unlink, missing_ok=True)
        self.remarks.append(f"{self.path} has a write-ahead log, which is read with it")
        with suppress(sqlite3.Error):
            return self._connected(place, "mode=ro")
        # SQLite needs to write its index of the log beside the file.
        copy = Path(self._stack.enter_context(tempfile.TemporaryDirectory())) / place.name
        shutil.copyfile(place, copy)
        shutil.copyfile(log, copy.with_name(f"{copy.name}-wal"))
        return self._connected(copy, "mode=ro")

    def _connected(self, path: Path, options: str) -> sqlite3.Connection:
        # Played by one thread and closed by another.
        uri = f"file:{quote(str(path))}?{options}"
        database = sqlite3.connect(uri, uri=True, check_same_thread=False)
        database.text_factory = _text
        count = "SELECT count(*) FROM sqlite_master"
        try:
            try:
                database.execute(count).fetchone()
            except sqlite3.DatabaseError:
                # Makes SQLite accept a file that is shorter than its first page says.
                database.execute("PRAGMA writable_schema = ON")
                database.execute(count).fetchone()
        except BaseException:
            database.close()
            raise
        self._stack.callback(database.close)
        return database

    def _read_topics(self) -> None:
        tables = {row["name"] for row in self._rows("sqlite_master")}
        if not {"topics", "messages"} <= tables:
            raise BagError(f"{self.path} is no bag: it lacks the tables topics and messages")
        topics = self._rows("topics", required=True)
        definitions = {row["topic_type"]: row for row in self._rows("message_definitions")}
        counts = self._count()
        for row in topics:
            count = counts.pop(row["id"], 0)
            encoding = row.get("serialization_format", "cdr")
            if encoding != "cdr":
                text = f"{row['name']}: {count} {encoding} messages are left out"
                if count:
                    self._lose(text)
                else:
                    self.remarks.append(f"{row['name']}: a {encoding} topic without messages")
                continue
            definition = definitions.get(row["type"], {})
            self._topic_of[row["id"]] = recorded_topic(
                str(row["name"]),
                str(row["type"]),
                definition.get("encoded_message_definition") or "",
                row.get("type_description_hash") or "",
                row.get("offered_qos_profiles") or "",
                count,
                definition.get("encoding") or "",
            )
        if counts.total():
            self._lose(f"{self.path}: {counts.total()} messages have no topic and are left out")
        self.topics = list(self._topic_of.values())
        for row in self._rows("schema"):
            self.ros_distro = row.get("ros_distro", "")
        for row in self._rows("metadata"):
            with suppress(yaml.YAMLError, AttributeError, TypeError, ValueError):
                content: dict = yaml.safe_load(row["metadata"]) or {}
                content = content.get("rosbag2_bagfile_information", content)
                self.custom_data |= content.get("custom_data") or {}

    def _count(self) -> Counter[int]:
        """Messages by topic, as far as the file can be read."""
        try:
            found = self._database.execute(
                "SELECT min(timestamp), max(timestamp) FROM messages "
                "WHERE typeof(timestamp) = 'integer'"
            )
            self.start_ns, self.end_ns = (time or 0 for time in found.fetchone())
            by_topic = "SELECT topic_id, count(*) FROM messages GROUP BY topic_id"
            return Counter(dict(self._database.execute(by_topic)))
        except sqlite3.Error as error:
            self._damaged = True
            self._lose(f"{self.path} is damaged: {error}")
        counts: Counter[int] = Counter()
        with suppress(sqlite3.Error):
            for index, time_ns in self._database.execute(
                "SELECT topic_id, timestamp FROM messages "
                "WHERE typeof(timestamp) = 'integer' ORDER BY id"
            ):
                counts[index] += 1
                self.start_ns = min(self.start_ns or time_ns, time_ns)
                self.end_ns = max(self.end_ns, time_ns)
        return counts

    def _rows(self, table: str, *, required: bool = False) -> list[dict]:
        """Return the rows of a table by column.

        Nothing if an older release does not have it or it is damaged, unless it is required.
        """
        try:
            found = self._database.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found]
        except sqlite3.Error:
            if required:
                raise
            return []

    def _lose(self, text: str) -> None:
        if text not in self._losses:
            self._losses.append(text)


def _text(content: bytes) -> str:
    """A text of the database, which SQLite does not check; rosbag2 writes UTF-8."""
    return content.decode("utf-8", "replace")
