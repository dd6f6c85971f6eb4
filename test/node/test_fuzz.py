# SPDX-License-Identifier: Apache-2.0
"""Whatever comes is a frame, or a BadImage whose cause is counted; and no calibration is worse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fuzz import camera_infos, compressed_images, images
from hypothesis import given, settings
from nodes import HEIGHT, WIDTH, picture
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depthforge_ros.frame import Frame
from depthforge_ros.ros.images import BadImage, frame_from_compressed, frame_from_image
from depthforge_ros.ros.messages import focal_px, scaled_camera_info
from depthforge_ros.ros.metric import CameraInfos

CAUSES = {"zero_size", "too_small", "too_large", "bad_aspect", "odd_size", "unknown_encoding"}
CAUSES |= {"wrong_step", "short_data", "long_data", "corrupt_image"}
# The same messages in every run: a suite must not fail by chance.
fuzzed = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def outcome(convert: Callable[[Any], Frame], message: Image | CompressedImage) -> Frame | str:
    """The frame, or the cause for which there is none."""
    try:
        return convert(message)
    except BadImage as error:
        return error.cause


@fuzzed
@given(images())
def test_an_image_is_a_frame_of_its_size_or_a_named_cause(message: Image) -> None:
    message = deserialize_message(serialize_message(message), Image)
    seen = outcome(frame_from_image, message)
    if isinstance(seen, str):
        assert seen in CAUSES
        return
    assert (seen.width, seen.height) == (message.width, message.height)
    assert seen.frame_id == message.header.frame_id


@fuzzed
@given(compressed_images())
def test_a_compressed_image_is_a_frame_of_its_size_or_a_named_cause(
    message: CompressedImage,
) -> None:
    message = deserialize_message(serialize_message(message), CompressedImage)
    seen = outcome(frame_from_compressed, message)
    if isinstance(seen, str):
        assert seen in CAUSES
        return
    assert seen.rgb.dtype == np.uint8
    assert seen.frame_id == message.header.frame_id


@pytest.mark.filterwarnings("ignore:invalid value")  # what is no number stays none
@fuzzed
@given(camera_infos())
def test_a_camera_info_that_fits_has_a_focal_length_or_none(message: CameraInfo) -> None:
    message = deserialize_message(serialize_message(message), CameraInfo)
    infos = CameraInfos()
    infos.add(message)
    info = infos.matching(Frame(picture(0), frame_id=message.header.frame_id))
    if info is None:
        return
    focal = focal_px(info)
    assert focal is None or 0 < focal < math.inf
    scaled = scaled_camera_info(info, WIDTH // 2, HEIGHT // 2)
    assert (scaled.width, scaled.height) == (WIDTH // 2, HEIGHT // 2)
