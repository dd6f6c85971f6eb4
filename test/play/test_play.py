# SPDX-License-Identifier: Apache-2.0
"""`depthforge play` in a process of its own, and what arrives over DDS: stamps, bytes, counts."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from bagfiles import START_NS, compressed, image, info, qos, recorded, text, write_bag
from dds import Listener, environment, own_domain
from geometry_msgs.msg import Vector3
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from depthforge_ros import cli
from depthforge_ros.ros.images import frame_from_compressed, stamp_ns
from depthforge_ros.ros.play.bag_source import open_bag_source

MANY = QoSProfile(depth=100)
BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def command(path: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "depthforge_ros.cli", "play", str(path), *options]


@contextmanager
def playing(domain: int, path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(path, "--timeout", "60", *options),
        env=environment(domain),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def play_to_the_end(
    listener: Listener, domain: int, path: Path, *options: str, status: int = 0
) -> tuple[str, str]:
    """Receive until the player has ended with that status; its stdout and stderr."""
    with playing(domain, path, *options) as process:
        listener.spin_until(lambda: process.poll() is not None, 90)
        out, errors = process.communicate()
        assert process.returncode == status, errors
    listener.drain()
    return out, errors


def picture(index: int) -> np.ndarray:
    """RGB [24, 40, 3] uint8."""
    return np.random.default_rng(index).integers(0, 256, (24, 40, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """1.png, 2.bmp, 10.jpg and what is no image."""
    path = tmp_path / "images"
    path.mkdir()
    for index, name in enumerate(("1.png", "2.bmp", "10.jpg")):
        cv2.imwrite(str(path / name), picture(index)[..., ::-1])
    (path / "notes.txt").write_text("not an image and not meant to be one")
    (path / ".hidden.png").write_bytes(b"")
    return path


def test_a_folder_reaches_a_best_effort_subscriber(folder: Path) -> None:
    (folder / "3.png").write_bytes((folder / "1.png").read_bytes()[:60])
    domain = own_domain()
    with Listener(domain) as listener:
        images = listener.subscribe(Image, "/camera/image_raw", BEST_EFFORT)
        before_ns = time.time_ns()
        out, errors = play_to_the_end(
            listener, domain, folder, "--rate", "20", "--wait-for-subscribers", "1", status=3
        )
    assert len(images) == 3
    for message, index in zip(images[:2], (0, 1), strict=True):
        assert message.data.tobytes() == picture(index).tobytes()
    jpeg = cv2.imread(str(folder / "10.jpg"))[..., ::-1]
    assert images[2].data.tobytes() == jpeg.tobytes()
    for message in images:
        assert (message.encoding, message.width, message.height) == ("rgb8", 40, 24)
        assert message.header.frame_id == "camera"
    stamps = [stamp_ns(message.header) for message in images]
    assert before_ns < stamps[0] < stamps[1] < stamps[2] < time.time_ns()
    assert f"{folder / '3.png'} is no image that OpenCV can read; skipped" in errors
    assert "published 3 messages" in out
    assert "/camera/image_raw 3), skipped 1" in out


def test_a_folder_compressed_with_camera_info(folder: Path) -> None:
    domain = own_domain()
    with Listener(domain) as listener:
        images = listener.subscribe(CompressedImage, "/front/image/compressed", MANY)
        infos = listener.subscribe(CameraInfo, "/front/camera_info", MANY)
        options = ("--topic", "/front/image", "--frame-id", "front", "--fov", "90")
        play_to_the_end(
            listener, domain, folder, "--compressed", *options, "--wait-for-subscribers", "2"
        )
    assert [message.format for message in images] == ["png", "jpeg", "jpeg"]
    for message, name in ((images[0], "1.png"), (images[2], "10.jpg")):
        assert message.data.tobytes() == (folder / name).read_bytes()
    assert frame_from_compressed(images[1]).rgb.shape == (24, 40, 3)
    assert [m.header for m in infos] == [m.header for m in images]
    for message in infos:
        assert (message.width, message.height, message.header.frame_id) == (40, 24, "front")
        focal_px = 20 / math.tan(math.radians(45))
        np.testing.assert_allclose(message.k, [focal_px, 0, 19.5, 0, focal_px, 11.5, 0, 0, 1])
        np.testing.assert_allclose(
            message.p, [focal_px, 0, 19.5, 0, 0, focal_px, 11.5, 0, 0, 0, 1, 0]
        )
        assert list(message.d) == [0] * 5


def test_a_folder_with_its_clock_is_stamped_by_it(folder: Path) -> None:
    (folder / "3.png").write_bytes(b"broken")  # leaves its place empty
    domain = own_domain()
    with Listener(domain) as listener:
        images = listener.subscribe(Image, "/camera/image_raw", MANY)
        clock = listener.subscribe(Clock, "/clock", MANY)
        play_to_the_end(
            listener,
            domain,
            folder,
            "--rate",
            "8",
            "--clock",
            "40",
            "--wait-for-subscribers",
            "2",
            status=3,
        )
    stamps = [stamp_ns(message.header) for message in images]
    assert np.diff(stamps).tolist() == [125_000_000, 250_000_000]
    ticks = [stamp_ns_of(message) for message in clock]
    assert np.diff(ticks).tolist() == [25_000_000] * (len(ticks) - 1)
    assert ticks[0] == stamps[0]
    assert ticks[-1] == stamps[0] + 500_000_000  # the last image lasts as long as the others


def stamp_ns_of(message: Clock) -> int:
    return message.clock.sec * 1_000_000_000 + message.clock.nanosec


STEP_NS = 40_000_000


def log_ns(index: int) -> int:
    return START_NS + index * STEP_NS


def bag_of(folder: Path, storage: str) -> Path:
    """Images, compressed ones, CameraInfo and a latched text, each with a QoS of its own."""
    messages = [recorded("/latched", log_ns(0), text("once"))]
    for index in range(5):
        stamp = log_ns(index) - 3_000_000
        messages += [
            recorded("/front/image_raw", log_ns(index), image(index, stamp)),
            recorded("/front/camera_info", log_ns(index), info(stamp)),
            recorded("/rear/compressed", log_ns(index) + 1000, compressed(index, stamp, ".jpg")),
        ]
    profiles = {
        "/latched": [qos(durability="TRANSIENT_LOCAL", depth=1)],
        "/front/image_raw": [qos("BEST_EFFORT", depth=10)],
        "/rear/compressed": [qos("UNKNOWN", "UNKNOWN", 0, "UNKNOWN")],
    }
    return write_bag(folder / "bag", messages, storage, profiles)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_is_played_byte_for_byte(tmp_path: Path, storage: str) -> None:
    bag, domain = bag_of(tmp_path, storage), own_domain()
    with Listener(domain) as listener:
        subscribed = {
            "/front/image_raw": (Image, qos_profile_sensor_data),
            "/front/camera_info": (CameraInfo, MANY),
            "/rear/compressed": (CompressedImage, MANY),
            "/latched": (String, LATCHED),
        }
        received = {
            topic: listener.subscribe(kind, topic, profile, raw=True)
            for topic, (kind, profile) in subscribed.items()
        }
        clock = listener.subscribe(Clock, "/clock", MANY)
        out, _ = play_to_the_end(
            listener, domain, bag, "--wait-for-subscribers", "5", "--clock", "50"
        )
        ended = {t: listener.node.get_publishers_info_by_topic(t) for t in subscribed}
    assert "published 16 messages" in out
    assert not any(ended.values())
    for index in range(5):
        stamp = log_ns(index) - 3_000_000
        assert same(received["/front/image_raw"][index], image(index, stamp))
        assert same(received["/front/camera_info"][index], info(stamp))
        assert same(received["/rear/compressed"][index], compressed(index, stamp, ".jpg"))
    assert same(received["/latched"][0], text("once"))
    assert [len(messages) for messages in received.values()] == [5, 5, 5, 1]
    assert [stamp_ns_of(m) for m in clock] == [START_NS + i * 20_000_000 for i in range(9)]


def same(raw: bytes, message: object) -> bool:
    return deserialize_message(raw, type(message)) == message


def test_recorded_qos_is_what_dds_offers(tmp_path: Path) -> None:
    bag, domain = bag_of(tmp_path, "mcap"), own_domain()
    with Listener(domain) as listener, playing(domain, bag, "--loop") as process:
        late: dict[str, list] = {}

        def offered() -> bool:
            for topic in ("/front/image_raw", "/rear/compressed", "/latched"):
                late[topic] = listener.node.get_publishers_info_by_topic(topic)
            assert process.poll() is None
            return all(late.values())

        listener.spin_until(offered, 60)
        front, rear, latched = (late[topic][0].qos_profile for topic in late)
        # Whoever comes late still gets what was latched.
        texts = listener.subscribe(String, "/latched", LATCHED)
        listener.spin_until(lambda: bool(texts))
    assert front.reliability is ReliabilityPolicy.BEST_EFFORT
    assert rear.reliability is ReliabilityPolicy.RELIABLE
    assert rear.durability is DurabilityPolicy.VOLATILE
    assert latched.durability is DurabilityPolicy.TRANSIENT_LOCAL
    assert texts[0].data == "once"


def test_speed_topics_and_stamps_of_now(tmp_path: Path) -> None:
    bag, domain = bag_of(tmp_path, "mcap"), own_domain()
    with Listener(domain) as listener:
        images = listener.subscribe(Image, "/front/image_raw", BEST_EFFORT)
        infos = listener.subscribe(CameraInfo, "/front/camera_info", MANY)
        rear = listener.subscribe(CompressedImage, "/rear/compressed", MANY)
        before_ns = time.time_ns()
        topics = ("--topics", "/front/image_raw", "/front/camera_info")
        options = ("--speed", "0.5", "--stamps", "now", "--wait-for-subscribers", "2")
        play_to_the_end(listener, domain, bag, *topics, *options)
        after_ns = time.time_ns()
    assert rear == []
    stamps = [stamp_ns(message.header) for message in images]
    assert [stamp_ns(message.header) for message in infos] == stamps
    assert np.diff(stamps).tolist() == [2 * STEP_NS] * 4
    assert before_ns < stamps[0] < stamps[-1] < after_ns
    expected = image(0, 0)
    expected.header = images[0].header
    assert images[0] == expected


def test_a_big_endian_header_is_restamped(tmp_path: Path) -> None:
    raw = bytearray(serialize_message(Header(frame_id="a")))
    message = b"\x00\x00" + raw[2:4] + bytes([0x65, 0x53, 0xF1, 0x00, 0, 0, 0, 7])
    record = recorded("/info", START_NS, info(START_NS))._replace(raw=message)
    bag = write_bag(tmp_path / "bag", [record])
    with open_bag_source(bag, None, 1.0, True) as source:
        (item,) = source.items()
        moved = item.message(5_000_000_000)
    assert moved[:4] == message[:4]
    assert moved[4:] == bytes([0, 0, 0, 5, 0, 0, 0, 7])


def test_a_damaged_bag_is_played_as_far_as_it_goes(tmp_path: Path) -> None:
    domain = own_domain()
    messages = [recorded("/image", START_NS + i * 10**6, image(i, START_NS)) for i in range(600)]
    bag = write_bag(tmp_path / "bag", messages, "mcap")
    file = bag / "bag.mcap"
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 65536] = bytes(65536)
    file.write_bytes(content)
    with Listener(domain) as listener:
        seen = listener.subscribe(Image, "/image", QoSProfile(depth=600), raw=True)
        with playing(domain, bag, "--wait-for-subscribers", "1") as process:
            listener.spin_until(lambda: process.poll() is not None, 90)
            out, errors = process.communicate()
        listener.drain()
    assert process.returncode == 3
    assert f"/image {len(seen)}), skipped 0" in out
    assert f"{file} is damaged in the " in errors
    assert f"/image: {len(seen)} of 600 messages read" in errors
    assert 200 < len(seen) < 600
    pixels = {image(i, START_NS).data.tobytes() for i in range(600)}
    assert all(deserialize_message(raw, Image).data.tobytes() in pixels for raw in seen)


def test_a_loop_until_interrupted(tmp_path: Path) -> None:
    bag, domain = bag_of(tmp_path, "sqlite3"), own_domain()
    with Listener(domain) as listener:
        infos = listener.subscribe(CameraInfo, "/front/camera_info", MANY)
        options = ("--loop", "--speed", "4", "--wait-for-subscribers", "1")
        with playing(domain, bag, *options) as process:
            listener.spin_until(lambda: len(infos) >= 12, 60)
            process.send_signal(signal.SIGINT)
            listener.spin_until(lambda: process.poll() is not None)
            out, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "interrupted" in out
    listener_stamps = [stamp_ns(message.header) for message in infos[:12]]
    one_pass = [log_ns(index) - 3_000_000 for index in range(5)]
    assert listener_stamps == (one_pass * 3)[:12]


def test_types_that_are_not_installed_are_skipped_by_name(tmp_path: Path) -> None:
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(
            "/odd", "odd_msgs/msg/Odd", msgdef="int8 a", rihs01="RIHS01_" + "0" * 64
        )
        writer.write(connection, START_NS, b"\0\1\0\0\7")
        connection = writer.add_connection(
            "/vector", "geometry_msgs/msg/Vector3", msgdef="float64 x", rihs01="RIHS01_" + "1" * 64
        )
        writer.write(connection, START_NS, serialize_message(Vector3(x=4.0)))
    domain = own_domain()
    with Listener(domain) as listener:
        vectors = listener.subscribe(Vector3, "/vector", MANY)
        out, errors = play_to_the_end(
            listener, domain, tmp_path / "bag", "--wait-for-subscribers", "1", status=3
        )
    assert vectors == [Vector3(x=4.0)]
    assert "/odd: odd_msgs/msg/Odd is not installed; 1 messages skipped" in errors
    assert "skipped 1" in out


def test_a_bag_waits_for_a_node_whoever_else_subscribes(tmp_path: Path) -> None:
    bag, domain = bag_of(tmp_path, "mcap"), own_domain()
    options = ("--clock", "50", "--wait-for-node", "/seer")
    with Listener(domain) as viewer, playing(domain, bag, *options) as process:
        seen = viewer.subscribe(Image, "/front/image_raw", BEST_EFFORT)
        ticks = viewer.subscribe(Clock, "/clock", MANY)
        names = ("/front/image_raw", "/clock")
        viewer.spin_until(lambda: all(map(viewer.node.get_publishers_info_by_topic, names)))
        with Listener(domain, "seer") as seer:
            seer.subscribe(Clock, "/clock", MANY)
            for _ in range(4):
                viewer.drain()
            assert (seen, ticks) == ([], [])
            images = seer.subscribe(Image, "/front/image_raw", BEST_EFFORT)
            seer.spin_until(lambda: process.poll() is not None, 90)
            seer.drain()
    stamps = [stamp_ns(message.header) for message in images]
    assert stamps == [log_ns(index) - 3_000_000 for index in range(5)]


def test_a_node_that_does_not_come(folder: Path, tmp_path: Path) -> None:
    def reported(path: Path, *options: str) -> str:
        env = environment(own_domain())
        words = command(path, "--wait-for-node", "/front/depthforge", *options)
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        return done.stderr

    assert (
        "node /front/depthforge has not subscribed to /camera/image_raw within 0.2 s; "
        "subscribed: nobody" in reported(folder, "--timeout", "0.2")
    )
    bag = bag_of(tmp_path, "mcap")
    assert "there are none to publish" in reported(bag, "--topics", "/latched")


def test_subscribers_that_do_not_come(folder: Path) -> None:
    done = subprocess.run(
        command(folder, "--wait-for-subscribers", "2", "--timeout", "0.2"),
        env=environment(own_domain()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "0 of 2 subscriptions within 0.2 s: /camera/image_raw 0" in done.stderr


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--speed", "2"], "is a folder; --speed is not for it"),
        (["--stamps", "original", "--topics", "/a"], "is a folder; --topics, --stamps is not"),
        (["--rate", "0"], "--rate is 0.0; expected a number above 0"),
        (["--rate", "nan"], "--rate is nan"),
        (["--clock", "-1"], "--clock is -1.0"),
        (["--fov", "180"], "fov is 180.0 degrees; expected 1..179"),
        (["--wait-for-subscribers", "-1"], "--wait-for-subscribers is -1; expected 0 or more"),
        (
            ["--wait-for-node", "depthforge"],
            "--wait-for-node is 'depthforge'; expected a name from",
        ),
    ],
)
def test_wrong_options_for_a_folder(
    folder: Path, options: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["play", str(folder), *options]) == 2
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--rate", "5"], "is a bag; --rate is not for it"),
        (["--compressed", "--frame-id", "a"], "is a bag; --frame-id, --compressed is not for it"),
        (["--topics", "/none"], "has no topic /none; it has /latched, /front/image_raw"),
    ],
)
def test_wrong_options_for_a_bag(
    tmp_path: Path, options: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["play", str(bag_of(tmp_path, "mcap")), *options]) == 2
    assert error in capsys.readouterr().err


def test_places_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("")
    for path, error in (
        (tmp_path, "has no images; expected .avif"),
        (tmp_path / "none", "does not exist"),
        (tmp_path / "a.txt", "is no bag"),
    ):
        assert cli.main(["play", str(path)]) == 2
        assert error in capsys.readouterr().err
