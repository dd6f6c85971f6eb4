# SPDX-License-Identifier: Apache-2.0
"""zstandard as rosbag2 uses it: whole files NAME.db3.zstd, or every message by itself."""

from __future__ import annotations

from pathlib import Path

import zstandard  # comes with mcap

MAGIC = b"\x28\xb5\x2f\xfd"
"""Beginning of what is compressed (RFC 8878, 3.1.1). No serialized message begins so: its first
byte is 0 (DDS-XTypes 1.3, 7.6.2.1.2)."""

_READ_BYTES = 1 << 20


def unpack_message(raw: bytes) -> bytes | None:
    """Return the content of a compressed message, None if it is damaged or not complete."""
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    try:
        content = unpacker.decompress(raw)
    except zstandard.ZstdError:
        return None
    return content if unpacker.eof else None


def unpack_file(path: Path, target: Path) -> str:
    """Write the content of a compressed file to `target` as far as it can be read.

    Returns what is wrong with the file, empty if nothing is. Raises OSError.
    """
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    with path.open("rb") as source, target.open("wb") as file:
        try:
            while data := source.read(_READ_BYTES):
                while data:
                    if unpacker.eof:  # another frame follows
                        unpacker = zstandard.ZstdDecompressor().decompressobj()
                    file.write(unpacker.decompress(data))
                    data = unpacker.unused_data if unpacker.eof else b""
        except zstandard.ZstdError as error:
            return f"{path} is damaged after {file.tell()} bytes of its content: {error}"
        size = file.tell()
    return "" if unpacker.eof else f"{path} breaks off after {size} bytes of its content"
