# SPDX-License-Identifier: Apache-2.0
"""Camera images, raw or compressed, to frames. No node, no torch. Read `ImageReader` first.

Whatever a camera driver, a bag or a broken cable delivers becomes either an RGB image or a BadImage
with a cause to count it by. Sizes are checked before anything is allocated or decoded.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from depthforge_ros.frame import MAX_ASPECT, MIN_SIDE_PX, Frame
from depthforge_ros.ros.jpeg_png import FileError, declared_size, decode_file

if TYPE_CHECKING:
    from cv_bridge import CvBridge


def _working_bridge() -> CvBridge | None:
    """Return cv_bridge if it converts images, None otherwise.

    A distribution's cv_bridge loads its compiled half only when first used, and that fails beside
    another numpy; OpenCV does the conversions then.
    """
    try:
        from cv_bridge import CvBridge

        bridge = CvBridge()
        gray = Image(height=1, width=1, encoding="mono8", step=1, data=array.array("B", [7]))
        bridge.imgmsg_to_cv2(gray, "rgb8")
    except Exception:  # whatever a broken binary raises
        return None
    return bridge


_BRIDGE = _working_bridge()


def bridge_works() -> bool:
    """Return whether cv_bridge converts images; OpenCV does otherwise."""
    return _BRIDGE is not None


MAX_PIXELS = 64_000_000
"""Largest accepted image, raw or compressed: a corrupt header must not become an allocation."""

SAMPLE_BITS = (10, 12, 14, 16)
"""Significant bits that are recognised in 16-bit samples. Sensors of 10, 12 and 14 bits are
published in the low bits of mono16, bayer_*16 and the like by many drivers."""


@dataclass(frozen=True)
class _Encoding:
    """Memory layout of an encoding and its OpenCV conversion to RGB (None: not by cvtColor).

    channels, sample_bytes: of a pixel of the first plane. chroma: which planes follow it; "" for
    interleaved pixels. paired: whether the width must be even (4:2:2) or both sides (4:2:0).
    """

    channels: int
    sample_bytes: int
    code: int | None
    chroma: str = ""
    paired: bool = False


# OpenCV names a Bayer pattern by its second row, ROS by its first. All YUV is BT.601 limited range.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_CODES = {
    "rgb": (3, None),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
    "mono": (1, cv2.COLOR_GRAY2RGB),
    **{f"bayer_{pattern}": (1, code) for pattern, code in _BAYER.items()},
}
_UYVY = _Encoding(2, 1, cv2.COLOR_YUV2RGB_UYVY, paired=True)
_YUYV = _Encoding(2, 1, cv2.COLOR_YUV2RGB_YUY2, paired=True)
_I420 = _Encoding(1, 1, cv2.COLOR_YUV2RGB_I420, chroma="planar 4:2:0", paired=True)
_ENCODINGS: dict[str, _Encoding] = {
    **{f"{name}8": _Encoding(channels, 1, code) for name, (channels, code) in _CODES.items()},
    **{f"{name}16": _Encoding(channels, 2, code) for name, (channels, code) in _CODES.items()},
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": _Encoding(1, 1, cv2.COLOR_YUV2RGB_NV12, chroma="interleaved 4:2:0", paired=True),
    "nv21": _Encoding(1, 1, cv2.COLOR_YUV2RGB_NV21, chroma="interleaved 4:2:0", paired=True),
    "nv24": _Encoding(1, 1, None, chroma="interleaved 4:4:4"),
    "nv42": _Encoding(1, 1, None, chroma="interleaved 4:4:4"),
    "yuv420": _I420,
    "i420": _I420,
    "yv12": _Encoding(1, 1, cv2.COLOR_YUV2RGB_YV12, chroma="planar 4:2:0", paired=True),
}
# OpenCV's type names, as cv_bridge's `passthrough` publishes them: channels in OpenCV's order.
_ALIASES = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8"}
_ALIASES |= {"16UC1": "mono16", "16UC3": "bgr16", "16UC4": "bgra16"}
_ENCODINGS |= {alias: _ENCODINGS[name] for alias, name in _ALIASES.items()}

INPUT_ENCODINGS: tuple[str, ...] = tuple(_ENCODINGS)
"""Image encodings that `ImageReader` takes: those of sensor_msgs/image_encodings that are pictures,
and the planar YUV that drivers send."""

# What every cv_bridge defines alike. They differ in the rounding of mono16, and most lack YUV.
_BRIDGED = {
    *("bgr8", "rgba8", "bgra8", "mono8"),
    *(f"bayer_{pattern}8" for pattern in _BAYER),
}

# BT.601 limited range, Y Cb Cr 0..255 to R G B (ITU-R BT.601-7, section 2.5).
_KR, _KB = 0.299, 0.114
_LUMA, _CHROMA = 255 / 219, 255 / 224
_RED, _BLUE = 2 * (1 - _KR) * _CHROMA, 2 * (1 - _KB) * _CHROMA
_GREEN = (-_BLUE * _KB / (1 - _KR - _KB), -_RED * _KR / (1 - _KR - _KB))
_YUV_TO_RGB = np.array(
    [
        [_LUMA, 0, _RED, -16 * _LUMA - 128 * _RED],
        [_LUMA, *_GREEN, -16 * _LUMA - 128 * sum(_GREEN)],
        [_LUMA, _BLUE, 0, -16 * _LUMA - 128 * _BLUE],
    ]
)


class BadImage(ValueError):  # noqa: N818 - an image, not a fault of the program
    """An image that cannot become a frame. cause: a short snake_case name to count drops by.

    Causes: zero_size, too_small, too_large, bad_aspect, odd_size, unknown_encoding, wrong_step,
    short_data, long_data, corrupt_image.
    """

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


def stamp_ns(header: Header) -> int:
    """Return the header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


class ImageReader:
    """Converts the images of one camera to frames.

    The significant bits of 16-bit samples are found from the largest value that the camera has sent
    so far: the smallest of SAMPLE_BITS that holds it, never fewer than for an earlier image.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget the bits that were found."""
        self.sample_bits: int | None = None
        """Bits of the latest image's samples if they have 16; None otherwise."""
        self.description = ""
        """Encoding of the latest image, for people."""
        self._found_bits = SAMPLE_BITS[0]

    def __call__(
        self, msg: Image | CompressedImage, encoding: str = "", sample_bits: int = 0
    ) -> Frame:
        """Return the frame of a message; rgb8 without padding is not copied.

        encoding: of the pixels, in place of the message's own; empty: as the message says.
        sample_bits: significant bits of 16-bit samples, 9..16; 0: found. Raises BadImage.
        """
        self.sample_bits = None
        if isinstance(msg, Image):
            rgb = self._raw(msg, encoding or msg.encoding, sample_bits)
        else:
            rgb = self._compressed(msg, encoding, sample_bits)
        named = msg.encoding if isinstance(msg, Image) else msg.format
        self.description = f"{encoding} (message: {named})" if encoding else named
        if self.sample_bits:
            self.description += f", {self.sample_bits} bits"
        return Frame(rgb, stamp_ns(msg.header), msg.header.frame_id)

    def _raw(self, msg: Image, encoding: str, sample_bits: int) -> np.ndarray:
        """RGB [H, W, 3] of a raw image."""
        name = _ALIASES.get(encoding, encoding)
        if name not in _ENCODINGS:
            raise BadImage(
                "unknown_encoding",
                f"encoding is {encoding!r}; expected one of {', '.join(INPUT_ENCODINGS)}",
            )
        kind = _ENCODINGS[name]
        _check_size(msg.width, msg.height)
        planes = _planes(msg, name)
        if kind.chroma:
            return _from_yuv_planes(planes, name, msg.width, msg.height)
        rows = planes[0]
        if name in _BRIDGED and name == msg.encoding and rows.shape[1] == msg.step:
            rgb = _bridged(msg)
            if rgb is not None:
                return rgb
        if kind.sample_bytes == 2:
            samples = rows.view(">u2" if msg.is_bigendian else "<u2")  # [H, W · channels]
            rows = self._eight_bits(samples, sample_bits)
        if kind.channels > 1:
            rows = rows.reshape(len(rows), -1, kind.channels)  # [H, W, channels]
        return _converted(rows, kind)

    def _compressed(self, msg: CompressedImage, encoding: str, sample_bits: int) -> np.ndarray:
        """RGB [H, W, 3] of a JPEG or PNG image, with the format strings of image_transport.

        EXIF rotation is ignored, as the intrinsics know nothing of it.
        """
        source, _, packing = msg.format.partition(";")
        source, packing = source.strip(), packing.lower() or source.lower()
        known = any(name in packing for name in ("jpeg", "jpg", "png"))
        if not known or "depth" in packing:
            raise BadImage("unknown_encoding", f"format is {msg.format!r}; expected jpeg or png")
        data = memoryview(msg.data)
        try:
            _check_size(*declared_size(data))
            image = decode_file(data)
        except FileError as error:
            raise BadImage("corrupt_image", f"{msg.format!r} image: {error}") from error
        if image.dtype == np.uint16:
            image = self._eight_bits(image, sample_bits)
        name = encoding or source
        name = _ALIASES.get(name, name)
        if image.ndim == 2:
            # image_transport compresses a Bayer mosaic as if it were grey.
            name = name if name.startswith("bayer_") else "mono8"
            if name not in _ENCODINGS:
                raise BadImage(
                    "unknown_encoding", f"format is {msg.format!r}; expected a known Bayer pattern"
                )
            return _converted(image, _ENCODINGS[name])
        # Files hold blue, green, red as OpenCV decodes them, unless the driver did not swap them to
        # what OpenCV expects when it compressed, or called red what is blue.
        swapped = "compressed rgb" in packing
        if encoding and {encoding[:3], source[:3]} == {"rgb", "bgr"}:
            swapped = not swapped
        return image if swapped else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _eight_bits(self, samples: np.ndarray, sample_bits: int) -> np.ndarray:
        """The eight highest significant bits of 16-bit samples, of the same shape, uint8."""
        if not sample_bits:
            largest = int(samples.max())
            needed = next(bits for bits in SAMPLE_BITS if largest < 1 << bits)
            sample_bits = self._found_bits = max(self._found_bits, needed)
        self.sample_bits = sample_bits
        # In the byte order of the machine, in which numpy is fast. A sample beyond the bits that
        # were given is white, not black.
        shifted = samples.astype(np.uint16) >> (sample_bits - 8)
        return np.minimum(shifted, 255, out=shifted).astype(np.uint8)


def frame_from_image(msg: Image) -> Frame:
    """Return the frame of one raw image by itself. Raises BadImage."""
    return ImageReader()(msg)


def frame_from_compressed(msg: CompressedImage) -> Frame:
    """Return the frame of one compressed image by itself. Raises BadImage."""
    return ImageReader()(msg)


def image_size(msg: Image | CompressedImage) -> tuple[int, int] | None:
    """Return height and width as the message declares them; None if a file in it declares none."""
    if isinstance(msg, Image):
        return msg.height, msg.width
    try:
        width, height = declared_size(memoryview(msg.data))
    except FileError:
        return None
    return height, width


def _check_size(width: int, height: int) -> None:
    """Raise BadImage if no frame can have that size. Nothing is allocated before this."""
    size = f"image is {width}x{height}"
    if not width or not height:
        raise BadImage("zero_size", f"{size}; expected at least {MIN_SIDE_PX} pixels a side")
    if width * height > MAX_PIXELS:
        raise BadImage("too_large", f"{size}; expected at most {MAX_PIXELS} pixels")
    if min(width, height) < MIN_SIDE_PX:
        raise BadImage("too_small", f"{size}; expected at least {MIN_SIDE_PX} pixels a side")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage("bad_aspect", f"{size}; expected an aspect ratio of at most {MAX_ASPECT}:1")


def _planes(msg: Image, name: str) -> list[np.ndarray]:
    """The rows of each plane without their padding, views: [rows, bytes] uint8 each."""
    kind, width, height = _ENCODINGS[name], msg.width, msg.height
    if kind.paired and (width % 2 or (kind.chroma and height % 2)):
        raise BadImage("odd_size", f"{name} image is {width}x{height}; expected even sides")
    row_bytes = width * kind.channels * kind.sample_bytes
    if msg.step < row_bytes:
        raise BadImage(
            "wrong_step",
            f"step is {msg.step}; expected at least {row_bytes} for {width} {name}",
        )
    if kind.chroma.startswith("planar") and msg.step % 2:
        raise BadImage("wrong_step", f"step is {msg.step}; expected an even one for {name}")
    # Rows, bytes and step of each plane. Chroma rows are padded in proportion, as V4L2 does it.
    layouts = [(height, row_bytes, msg.step)]
    layouts += {
        "": [],
        "interleaved 4:2:0": [(height // 2, width, msg.step)],
        "interleaved 4:4:4": [(height, 2 * width, 2 * msg.step)],
        "planar 4:2:0": [(height // 2, width // 2, msg.step // 2)] * 2,
    }[kind.chroma]
    data = np.frombuffer(msg.data, np.uint8)
    most = sum(rows * step for rows, _, step in layouts)
    _, last_bytes, last_step = layouts[-1]
    least = most - last_step + last_bytes  # some drivers leave out the padding of the last row
    if not least <= data.size <= most:
        raise BadImage(
            "short_data" if data.size < least else "long_data",
            f"{width}x{height} {name} image with step {msg.step} has "
            f"{data.size} bytes; expected {most}",
        )
    planes, offset = [], 0
    for rows, plane_bytes, step in layouts:
        planes.append(
            np.lib.stride_tricks.as_strided(data[offset:], (rows, plane_bytes), (step, 1))
        )
        offset += rows * step
    return planes


def _from_yuv_planes(
    planes: Sequence[np.ndarray], name: str, width: int, height: int
) -> np.ndarray:
    """RGB [H, W, 3] from a luma plane and chroma planes [rows, bytes] uint8."""
    code = _ENCODINGS[name].code
    if code is not None:
        stacked = np.concatenate([plane.reshape(-1) for plane in planes])
        return cv2.cvtColor(stacked.reshape(height * 3 // 2, width), code)
    luma, chroma = planes[0], planes[1].reshape(height, width, 2)
    first, second = (0, 1) if name == "nv24" else (1, 0)  # of blue and red difference
    yuv = np.stack([luma, chroma[..., first], chroma[..., second]], -1)  # [H, W, 3]
    return cv2.transform(yuv, _YUV_TO_RGB)


def _bridged(msg: Image) -> np.ndarray | None:
    """RGB [H, W, 3] by cv_bridge, or None if the installed one cannot do it.

    The cv_bridge of Python wheels ignores `step`, so padded rows are not for it; it lacks
    bayer_grbg8 (KeyError), and miscounts channels beside OpenCV 5 (TypeError).
    """
    if _BRIDGE is None:
        return None
    try:
        return _BRIDGE.imgmsg_to_cv2(msg, "rgb8")
    except (KeyError, TypeError):  # CvBridgeError is a TypeError
        return None


def _converted(image: np.ndarray, kind: _Encoding) -> np.ndarray:
    """RGB [H, W, 3] from pixels [H, W] or [H, W, channels] uint8, by OpenCV."""
    if kind.code is None:
        return np.ascontiguousarray(image)
    return cv2.cvtColor(image, kind.code)
