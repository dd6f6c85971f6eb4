# SPDX-License-Identifier: Apache-2.0
"""Writes MCAP files with what rosbags' own writer lacks: attachments, metadata records and CRCs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import StoragePlugin, Writer

from depthforge_ros import __version__

if TYPE_CHECKING:
    from mcap.records import Attachment


class _McapStorage:
    """A storage as rosbags' Writer drives it."""

    def __init__(self, folder: Path, _: object) -> None:
        self.path = folder / f"{folder.name}.mcap"
        self._file = self.path.open("xb")
        self.writer = McapWriter(self._file, compression=CompressionType.NONE)
        self.writer.start(profile="ros2", library=f"depthforge_ros {__version__}")
        self._schemas: dict[tuple[str, str], int] = {}
        self._channels: dict[int, int] = {}
        self.encodings: dict[str, str] = {}
        """Languages by definition; those that are not here tell their own."""

    def add_msgtype(self, connection: Connection) -> None:
        """Do nothing: a type may have several definitions, of which each topic has one."""

    def _schema(self, connection: Connection) -> int:
        text = connection.msgdef.data
        if (connection.msgtype, text) not in self._schemas:
            is_idl = connection.msgdef.format == MessageDefinitionFormat.IDL
            encoding = self.encodings.get(text) or ("ros2idl" if is_idl else "ros2msg")
            self._schemas[connection.msgtype, text] = self.writer.register_schema(
                connection.msgtype, encoding, text.encode()
            )
        return self._schemas[connection.msgtype, text]

    def add_connection(self, connection: Connection, offered_qos_profiles: str) -> None:
        """Add a topic."""
        metadata = {"offered_qos_profiles": offered_qos_profiles}
        metadata["topic_type_hash"] = connection.digest
        self._channels[connection.id] = self.writer.register_channel(
            connection.topic, "cdr", self._schema(connection), metadata
        )

    def write(self, connection: Connection, timestamp: int, data: bytes) -> None:
        """Add a message."""
        self.writer.add_message(self._channels[connection.id], timestamp, data, timestamp)

    def close(self, version: int, metadata: str) -> None:
        """Write what belongs to the end of the file."""
        del version
        self.writer.add_metadata("rosbag2", {"serialized_metadata": metadata})
        self.writer.finish()
        self._file.close()

    def abort(self) -> None:
        """Close the file without its end."""
        with suppress(OSError):  # a full disk, on which the rest of a buffer does not fit
            self._file.close()


class BagWriter(Writer):
    """rosbags' writer of a bag, with the MCAP storage of this module."""

    STORAGE_PLUGINS: ClassVar = {  # type: ignore[misc]  # rosbags names no type for it
        **Writer.STORAGE_PLUGINS,
        StoragePlugin.MCAP: _McapStorage,  # type: ignore[dict-item]
    }

    def set_encodings(self, encodings: Mapping[str, str]) -> None:
        """Set the languages of definitions, in MCAP files. rosbags knows ros2msg and ros2idl."""
        if isinstance(self.storage, _McapStorage):
            self.storage.encodings.update(encodings)

    def keep(
        self, attachments: Iterable[Attachment], metadata: Iterable[tuple[str, Mapping[str, str]]]
    ) -> None:
        """Add attachments and metadata records to an MCAP file. Others have no place for them."""
        if not isinstance(self.storage, _McapStorage):
            return
        for name, content in metadata:
            self.storage.writer.add_metadata(name, dict(content))
        for record in attachments:
            self.storage.writer.add_attachment(
                create_time=record.create_time,
                log_time=record.log_time,
                name=record.name,
                media_type=record.media_type,
                data=record.data,
            )
