# SPDX-License-Identifier: Apache-2.0
"""The organised cloud, byte for byte, and the label set as vision_msgs defines it."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import PointField
from std_msgs.msg import Header

from depthforge_ros.frame import DepthKind, Prediction
from depthforge_ros.ros.messages import label_info_message
from depthforge_ros.ros.node.spatial_outputs import POINT, PointCloudPacker
from depthforge_ros.variant import load_labels

HEIGHT, WIDTH = 18, 26
K = np.array([[20.0, 0, 12.25], [0, 21.0, 8.5], [0, 0, 1]])


def header() -> Header:
    made = Header(frame_id="front_optical")
    made.stamp.sec = 1_700_000_000
    return made


def scene(seed: int = 3) -> tuple[np.ndarray, Prediction]:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    labels, confidence = rng.integers(0, 256, (2, HEIGHT, WIDTH), np.uint8)
    depth = rng.uniform(0.5, 80, (HEIGHT, WIDTH)).astype(np.float32)
    depth[0], depth[1], depth[2] = np.inf, np.nan, -np.inf
    return rgb, Prediction(labels, confidence, depth, DepthKind.METRIC)


def test_every_pixel_is_a_point_on_its_ray() -> None:
    rgb, seen = scene()
    message = PointCloudPacker()(header(), rgb, seen, seen.depth, K)
    assert message.header == header()
    assert (message.height, message.width) == (HEIGHT, WIDTH)
    assert (message.point_step, message.row_step) == (20, 20 * WIDTH)
    assert not message.is_bigendian
    assert not message.is_dense
    points = np.frombuffer(message.data, POINT).reshape(HEIGHT, WIDTH)
    v, u = np.mgrid[3:HEIGHT, :WIDTH]
    z = seen.depth[3:].astype(np.float64)
    np.testing.assert_array_equal(points["z"][3:], seen.depth[3:])
    np.testing.assert_allclose(points["x"][3:], z * (u - 12.25) / 20, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(points["y"][3:], z * (v - 8.5) / 21, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(points["label"], seen.labels)
    np.testing.assert_array_equal(points["confidence"], seen.confidence)


def test_where_depth_is_no_number_all_three_coordinates_are_nan() -> None:
    rgb, seen = scene()
    message = PointCloudPacker()(header(), rgb, seen, seen.depth, K)
    points = np.frombuffer(message.data, POINT).reshape(HEIGHT, WIDTH)
    for axis in "xyz":
        assert np.isnan(points[axis][:3]).all()
        assert np.isfinite(points[axis][3:]).all()


def test_fields_are_what_the_bytes_hold() -> None:
    rgb, seen = scene()
    message = PointCloudPacker()(header(), rgb, seen, seen.depth, K)
    fields = {f.name: (f.offset, f.datatype, f.count) for f in message.fields}
    assert fields == {
        "x": (0, PointField.FLOAT32, 1),
        "y": (4, PointField.FLOAT32, 1),
        "z": (8, PointField.FLOAT32, 1),
        "rgb": (12, PointField.FLOAT32, 1),
        "label": (16, PointField.UINT8, 1),
        "confidence": (17, PointField.UINT8, 1),
    }
    at = 20 * (5 * WIDTH + 7)
    x, y, z, color, label, confidence = struct.unpack_from("<fffIBB", message.data, at)
    red, green, blue = (int(channel) for channel in rgb[5, 7])
    assert color == red << 16 | green << 8 | blue  # PCL's packing, and never a NaN as a float
    assert z == seen.depth[5, 7]
    assert (x, y) == pytest.approx((z * (7 - 12.25) / 20, z * (5 - 8.5) / 21), rel=1e-5)
    assert (label, confidence) == (seen.labels[5, 7], seen.confidence[5, 7])
    assert bytes(message.data[at + 18 : at + 20]) == b"\0\0"


def test_frames_one_after_another_leave_nothing_of_the_last_one() -> None:
    pack = PointCloudPacker()
    for seed in (1, 2):
        rgb, seen = scene(seed)
        again = bytes(pack(header(), rgb, seen, seen.depth, K).data)
        assert again == bytes(PointCloudPacker()(header(), rgb, seen, seen.depth, K).data)
    moved = K + np.array([[5.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    again = bytes(pack(header(), rgb, seen, seen.depth, moved).data)
    assert again == bytes(PointCloudPacker()(header(), rgb, seen, seen.depth, moved).data)
    half = Prediction(*(a[::2, ::2].copy() for a in (seen.labels, seen.confidence, seen.depth)),
                      DepthKind.METRIC)  # fmt: skip
    small = pack(header(), rgb, half, half.depth, K)
    assert (small.height, small.width, len(small.data)) == (9, 13, 9 * 13 * 20)
    colors = np.frombuffer(small.data, np.uint8).reshape(9, 13, 20)[..., 12:15]
    mean = rgb.reshape(9, 2, 13, 2, 3).mean((1, 3))
    assert np.abs(colors[..., ::-1] - mean).max() <= 0.5  # the image is resized, not cut


def test_depth_of_another_size_is_refused() -> None:
    rgb, seen = scene()
    with pytest.raises(ValueError, match=r"depth is \[17, 26\] float32; expected \[18, 26\]"):
        PointCloudPacker()(header(), rgb, seen, seen.depth[1:], K)


# The definitions that vision_msgs publishes (branch ros2), without their comments.
LABEL_INFO = "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"
VISION_CLASS = "uint16 class_id\nstring class_name\n"


def test_the_label_set_fits_the_definition_of_label_info() -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in (("VisionClass", VISION_CLASS), ("LabelInfo", LABEL_INFO)):
        store.register(get_types_from_msg(text, f"vision_msgs/msg/{name}"))
    info = store.types["vision_msgs/msg/LabelInfo"]
    vision_class = store.types["vision_msgs/msg/VisionClass"]
    labels = load_labels("cityscapes")
    message = label_info_message(labels, 0.25, info, vision_class)
    raw = store.serialize_cdr(message, "vision_msgs/msg/LabelInfo")
    read = store.deserialize_cdr(raw, "vision_msgs/msg/LabelInfo")
    assert read.threshold == 0.25
    pairs = [(c.class_id, c.class_name) for c in read.class_map]
    assert pairs == [(i, label.name) for i, label in enumerate(labels.classes)]
    assert pairs[13] == (13, "car")
    assert 255 not in {number for number, _ in pairs}
