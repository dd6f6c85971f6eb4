# SPDX-License-Identifier: Apache-2.0
"""`depthforge annotate`: what is in the new bag."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from annotating import PERIOD_NS, command, drive, pipeline
from bagfiles import (
    HEIGHT,
    START_NS,
    WIDTH,
    Recorded,
    compressed,
    image,
    info,
    picture,
    qos,
    read_bag,
    recorded,
    write_bag,
)
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from depthforge_ros import cli
from depthforge_ros.frame import Frame
from depthforge_ros.ros.bags.annotation import annotate_bag
from depthforge_ros.ros.bags.cameras import camera_name
from depthforge_ros.ros.bags.topic import BagError
from depthforge_ros.variant import load_variant


def by_topic(messages: Sequence[Recorded]) -> dict[str, list[Recorded]]:
    return {
        topic: [m for m in messages if m.topic == topic] for topic in {m.topic for m in messages}
    }


@pytest.mark.parametrize(
    ("storage", "make", "topic", "variant", "depth"),
    [
        ("mcap", image, "/front/image_raw", "nano", "depth"),
        ("sqlite3", compressed, "/front/image_raw/compressed", "dinov2_s", "inverse_depth"),
    ],
)
def test_every_image_once_with_its_stamps(
    tmp_path: Path, storage: str, make: Callable, topic: str, variant: str, depth: str
) -> None:
    source = drive(5, make, topic)
    profiles = {topic: [qos("BEST_EFFORT", depth=2)], "/notes": [qos(durability="TRANSIENT_LOCAL")]}
    write_bag(tmp_path / "in", source, storage, profiles)
    run = pipeline(variant, short_side_px=64)
    summary = annotate_bag(tmp_path / "in", tmp_path / "out", run, storage=storage)
    assert (summary.frames, dict(summary.refused), summary.messages) == (5, {}, 15)
    assert summary.finished

    written = read_bag(tmp_path / "out")
    assert [m for m in written if not m.topic.startswith("/depthforge")] == source
    topics = by_topic(written)
    for index, original in enumerate(topics[topic]):
        seen = run(Frame(picture(index), focal_px=50.0))
        header = make(index, START_NS + index * PERIOD_NS).header
        for name, encoding, content in (
            ("semantic", "mono8", seen.labels),
            ("confidence", "mono8", seen.confidence),
            (depth, "32FC1", seen.depth),
        ):
            result = topics[f"/depthforge/{name}"][index]
            assert result.time_ns == original.time_ns
            message = deserialize_message(result.raw, Image)
            assert message.header == header
            assert (message.encoding, message.height, message.width) == (encoding, HEIGHT, WIDTH)
            assert message.data.tobytes() == content.tobytes()
        result = topics["/depthforge/camera_info"][index]
        message = deserialize_message(result.raw, CameraInfo)
        assert (message.header, message.width, list(message.k)) == (header, WIDTH, list(info(0).k))
    assert {name: len(found) for name, found in topics.items() if "depthforge" in name} == {
        "/depthforge/labels": 1,
        **{f"/depthforge/{n}": 5 for n in ("semantic", "confidence", depth)},
        "/depthforge/camera_info": 5,
    }
    labels = json.loads(deserialize_message(written[0].raw, String).data)
    assert written[0].topic == "/depthforge/labels"
    assert len(labels["classes"]) == len(load_variant("nano").labels)

    with Reader(tmp_path / "out") as reader:
        offered = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
    assert offered[topic] == profiles[topic]
    assert offered["/notes"] == profiles["/notes"]
    (latched,), (volatile,) = offered["/depthforge/labels"], offered["/depthforge/semantic"]
    assert latched.durability is QosDurability.TRANSIENT_LOCAL
    assert (volatile.reliability, volatile.durability, volatile.depth) == (
        QosReliability.RELIABLE,
        QosDurability.VOLATILE,
        1,
    )


def test_results_at_the_size_of_inference_scale_the_camera(tmp_path: Path) -> None:
    write_bag(tmp_path / "in", drive(1))
    annotate_bag(tmp_path / "in", tmp_path / "out", pipeline(full_size=False, short_side_px=64))
    topics = by_topic(read_bag(tmp_path / "out"))
    mask = deserialize_message(topics["/depthforge/semantic"][0].raw, Image)
    camera = deserialize_message(topics["/depthforge/camera_info"][0].raw, CameraInfo)
    assert (mask.width, mask.height) == (camera.width, camera.height) == (96, 64)
    assert list(camera.k) == [100, 0, 48.5, 0, 100, 32.5, 0, 0, 1]


def test_the_road_gives_metres_beside_relative_depth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = drive(3)
    elsewhere = image(1, START_NS + PERIOD_NS)
    elsewhere.header.frame_id = "uncalibrated"
    source[3] = source[3]._replace(raw=serialize_message(elsewhere))
    write_bag(tmp_path / "in", source)
    options = ("--variant", "dinov2_s", "--inference-size", "--camera-height")
    assert cli.main(command(tmp_path / "in", tmp_path / "out", *options, "1.5")) == 0
    reason = "frame_id 'front' against 'uncalibrated' on /front/camera_info"
    why = f"\n1 images have no metres: camera_info does not fit: {reason}"
    assert why in capsys.readouterr().out
    written = by_topic(read_bag(tmp_path / "out"))
    assert len(written["/depthforge/inverse_depth"]) == 3
    times = [m.time_ns for m in written["/depthforge/depth"]]
    assert times == [source[0].time_ns, source[6].time_ns]
    # d = (row - 31.5)/64 is a plane in the rays ((row - 32.5)/100); the camera is 1.5 m above it.
    with np.errstate(divide="ignore"):
        expected = 1.5 * np.hypot(100, 1) / np.maximum(np.arange(64) - 31.5, 0)
    expected[expected > 80] = np.inf
    for result in written["/depthforge/depth"]:
        message = deserialize_message(result.raw, Image)
        depth_m = np.frombuffer(message.data, np.float32).reshape(64, 96)
        np.testing.assert_allclose(depth_m, np.tile(expected[:, None], 96), rtol=1e-3)
    # A stated pitch is for images without sky; these have some, so a wrong one changes nothing.
    pitched = (*options, "1.5", "--camera-pitch", "0.3")
    assert cli.main(command(tmp_path / "in", tmp_path / "pitched", *pitched)) == 0
    again = by_topic(read_bag(tmp_path / "pitched"))["/depthforge/depth"]
    for results in zip(again, written["/depthforge/depth"], strict=True):
        one, two = (deserialize_message(result.raw, Image).data for result in results)
        assert one == two
    assert cli.main(command(tmp_path / "in", tmp_path / "no", *pitched[:-1], "2")) == 2
    assert "pitch_rad is 2.0" in capsys.readouterr().err
    capsys.readouterr()
    for height, error in (
        ("0", "--camera-height is 0.0; expected"),
        ("60", "is 60.0; expected 0.1..10"),
    ):
        assert cli.main(command(tmp_path / "in", tmp_path / "no", *options, height)) == 2
        assert error in capsys.readouterr().err
    metric = command(tmp_path / "in", tmp_path / "no", "--camera-height", "1.5")
    assert cli.main(metric) == 2
    assert "camera_height_m is 1.5; nano is metric without" in capsys.readouterr().err


def test_the_camera_info_of_another_size_is_not_taken(tmp_path: Path) -> None:
    wrong = info(START_NS)
    wrong.width = 640
    messages = [
        recorded("/front/image_raw", START_NS, image(0, START_NS)),
        recorded("/front/camera_info", START_NS, wrong),
    ]
    write_bag(tmp_path / "in", messages)
    summary = annotate_bag(tmp_path / "in", tmp_path / "out", pipeline())
    written = by_topic(read_bag(tmp_path / "out"))
    assert "/depthforge/camera_info" not in written
    assert "/depthforge/semantic" in written
    # Metres need a focal length, and nobody knows that of this image.
    assert "/depthforge/depth" not in written
    (reason,) = summary.without_depth
    assert (summary.frames, summary.without_depth[reason]) == (1, 1)
    assert "640x32" in reason


def test_a_broken_image_is_named_and_everything_else_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = drive(4)
    empty = image(0, START_NS)
    empty.data = empty.data[:100]
    source[3] = source[3]._replace(raw=serialize_message(empty))
    source[6] = source[6]._replace(raw=source[6].raw[:30])
    write_bag(tmp_path / "in", source)
    summary = annotate_bag(tmp_path / "in", tmp_path / "out", pipeline())
    assert (summary.frames, dict(summary.refused)) == (2, {"short_data": 1, "corrupt_message": 1})
    written = read_bag(tmp_path / "out")
    assert [m for m in written if not m.topic.startswith("/depthforge")] == source
    times = [m.time_ns for m in by_topic(written)["/depthforge/semantic"]]
    assert times == [source[0].time_ns, source[9].time_ns]
    errors = capsys.readouterr().err
    assert f"/front/image_raw: image 1 logged at {source[3].time_ns} ns: short_data: " in errors
    assert f"image 2 logged at {source[6].time_ns} ns: corrupt_message: " in errors
    assert "100%" in errors


def test_cameras_are_chosen_and_named(tmp_path: Path) -> None:
    messages = [
        recorded(f"/{camera}/image_raw", START_NS + index, image(index, START_NS))
        for index, camera in enumerate(("left", "right", "rear"))
    ]
    source = write_bag(tmp_path / "in", messages)
    known = r"image topics of .*: /left/image_raw, /rear/image_raw, /right/image_raw"
    with pytest.raises(BagError, match=f"choose with --topic; {known}"):
        annotate_bag(source, tmp_path / "out", pipeline())
    with pytest.raises(BagError, match=f"no image topic /up; {known}"):
        annotate_bag(source, tmp_path / "out", pipeline(), topics=["/up"])
    annotate_bag(
        source, tmp_path / "out", pipeline(), topics=["/left/image_raw", "/right/image_raw"]
    )
    written = by_topic(read_bag(tmp_path / "out"))
    assert {topic for topic in written if topic.endswith("semantic")} == {
        "/depthforge/left/semantic",
        "/depthforge/right/semantic",
    }
    with pytest.raises(BagError, match="already has /depthforge/labels; choose another"):
        annotate_bag(tmp_path / "out", tmp_path / "again", pipeline(), topics=["/left/image_raw"])
    assert not (tmp_path / "again.partial").exists()


@pytest.mark.parametrize(
    ("topic", "name"),
    [
        ("/front/image_raw", "front"),
        ("/sensing/camera/front/image_rect_color/compressed", "front"),
        ("/image", "image"),
        ("/cam0", "cam0"),
    ],
)
def test_names_of_cameras(topic: str, name: str) -> None:
    assert camera_name(topic) == name
