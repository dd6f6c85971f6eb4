# SPDX-License-Identifier: Apache-2.0
"""Image messages with chosen bytes."""

from __future__ import annotations

import array

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

HEIGHT, WIDTH = 48, 64


def header() -> Header:
    made = Header(frame_id="front_optical")
    made.stamp.sec, made.stamp.nanosec = 1_700_000_000, 123_456_789
    return made


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, shape, np.uint8)


def smooth() -> np.ndarray:
    """An image whose channels are different ramps: [H, W, 3] uint8."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([40 + 2 * x, 200 - 2 * y, 60 + x + y], -1).astype(np.uint8)


def image_message(
    rows: np.ndarray,
    encoding: str,
    *,
    height: int = HEIGHT,
    padding: int = 0,
    cut_last: bool = False,
    is_bigendian: bool = False,
) -> Image:
    """A message from rows [rows, bytes] uint8, each followed by `padding` bytes of rubbish."""
    padded = np.concatenate([rows, np.full((len(rows), padding), 0xAB, np.uint8)], 1)
    data = padded.tobytes()
    if cut_last:
        data = data[: len(data) - padding]
    return Image(
        header=header(),
        height=height,
        width=WIDTH,
        encoding=encoding,
        is_bigendian=is_bigendian,
        step=padded.shape[1],
        data=array.array("B", data),
    )


def encoded(image: np.ndarray, suffix: str = ".png", *options: int) -> bytes:
    return cv2.imencode(suffix, image, options)[1].tobytes()


def compressed_message(content: bytes, image_format: str) -> CompressedImage:
    return CompressedImage(header=header(), format=image_format, data=array.array("B", content))
