# SPDX-License-Identifier: Apache-2.0
"""The header of a serialized message, without deserializing the rest.

CDR (OMG DDS-XTypes 1.3, 7.4): four bytes of encapsulation, of which the second tells the byte
order, then the fields. A message that begins with std_msgs/Header begins with its stamp and the
length of frame_id.
"""

from __future__ import annotations

import struct

ENCAPSULATION_BYTES = 4
STAMP_BYTES = 8
_SECOND_NS = 1_000_000_000


def stamp_ns(raw: bytes | bytearray) -> int | None:
    """Return the stamp of a message that begins with a header; None if it is too short."""
    if len(raw) < ENCAPSULATION_BYTES + STAMP_BYTES:
        return None
    sec, nanosec = struct.unpack_from(f"{_byte_order(raw)}iI", raw, ENCAPSULATION_BYTES)
    return sec * _SECOND_NS + nanosec


def set_stamp(raw: bytearray, time_ns: int) -> None:
    """Write a stamp into a message that begins with a header."""
    layout = f"{_byte_order(raw)}iI"
    struct.pack_into(layout, raw, ENCAPSULATION_BYTES, *divmod(time_ns, _SECOND_NS))


def moved_stamp(raw: bytes, time_ns: int) -> bytes:
    """Return the message with another stamp."""
    moved = bytearray(raw)
    set_stamp(moved, time_ns)
    return bytes(moved)


def header_bytes(raw: bytes) -> bytes:
    """Return stamp and frame_id of a message that begins with a header, as they are in it."""
    at = ENCAPSULATION_BYTES + STAMP_BYTES
    (length,) = struct.unpack_from(f"{_byte_order(raw)}I", raw, at)
    return bytes(raw[ENCAPSULATION_BYTES : at + 4 + length])


def _byte_order(raw: bytes | bytearray) -> str:
    return "<" if raw[1] & 1 else ">"  # CDR_LE is 1, CDR_BE is 0


def packed_header(time_ns: int, frame_id: str) -> bytes:
    """Return what `header_bytes` gives for a header, in little-endian order."""
    text = f"{frame_id}\0".encode()
    return struct.pack("<iII", *divmod(time_ns, _SECOND_NS), len(text)) + text


def header_stamp_ns(header: bytes) -> int:
    """Return the stamp of what `header_bytes` gives, in little-endian order."""
    sec, nanosec = struct.unpack_from("<iI", header)
    return sec * _SECOND_NS + nanosec
