# SPDX-License-Identifier: Apache-2.0
"""JPEG and PNG files as cameras send them: their size before decoding, and whether data is missing.

OpenCV fills what is missing in a JPEG with grey and reports nothing, so JPEG is decoded by
libjpeg-turbo (package simplejpeg), which reports a premature end of the data, if it is installed.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import cv2
import numpy as np

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

STRICT_JPEG = simplejpeg is not None
"""Whether JPEG images with missing data but an end marker are recognised."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = struct.pack(">I4sI", 0, b"IEND", 0xAE426082)
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_PROGRESSIVE = 0xC2

MAX_FOREIGN_BYTES = 64
"""A JPEG whose pixels are complete may be followed by so many bytes before its end marker, or by
any number of equal ones: webcams pad that way. More is image data that the decoder did not reach,
because it lost its place in what comes before."""


class FileError(ValueError):
    """A file that is no JPEG or PNG, or is damaged; the text says what is wrong."""


@dataclass(frozen=True)
class _JpegHead:
    """What precedes the image data. scan: offset of the data. components: of the first scan.

    foreign: ranges of bytes between the segments that belong to none.
    """

    width: int
    height: int
    frame_type: int
    frame_components: int
    scan_components: int
    scan: int
    foreign: tuple[tuple[int, int], ...]


def declared_size(data: memoryview) -> tuple[int, int]:
    """Return width and height that a JPEG or PNG file declares. Raises FileError."""
    if data[:8] == _PNG_SIGNATURE:
        if len(data) < 24:
            raise FileError(f"png of {len(data)} bytes has no header")
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    head = _jpeg_head(data)
    return head.width, head.height


def decode_file(data: memoryview) -> np.ndarray:
    """Return the pixels of a JPEG or PNG file: grey [H, W], or blue, green, red [H, W, 3].

    uint8, or uint16 for a PNG of 16 bits. A file that lacks only its end marker is complete.
    Raises FileError if pixels are missing.
    """
    width, height = declared_size(data)
    try:
        image = _decode_png(data) if data[:8] == _PNG_SIGNATURE else _decode_jpeg(data)
    except cv2.error as error:
        raise FileError(str(error)) from error
    if image is None or image.shape[:2] != (height, width):
        raise FileError(f"{len(data)} bytes cannot be decoded to {width}x{height} pixels")
    return image


def _decode_png(data: memoryview) -> np.ndarray | None:
    position = len(_PNG_SIGNATURE)
    kind = b""
    while position + 12 <= len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
    if position > len(data):
        raise FileError(f"png of {len(data)} bytes has no end")
    if kind != b"IEND":
        if position != len(data):
            raise FileError(f"png of {len(data)} bytes has no end")
        data = memoryview(bytes(data) + _PNG_END)
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def _decode_jpeg(data: memoryview) -> np.ndarray | None:
    head = _jpeg_head(data)
    content = bytes(data)
    for start, stop in reversed(head.foreign):
        content = content[:start] + content[stop:]
    scan = head.scan - sum(stop - start for start, stop in head.foreign)
    if content.find(_END_OF_IMAGE, scan) < 0:  # inside a scan 0xFF is never followed by 0xD9
        one_scan = head.scan_components == head.frame_components
        if head.frame_type == _PROGRESSIVE or not one_scan or not STRICT_JPEG:
            raise FileError(f"jpeg of {len(data)} bytes has no end")
        content += _END_OF_IMAGE
    if simplejpeg is not None and head.frame_components == 4:
        _decode_strictly(content, "CMYK", scan)  # which only OpenCV converts
    if simplejpeg is None or head.frame_components not in (1, 3):
        flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    colors = "GRAY" if head.frame_components == 1 else "BGR"
    image = _decode_strictly(content, colors, scan)
    return image[..., 0] if colors == "GRAY" else image


def _decode_strictly(content: bytes, colors: str, scan: int) -> np.ndarray:
    """Return the pixels [H, W, channels] uint8 of a JPEG. Raises FileError if some are missing."""
    try:
        return simplejpeg.decode_jpeg(content, colors)
    except ValueError as error:
        if not _only_padded(str(error), content, scan):
            raise FileError(str(error)) from error
        return simplejpeg.decode_jpeg(content, colors, strict=False)


def _only_padded(warning: str, content: bytes, scan: int) -> bool:
    """Return whether libjpeg warns of nothing but padding before the end marker."""
    found = re.search(r"(\d+) extraneous bytes before marker 0xd9", warning)
    if found is None:
        return False
    count, end = int(found[1]), content.find(_END_OF_IMAGE, scan)
    return count <= MAX_FOREIGN_BYTES or len(set(content[end - count : end])) == 1


def _jpeg_head(data: memoryview) -> _JpegHead:
    """Read a JPEG up to its first scan (ITU-T T.81, annex B). Raises FileError."""
    size = (0, 0, 0, 0)
    foreign = []
    position = 2 if data[:2] == b"\xff\xd8" else len(data)
    while position + 9 <= len(data):
        if data[position] != 0xFF or data[position + 1] in (0x00, 0xFF):
            # Fill bytes, or bytes of no segment, which decoders skip.
            start = position
            while position + 1 < len(data) and (
                data[position] != 0xFF or data[position + 1] in (0x00, 0xFF)
            ):
                position += 1
            foreign.append((start, position))
            continue
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from(">HH", data, position + 5)
            components = data[position + 9] if position + 9 < len(data) else 0
            size = (width, height, marker, components)
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker == _START_OF_SCAN:
            if size == (0, 0, 0, 0):
                break
            scan = position + 2 + length
            return _JpegHead(*size, data[position + 4], scan, tuple(foreign))
        position += 2 + length
    raise FileError(f"{len(data)} bytes are not a jpeg or png file with image data")
