# SPDX-License-Identifier: Apache-2.0
"""ROS messages to frames, and predictions to ROS messages. No node, no torch.

Whatever a camera driver, a bag or a broken cable delivers is either an RGB image or a BadImage
whose cause can be counted. Sizes are checked before anything is allocated or decoded.
"""

from __future__ import annotations

import array
import json
import math
import struct
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from depthforge_ros.frame import MAX_ASPECT, MIN_SIDE_PX, UNLABELLED, Frame
from depthforge_ros.variant import LabelSet

if TYPE_CHECKING:
    from cv_bridge import CvBridge


def _working_bridge() -> CvBridge | None:
    """cv_bridge, if it converts. A distribution's loads its compiled half only when first used,
    and that fails beside another numpy; OpenCV does the conversions then.
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
    """Whether images are converted by cv_bridge, and not by OpenCV in its place."""
    return _BRIDGE is not None


MAX_PIXELS = 64_000_000
"""Largest image taken, raw or compressed: a corrupt header must not become an allocation."""

# Bytes of one pixel in a row, and the OpenCV conversion to RGB (None: no conversion by OpenCV).
# OpenCV names a Bayer pattern by its second row, ROS by its first. yuv422 is UYVY, and all yuv is
# BT.601 limited range.
_ENCODINGS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "mono16": (2, cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
    "nv12": (1, cv2.COLOR_YUV2RGB_NV12),
}
INPUT_ENCODINGS: tuple[str, ...] = tuple(_ENCODINGS)
"""Image encodings that `frame_from_image` takes."""

# What every cv_bridge defines alike. They differ in the rounding of mono16, and most lack yuv.
_BRIDGED = {name for name in _ENCODINGS if name.startswith(("bgr", "rgba", "bayer", "mono8"))}

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class BadImage(ValueError):  # noqa: N818 - an image, not a fault of the program
    """An image that cannot become a frame. cause: a short snake_case name to count drops by.

    Causes: zero_size, too_small, too_large, bad_aspect, odd_size, unknown_encoding, wrong_step,
    short_data, long_data, corrupt_image.
    """

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


def stamp_ns(header: Header) -> int:
    """The header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def frame_from_image(msg: Image) -> Frame:
    """A frame from a raw image in one of INPUT_ENCODINGS; rgb8 without padding is not copied.

    mono16 keeps its high byte. Raises BadImage.
    """
    if msg.encoding not in _ENCODINGS:
        raise BadImage(
            "unknown_encoding",
            f"encoding is {msg.encoding!r}; expected one of {', '.join(INPUT_ENCODINGS)}",
        )
    _check_size(msg.width, msg.height)
    rows = _rows(msg)
    rgb = _bridged(msg, padded=rows.shape[1] != msg.step)
    if rgb is None:
        rgb = _converted(rows, msg.encoding, msg.is_bigendian)
    return Frame(rgb, stamp_ns(msg.header), msg.header.frame_id)


def frame_from_compressed(msg: CompressedImage) -> Frame:
    """A frame from a JPEG or PNG image, with the format strings of image_transport.

    EXIF rotation is ignored, as the intrinsics know nothing of it. Raises BadImage, before
    decoding where the declared size is out of bounds.
    """
    source, _, packing = msg.format.lower().rpartition(";")
    if not any(name in packing for name in ("jpeg", "jpg", "png")) or "depth" in packing:
        raise BadImage("unknown_encoding", f"format is {msg.format!r}; expected jpeg or png")
    data = memoryview(msg.data)
    width, height = _declared_size(data)
    _check_size(width, height)
    try:
        flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadImage("corrupt_image", f"{msg.format!r} image: {error}") from error
    if image is None or image.shape[:2] != (height, width):
        raise BadImage(
            "corrupt_image", f"{msg.format!r} image of {len(data)} bytes cannot be decoded"
        )
    if image.ndim == 2:
        # image_transport compresses a Bayer mosaic as if it were grey.
        encoding = source.strip() if source.startswith("bayer_") else "mono8"
        if encoding not in _ENCODINGS:
            raise BadImage("unknown_encoding", f"format is {msg.format!r}; expected 8-bit Bayer")
        rgb = cv2.cvtColor(image, _ENCODINGS[encoding][1])  # [H, W, 3]
    elif "compressed rgb" in packing:  # stored without swapping to the bgr that OpenCV expects
        rgb = image
    else:
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return Frame(rgb, stamp_ns(msg.header), msg.header.frame_id)


def image_size(msg: Image | CompressedImage) -> tuple[int, int] | None:
    """Height and width as the message declares them; None where a file in it declares none."""
    if isinstance(msg, Image):
        return msg.height, msg.width
    try:
        width, height = _declared_size(memoryview(msg.data))
    except BadImage:
        return None
    return height, width


def mono8_message(header: Header, image: np.ndarray) -> Image:
    """An image [H, W] uint8 as mono8. The header is passed through unchanged."""
    return _image_message(header, image, "mono8", np.dtype(np.uint8), 2)


def depth_message(header: Header, depth: np.ndarray) -> Image:
    """A depth image [H, W] float32 as 32FC1. The header is passed through unchanged."""
    return _image_message(header, depth, "32FC1", np.dtype("<f4"), 2)


def rgb8_message(header: Header, rgb: np.ndarray) -> Image:
    """An image [H, W, 3] uint8 as rgb8. The header is passed through unchanged."""
    return _image_message(header, rgb, "rgb8", np.dtype(np.uint8), 3)


def scaled_camera_info(info: CameraInfo, width: int, height: int) -> CameraInfo:
    """The CameraInfo of the same image resized to width x height; header, R and D unchanged.

    Pixel centres are whole numbers: cx' = (cx + 0.5)·s − 0.5, the convention of bilinear resizing
    with half-pixel centres. The full-resolution K and P of `info` are first brought to the image
    that region of interest and binning leave, so the result has neither.

    Raises ValueError where a size is not positive, because then there is no scale.
    """
    roi = info.roi
    source_width = (roi.width or info.width) / max(info.binning_x, 1)
    source_height = (roi.height or info.height) / max(info.binning_y, 1)
    if min(source_width, source_height, width, height) < 1:
        raise ValueError(
            f"camera_info of {info.width}x{info.height} cannot be scaled to {width}x{height}; "
            "expected positive sizes"
        )
    scale_x = width / (roi.width or info.width)
    scale_y = height / (roi.height or info.height)
    to_target = np.array(
        [
            [scale_x, 0, (0.5 - roi.x_offset) * scale_x - 0.5],
            [0, scale_y, (0.5 - roi.y_offset) * scale_y - 0.5],
            [0, 0, 1],
        ]
    )
    scaled = CameraInfo(header=info.header, width=width, height=height)
    scaled.distortion_model, scaled.d, scaled.r = info.distortion_model, info.d, info.r
    # K of zeros means uncalibrated (CameraInfo.msg) and stays so.
    scaled.k = (to_target @ np.reshape(info.k, (3, 3))).ravel()
    scaled.p = (to_target @ np.reshape(info.p, (3, 4))).ravel()
    scaled.roi.do_rectify = roi.do_rectify
    return scaled


def focal_px(info: CameraInfo) -> float | None:
    """fx of K in pixels of the image that comes with `info`; None where it is not calibrated."""
    fx, fy = info.k[0] / max(info.binning_x, 1), info.k[4]
    return float(fx) if 0 < fx < math.inf and 0 < fy < math.inf else None


def labels_message(labels: LabelSet) -> String:
    """The label set as JSON: name, unlabelled, and classes with id, name and color [r, g, b]."""
    classes = [
        {"id": index, "name": label.name, "color": list(label.color)}
        for index, label in enumerate(labels.classes)
    ]
    content = {"name": labels.name, "unlabelled": UNLABELLED, "classes": classes}
    return String(data=json.dumps(content))


def _check_size(width: int, height: int) -> None:
    """Raises BadImage where no frame can have that size. Nothing is allocated before this."""
    size = f"image is {width}x{height}"
    if not width or not height:
        raise BadImage("zero_size", f"{size}; expected at least {MIN_SIDE_PX} pixels a side")
    if width * height > MAX_PIXELS:
        raise BadImage("too_large", f"{size}; expected at most {MAX_PIXELS} pixels")
    if min(width, height) < MIN_SIDE_PX:
        raise BadImage("too_small", f"{size}; expected at least {MIN_SIDE_PX} pixels a side")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage("bad_aspect", f"{size}; expected an aspect ratio of at most {MAX_ASPECT}:1")


def _rows(msg: Image) -> np.ndarray:
    """The bytes of the message's rows without their padding, a view: [rows, bytes] uint8."""
    pixel_bytes, _ = _ENCODINGS[msg.encoding]
    row_bytes = msg.width * pixel_bytes
    rows = msg.height
    if msg.encoding == "nv12":
        rows = msg.height * 3 // 2
    paired = msg.encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12")
    if paired and (msg.width % 2 or (msg.encoding == "nv12" and msg.height % 2)):
        raise BadImage(
            "odd_size", f"{msg.encoding} image is {msg.width}x{msg.height}; expected even sides"
        )
    if msg.step < row_bytes:
        raise BadImage(
            "wrong_step",
            f"step is {msg.step}; expected at least {row_bytes} for {msg.width} {msg.encoding}",
        )
    data = np.frombuffer(msg.data, np.uint8)
    least, most = msg.step * (rows - 1) + row_bytes, msg.step * rows
    if not least <= data.size <= most:
        raise BadImage(
            "short_data" if data.size < least else "long_data",
            f"{msg.width}x{msg.height} {msg.encoding} image with step {msg.step} has "
            f"{data.size} bytes; expected {most}",
        )
    # Strides, because some drivers leave out the padding of the last row.
    return np.lib.stride_tricks.as_strided(data, (rows, row_bytes), (msg.step, 1))


def _bridged(msg: Image, padded: bool) -> np.ndarray | None:
    """RGB [H, W, 3] by cv_bridge, or None where the installed one cannot do it.

    The cv_bridge of Python wheels ignores `step`, so padded rows are not for it; it lacks
    bayer_grbg8 (KeyError), and miscounts channels beside OpenCV 5 (TypeError).
    """
    if _BRIDGE is None or padded or msg.encoding not in _BRIDGED:
        return None
    try:
        return _BRIDGE.imgmsg_to_cv2(msg, "rgb8")
    except (KeyError, TypeError):  # CvBridgeError is a TypeError
        return None


def _converted(rows: np.ndarray, encoding: str, is_bigendian: bool) -> np.ndarray:
    """RGB [H, W, 3] from rows [rows, bytes] by OpenCV."""
    pixel_bytes, code = _ENCODINGS[encoding]
    if encoding == "mono16":
        image = rows[:, (0 if is_bigendian else 1) :: 2]  # [H, W], the high byte
    elif pixel_bytes == 1:
        image = rows
    else:
        image = rows.reshape(len(rows), -1, pixel_bytes)  # [H, W, bytes of a pixel]
    return np.ascontiguousarray(image) if code is None else cv2.cvtColor(image, code)


def _declared_size(data: memoryview) -> tuple[int, int]:
    """Width and height that a JPEG or PNG file declares. Raises BadImage where it is neither,
    or where its end is missing: OpenCV would fill the rest with grey and say nothing.
    """
    if data[:8] == _PNG_SIGNATURE:
        if len(data) >= 24 and b"IEND" in bytes(data[-64:]):
            return struct.unpack_from(">II", data, 16)
        raise BadImage("corrupt_image", f"png image of {len(data)} bytes has no end")
    size = None
    position = 2 if data[:2] == b"\xff\xd8" else len(data)
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from(">HH", data, position + 5)
            size = width, height
        if marker == 0xDA:  # start of scan; inside it 0xFF is never followed by 0xD9
            if size and b"\xff\xd9" in bytes(data[position:]):
                return size
            break
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    raise BadImage(
        "corrupt_image", f"image of {len(data)} bytes is not a complete jpeg or png file"
    )


def _image_message(
    header: Header, image: np.ndarray, encoding: str, dtype: np.dtype, dims: int
) -> Image:
    if image.ndim != dims or image.dtype != dtype or (dims == 3 and image.shape[2] != 3):
        shape = "[H, W, 3]" if dims == 3 else "[H, W]"
        raise ValueError(
            f"{encoding} image is {list(image.shape)} {image.dtype}; expected {shape} {dtype}"
        )
    height, width = image.shape[:2]
    data = array.array("B")  # assigning bytes or an ndarray is converted element by element
    data.frombytes(memoryview(np.ascontiguousarray(image)).cast("B"))
    return Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=False,
        step=image.nbytes // height,
        data=data,
    )


try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:
    LabelInfo = VisionClass = None

ABSENT = "" if LabelInfo is not None else "vision_msgs is not installed"
"""Why there is no ~/label_info; empty where there is."""


def label_info_message(
    labels: LabelSet,
    threshold: float,
    info: Any = LabelInfo,
    vision_class: Any = VisionClass,
) -> Any:
    """A LabelInfo of all classes in the order of their ids.

    UNLABELLED is not among them: 255 is what LabelInfo.msg itself means by it. threshold: below
    which confidence a pixel is unlabelled. info, vision_class: the message types. The header is
    empty, as labels have neither a place nor a time.
    """
    classes = [
        vision_class(class_id=index, class_name=label.name)
        for index, label in enumerate(labels.classes)
    ]
    return info(header=Header(), class_map=classes, threshold=threshold)
