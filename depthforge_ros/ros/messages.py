# SPDX-License-Identifier: Apache-2.0
"""Frames, predictions and label sets as ROS messages, and images to frames. No node, no torch.

images.py reads images; its entry points are offered here too.
"""

from __future__ import annotations

import array
import json
import math
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from depthforge_ros.frame import UNLABELLED
from depthforge_ros.ros.images import (
    INPUT_ENCODINGS,
    BadImage,
    frame_from_compressed,
    frame_from_image,
    stamp_ns,
)
from depthforge_ros.variant import LabelSet

__all__ = [
    "ABSENT",
    "INPUT_ENCODINGS",
    "BadImage",
    "LabelInfo",
    "depth_message",
    "focal_px",
    "frame_from_compressed",
    "frame_from_image",
    "jpeg_message",
    "label_info_message",
    "labels_message",
    "mono8_message",
    "png_message",
    "rgb8_message",
    "scaled_camera_info",
    "stamp_ns",
]

JPEG_QUALITY = 80


def mono8_message(header: Header, image: np.ndarray) -> Image:
    """An image [H, W] uint8 as mono8. The header is passed through unchanged."""
    return _image_message(header, image, "mono8", np.dtype(np.uint8), 2)


def depth_message(header: Header, depth: np.ndarray) -> Image:
    """A depth image [H, W] float32 as 32FC1. The header is passed through unchanged."""
    return _image_message(header, depth, "32FC1", np.dtype("<f4"), 2)


def rgb8_message(header: Header, rgb: np.ndarray) -> Image:
    """An image [H, W, 3] uint8 as rgb8. The header is passed through unchanged."""
    return _image_message(header, rgb, "rgb8", np.dtype(np.uint8), 3)


def jpeg_message(header: Header, rgb: np.ndarray) -> CompressedImage:
    """An image [H, W, 3] uint8 as JPEG, with the format string of compressed_image_transport."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    options = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
    return _file_message(header, bgr, ".jpg", options, "rgb8; jpeg compressed bgr8")


def png_message(header: Header, image: np.ndarray) -> CompressedImage:
    """An image [H, W] uint8 as PNG, without loss, with compressed_image_transport's format."""
    options = (cv2.IMWRITE_PNG_COMPRESSION, 1)
    return _file_message(header, image, ".png", options, "mono8; png compressed ")


def _file_message(
    header: Header, image: np.ndarray, suffix: str, options: tuple[int, ...], packing: str
) -> CompressedImage:
    encoded, content = cv2.imencode(suffix, image, options)
    if not encoded:
        raise ValueError(f"image {list(image.shape)} cannot be encoded as {suffix}")
    data = array.array("B")
    data.frombytes(content.tobytes())
    return CompressedImage(header=header, format=packing, data=data)


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
    data.frombytes(np.ascontiguousarray(image).data.cast("B"))
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
