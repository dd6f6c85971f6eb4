# SPDX-License-Identifier: Apache-2.0
"""Messages as broken drivers, cables and bags make them, as strategies of hypothesis."""

from __future__ import annotations

import array
import copy

import cv2
import numpy as np
from hypothesis import strategies as st
from nodes import HEIGHT, WIDTH, camera_info_message, image_message, picture
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depthforge_ros.ros.images import INPUT_ENCODINGS

UINT32 = st.integers(0, 2**32 - 1)
SIDES = st.one_of(st.integers(0, 40), st.sampled_from([HEIGHT, WIDTH]), UINT32)
NAMES = st.one_of(st.just("front_optical"), st.text(max_size=20))
FORMATS = ("jpeg", "png", "rgb8; jpeg compressed bgr8", "bayer_rggb8; png compressed mono8")
FLOATS = st.one_of(st.floats(), st.sampled_from([0.0, 80.0, -80.0, 5e-324]))
IMAGES = [image_message(index) for index in range(5)]
FILES = [cv2.imencode(suffix, picture(0)[..., ::-1])[1].tobytes() for suffix in (".png", ".jpg")]


def _stamped(draw: st.DrawFn, message: Image | CompressedImage | CameraInfo) -> None:
    if draw(st.booleans()):
        return
    message.header.frame_id = draw(NAMES)
    message.header.stamp.sec = draw(st.integers(-(2**31), 2**31 - 1))
    message.header.stamp.nanosec = draw(UINT32)


@st.composite
def images(draw: st.DrawFn) -> Image:
    """A good image with some of its fields spoilt."""
    message = copy.deepcopy(draw(st.sampled_from(IMAGES)))
    _stamped(draw, message)
    spoil = draw(st.sets(st.sampled_from(["size", "encoding", "step", "data"])))
    if "size" in spoil:
        message.height, message.width = draw(SIDES), draw(SIDES)
    if "encoding" in spoil:
        message.encoding = draw(st.one_of(st.sampled_from(INPUT_ENCODINGS), st.text(max_size=9)))
        message.is_bigendian = draw(st.integers(0, 255))
    if "step" in spoil:
        message.step = draw(st.one_of(SIDES, st.just(WIDTH)))
    if "data" in spoil:
        # Of the length that the header promises, or of any other.
        promised = message.step * message.height
        lengths = [*([promised] if promised < 100_000 else []), draw(st.integers(0, 20_000))]
        message.data = array.array("B", bytes(draw(st.sampled_from(lengths))))
    return message


@st.composite
def compressed_images(draw: st.DrawFn) -> CompressedImage:
    """A PNG or JPEG file with bytes changed or cut off, or anything at all."""
    content = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(0, 3))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    whole = draw(st.booleans())
    content = content if whole else content[: draw(st.integers(0, len(content)))]
    if draw(st.integers(0, 9)) == 0:
        content = bytearray(draw(st.binary(max_size=200)))
    message = CompressedImage(data=array.array("B", bytes(content)))
    message.format = draw(st.one_of(st.sampled_from(FORMATS), st.text(max_size=20)))
    _stamped(draw, message)
    return message


@st.composite
def camera_infos(draw: st.DrawFn) -> CameraInfo:
    """Calibrations that fit the images of `images` or do not, with numbers of any kind."""
    message = camera_info_message()
    _stamped(draw, message)
    spoil = draw(st.sets(st.sampled_from(["size", "k", "p", "d", "binning", "roi"])))
    if "size" in spoil:
        message.height, message.width = draw(SIDES), draw(SIDES)
    if "k" in spoil:
        message.k = np.array(draw(st.lists(FLOATS, min_size=9, max_size=9)))
    if "p" in spoil:
        message.p = np.array(draw(st.lists(FLOATS, min_size=12, max_size=12)))
    if "d" in spoil:
        message.d = draw(st.lists(FLOATS, max_size=14))
    if "binning" in spoil:
        message.binning_x, message.binning_y = draw(SIDES), draw(SIDES)
    if "roi" in spoil:
        message.roi.width, message.roi.height = draw(SIDES), draw(SIDES)
        message.roi.x_offset, message.roi.y_offset = draw(SIDES), draw(SIDES)
    return message
