# SPDX-License-Identifier: Apache-2.0
"""What a recorded drive is made into: joined frames, strips, sheet and counters."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
import pytest
from dds import Listener
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from depthforge_ros.demo import pictures
from depthforge_ros.frame import UNLABELLED, DepthKind
from depthforge_ros.legend import LINE_PX
from depthforge_ros.ros.bags.resumable_writer import SegmentedBag
from depthforge_ros.ros.bags.topic import own_topic
from depthforge_ros.ros.harness.graph import Driven
from depthforge_ros.ros.harness.node_process import free_domain
from depthforge_ros.ros.harness.read_recording import Seen, recorded
from depthforge_ros.ros.harness.recorder import Counters, Recorded, Recorder
from depthforge_ros.ros.messages import depth_message, mono8_message, rgb8_message
from depthforge_ros.variant import load_variant

LABELS = load_variant("nano").labels


def header(stamp: int, frame_id: str = "camera") -> Header:
    made = Header(frame_id=frame_id)
    made.stamp.sec = stamp
    return made


def test_what_did_not_come_back_is_shown_as_missing(tmp_path: Path) -> None:
    rgb = np.full((24, 48, 3), 200, np.uint8)
    labels, depth = np.full((24, 48), 1, np.uint8), np.full((24, 48), 2, np.float32)
    names = ("/image", "/semantic", "/depth")
    topics = [own_topic(name, "sensor_msgs/msg/Image") for name in names]
    with SegmentedBag(
        tmp_path / "bag", topics, job={}, storage="mcap", segment_bytes=1 << 40
    ) as bag:
        for topic, message in (
            ("/image", rgb8_message(header(1), rgb)),
            ("/image", rgb8_message(header(2), rgb)),
            ("/depth", depth_message(header(1), depth)),
            ("/image", rgb8_message(header(3), rgb)),
            ("/semantic", mono8_message(header(1), labels)),
            ("/semantic", mono8_message(header(3), labels)),
            ("/semantic", mono8_message(header(9), labels)),  # its image is not in the bag
        ):
            bag.write(topic, "sensor_msgs/msg/Image", 0, serialize_message(message))
        bag.finish()
    seen = list(recorded(tmp_path / "bag", *names))
    assert [frame.stamp_ns for frame in seen] == [1_000_000_000, 2_000_000_000, 3_000_000_000]
    assert [frame.labels is None for frame in seen] == [False, True, False]
    assert [frame.depth is None for frame in seen] == [False, True, True]
    painter = pictures.Painter(LABELS, DepthKind.METRIC)
    strips = [painter.strip(frame, "") for frame in seen]
    assert [strip.shape for strip in strips] == [(180, 3 * 360, 3)] * 3
    for strip in strips:
        assert (strip[90, 180] == 200).all()
    sidewalk = np.array(LABELS.classes[1].color)
    answered = np.rint(0.35 * 200 + 0.65 * sidewalk)
    assert np.abs(strips[0][90, 540] - answered).max() <= 1
    assert np.abs(strips[2][90, 540] - answered).max() <= 1
    assert not strips[1][90, 540].any()
    assert strips[0][90, 900].any()
    assert not strips[1][90, 900].any()
    assert not strips[2][90, 900].any()
    assert strips[1][:24, 360:].any()  # it says so


def test_pictures_of_other_sizes_are_fitted_into_the_first() -> None:
    painter = pictures.Painter(LABELS, DepthKind.RELATIVE)
    white = np.full((100, 100, 3), 255, np.uint8)
    unlabelled, flat = np.full((100, 100), UNLABELLED, np.uint8), np.ones((100, 100), np.float32)
    first = painter.strip(Seen(1, white[:50], unlabelled[:50], flat[:50]), "")
    tall = painter.strip(Seen(2, white[:, :50], unlabelled[:, :50], flat[:, :50]), "")
    assert first.shape == tall.shape == (180, 3 * 360, 3)
    assert (first[:, :720] == 255).all()
    shown = np.flatnonzero((tall[:, :720] == 255).all((0, 2)))
    assert shown.tolist() == [*range(135, 225), *range(495, 585)]


def test_depth_is_bright_where_near_and_black_where_unknown() -> None:
    depth = np.array([[2, 8, 50, np.inf, np.nan]], np.float32)
    brightness = pictures.depth_picture(depth, DepthKind.METRIC).sum(-1)[0].tolist()
    assert brightness[0] > brightness[1] > brightness[2] > brightness[3] == brightness[4]
    inverse = pictures.depth_picture(1 / depth[:, :3], DepthKind.RELATIVE).sum(-1)[0].tolist()
    assert inverse[0] > inverse[1] > inverse[2]


def test_every_depth_picture_has_a_bar_with_its_metres() -> None:
    """Colours of the bar are those of the picture: 10 m is where its tick is."""
    bar = pictures.depth_bar(360, DepthKind.METRIC)
    assert bar.shape == (LINE_PX, 360, 3)
    ticks = np.flatnonzero((bar[0] == 255).all(-1))
    assert ticks.tolist() == [0, 84, 148, 211, 295]  # 2, 5, 10, 20, 50 m, logarithmic
    ten_m = pictures.depth_picture(np.full((1, 1), 10, np.float32), DepthKind.METRIC)[0, 0]
    assert np.abs(bar[0, 147].astype(int) - ten_m).max() <= 6
    painter = pictures.Painter(LABELS, DepthKind.METRIC)
    white, flat = np.full((100, 200, 3), 255, np.uint8), np.full((100, 200), 10, np.float32)
    seen = Seen(1, white, np.zeros((100, 200), np.uint8), flat)
    strip = painter.strip(seen, "")
    np.testing.assert_array_equal(strip[-LINE_PX:, 720:], bar)
    assert (painter.quad(seen, "").shape) == (360, 720, 3)
    assert not (pictures.depth_bar(360, DepthKind.RELATIVE) == bar).all()


def test_road_users_differ_in_colour_on_an_overlay() -> None:
    """CIE76 difference in Lab at half opacity on grey; Cityscapes' bus and train have 9."""
    users = ("person", "rider", "car", "truck", "bus", "motorcycle")
    colors = np.array([c.color for c in LABELS.classes if c.name in users], np.float32)
    mixed = (0.5 * colors + 30)[None] / 255  # [1, 6, 3]
    lab = cv2.cvtColor(mixed, cv2.COLOR_RGB2LAB)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(6, 1)]
    assert distance.min() > 25


def test_the_sheet_shows_frames_from_the_whole_drive() -> None:
    sheet = pictures.Sheet(60)
    for index in range(60):
        sheet.offer(functools.partial(np.full, (40, 720, 3), index, np.uint8))
    drawn = sheet.drawn(["title"], LABELS)
    rows = drawn[LINE_PX:][: 6 * 40 : 40, 400, 0]
    assert rows.tolist() == [5, 15, 25, 35, 45, 55]


def test_an_output_with_a_header_of_its_own_is_counted() -> None:
    headers = {
        "/camera/image_raw": [b"1", b"3"],
        "/camera/camera_info": [b"1", b"2", b"3"],
        "/depthforge/semantic": [b"1", b"2"],
        "/depthforge/depth": [b"1", b"now"],
    }
    assert Driven(Recorded(headers, {}), Counters()).foreign_headers() == 1


def test_counters_of_one_drive() -> None:
    earlier = Counters(5, 3, 1, {"replaced": 1})
    later = Counters(12, 8, 1, {"replaced": 1, "corrupt_image": 2})
    assert later.since(earlier) == Counters(7, 5, 0, {"corrupt_image": 2})
    assert (earlier.pending, later.pending) == (1, 1)


def test_a_recorder_that_cannot_write_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    domain = free_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setattr(SegmentedBag, "write", no_space)
    with Listener(domain) as camera, Recorder({"/image": Image}, {}) as recorder:
        assert free_domain() != domain
        publisher = camera.node.create_publisher(Image, "/image", 10)

        def failed() -> bool:
            publisher.publish(Image())
            try:
                return recorder.report().state == "active"
            except RuntimeError as error:
                return "OSError: [Errno 28] No space left on device" in str(error)

        with (
            pytest.raises(RuntimeError, match="recording failed"),
            recorder.recording(tmp_path / "bag"),
        ):
            camera.spin_until(failed)
    assert not (tmp_path / "bag").exists()
