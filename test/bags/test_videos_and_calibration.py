# SPDX-License-Identifier: Apache-2.0
"""Videos as input of annotate and play, and calibration from a file or from any topic."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from bagfiles import START_NS, header, image, info, recorded, write_bag
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depthforge_ros import cli
from depthforge_ros.ros.bags.calibration_file import read_camera_info
from depthforge_ros.ros.bags.reader import open_bag
from depthforge_ros.ros.bags.topic import BagError
from depthforge_ros.ros.bags.video import open_video
from depthforge_ros.ros.play.image_folder import calibrated_by
from depthforge_ros.ros.play.video_source import VideoSource

INSTANT = ("--checkpoint", "instant", "--short-side", "64")
HEIGHT, WIDTH, COUNT, RATE_HZ = 64, 96, 5, 20
CALIBRATION = {
    "image_width": WIDTH,
    "image_height": HEIGHT,
    "camera_name": "front",
    "distortion_model": "plumb_bob",
    "camera_matrix": {"rows": 3, "cols": 3, "data": [80.0, 0, 48, 0, 80, 32, 0, 0, 1]},
    "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.0] * 5},
}


def video(path: Path) -> Path:
    """Five frames, each of one colour."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), RATE_HZ, (WIDTH, HEIGHT))
    for index in range(COUNT):
        writer.write(np.full((HEIGHT, WIDTH, 3), 40 * index + 20, np.uint8))
    writer.release()
    return path


def calibration(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**CALIBRATION, **changes}), "utf-8")
    return path


def results(bag_path: Path) -> dict[str, list[tuple[int, bytes]]]:
    found: dict[str, list[tuple[int, bytes]]] = {}
    with open_bag(bag_path) as bag:
        for topic, time_ns, raw in bag.messages():
            found.setdefault(topic.name, []).append((time_ns, raw))
    return found


def test_a_video_is_annotated_with_a_calibration_file(tmp_path: Path) -> None:
    source, target = video(tmp_path / "drive.avi"), tmp_path / "out"
    file = calibration(tmp_path / "front.yaml")
    command = ["annotate", str(source), str(target), "--camera-info", str(file), *INSTANT]
    assert cli.main(command) == 0
    found = results(target)
    start_ns = source.stat().st_mtime_ns
    times = [start_ns + index * 50_000_000 for index in range(COUNT)]
    for name in ("semantic", "depth", "camera_info"):
        assert [time_ns for time_ns, _ in found[f"/depthforge/{name}"]] == times
    images = [raw for _, raw in found["/camera/image_raw/compressed"]]
    for index, raw in enumerate(images):
        message = deserialize_message(raw, CompressedImage)
        bgr = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
        assert bgr.shape == (HEIGHT, WIDTH, 3)
        assert abs(bgr.mean() - (40 * index + 20)) < 3
    camera = deserialize_message(found["/depthforge/camera_info"][0][1], CameraInfo)
    assert (camera.k[0], camera.k[2], camera.header.frame_id) == (80, 48, "camera")


def test_a_video_is_played_at_its_own_rate_and_again(tmp_path: Path) -> None:
    info_of = read_camera_info(calibration(tmp_path / "front.yaml"))
    with open_video(video(tmp_path / "drive.avi")) as capture:
        source = VideoSource(capture, calibration=calibrated_by(info_of), exact_stamps=True)
        assert set(source.offers) == {"/camera/image_raw", "/camera/camera_info"}
        assert source.duration_ns == COUNT * 50_000_000
        for _ in range(2):
            items = list(source.items())
            assert source.losses() == []
            assert [(item.time_ns - source.start_ns) // 50_000_000 for item in items] == [
                index for index in range(COUNT) for _ in range(2)
            ]
            camera, picture = (item.message(0) for item in items[:2])
            assert camera.header == picture.header
            assert (camera.k[0], picture.width, picture.height) == (80, WIDTH, HEIGHT)
            assert abs(np.frombuffer(picture.data, np.uint8).mean() - 20) < 3


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "drive.mp4").write_bytes(b"rubbish" * 100)
    for name, reason in (("drive.mp4", "cannot be opened by OpenCV"), ("no.mp4", "does not exist")):
        with pytest.raises(BagError, match=f"{name} {reason}"), open_video(tmp_path / name):
            pass


def test_camera_info_from_a_file_or_another_topic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = info(START_NS)
    other.header = header(START_NS, "rear")
    source = write_bag(
        tmp_path / "in",
        [
            recorded("/calibration/front", START_NS, info(START_NS)),
            recorded("/calibration/rear", START_NS, other),
            recorded("/front/image_raw", START_NS, image(0, START_NS)),
        ],
    )
    base = ["annotate", str(source)]
    assert cli.main([*base, str(tmp_path / "none"), *INSTANT]) == 0
    assert "1 images have no depth" in capsys.readouterr().out
    topic = ("--camera-info-topic", "/calibration/front")
    assert cli.main([*base, str(tmp_path / "topic"), *topic, *INSTANT]) == 0
    file = calibration(tmp_path / "front.yaml", image_width=48, image_height=32)
    assert cli.main([*base, str(tmp_path / "file"), "--camera-info", str(file), *INSTANT]) == 0
    assert "no depth" not in capsys.readouterr().out
    for name, focal_px in (("topic", 50), ("file", 80)):
        found = results(tmp_path / name)
        ((_, raw),) = found["/depthforge/camera_info"]
        assert deserialize_message(raw, CameraInfo).k[0] == focal_px
        ((_, raw),) = found["/depthforge/depth"]
        assert deserialize_message(raw, Image).encoding == "32FC1"
    wrong = ("--camera-info-topic", "/calibration/up")
    assert cli.main([*base, str(tmp_path / "no"), *wrong, *INSTANT]) == 2
    error = "no CameraInfo topic /calibration/up; CameraInfo topics of"
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("[", "is no YAML"),
        ("text", "is no calibration"),
        (yaml.safe_dump({**CALIBRATION, "image_width": 0}), "image_width is 0; expected a number"),
        (yaml.safe_dump({**CALIBRATION, "camera_matrix": 3}), "camera_matrix has no list `data`"),
        (
            yaml.safe_dump({**CALIBRATION, "camera_matrix": {"data": [1.0] * 8}}),
            "expected 9 finite numbers",
        ),
        (
            yaml.safe_dump({**CALIBRATION, "camera_matrix": {"data": [0.0] * 9}}),
            "camera_matrix has focal lengths 0, 0",
        ),
    ],
)
def test_a_faulty_calibration_file_is_named(tmp_path: Path, content: str, fault: str) -> None:
    file = tmp_path / "front.yaml"
    file.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=f"{file}.*{fault}"):
        read_camera_info(file)


def test_a_calibration_file_without_projection_gets_it_from_k(tmp_path: Path) -> None:
    read = read_camera_info(calibration(tmp_path / "front.yaml"))
    assert list(read.p) == [80, 0, 48, 0, 0, 80, 32, 0, 0, 0, 1, 0]
    assert list(read.r) == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert (read.width, read.height, list(read.d)) == (WIDTH, HEIGHT, [0] * 5)
