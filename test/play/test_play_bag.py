# SPDX-License-Identifier: Apache-2.0
"""`depthforge play` of a bag: stamps, bytes, QoS and counts as they arrive over DDS."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from bagfiles import START_NS, compressed, image, info, qos, recorded, text, write_bag
from dds import Listener, own_domain
from geometry_msgs.msg import Vector3
from players import (
    BEST_EFFORT,
    LATCHED,
    MANY,
    STEP_NS,
    WAIT_SURELY,
    bag_of,
    log_ns,
    play_to_the_end,
    playing,
    stamp_ns_of,
)
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from depthforge_ros import cli
from depthforge_ros.ros.images import stamp_ns
from depthforge_ros.ros.play.bag_source import open_bag_source


def same(raw: bytes, message: object) -> bool:
    return deserialize_message(raw, type(message)) == message


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
        options = ("--wait-for-subscribers", "5", *WAIT_SURELY, "--clock", "50")
        out, _ = play_to_the_end(listener, domain, bag, *options)
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


def test_recorded_qos_is_what_dds_offers(tmp_path: Path) -> None:
    bag, domain = bag_of(tmp_path, "mcap"), own_domain()
    with Listener(domain) as listener, playing(domain, bag, "--loop") as process:
        late: dict[str, list] = {}

        def offered() -> bool:
            for topic in ("/front/image_raw", "/rear/compressed", "/latched"):
                late[topic] = listener.node.get_publishers_info_by_topic(topic)
            assert process.poll() is None
            return all(late.values())

        listener.spin_until(offered)
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
        options += WAIT_SURELY
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
    profiles = {"/image": [qos(depth=600)]}  # nothing is overwritten that is still on its way
    bag = write_bag(tmp_path / "bag", messages, "mcap", profiles)
    file = bag / "bag.mcap"
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 65536] = bytes(65536)
    file.write_bytes(content)
    with Listener(domain) as listener:
        seen = listener.subscribe(Image, "/image", QoSProfile(depth=600), raw=True)
        with playing(domain, bag, "--wait-for-subscribers", "1") as process:
            listener.spin_until(lambda: process.poll() is not None)
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
        listener.subscribe(Image, "/front/image_raw", BEST_EFFORT)
        options = ("--loop", "--speed", "4", *WAIT_SURELY)
        with playing(domain, bag, *options) as process:
            listener.spin_until(lambda: len(infos) >= 12)
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
            seer.spin_until(lambda: process.poll() is not None)
            seer.drain()
    stamps = [stamp_ns(message.header) for message in images]
    assert stamps == [log_ns(index) - 3_000_000 for index in range(5)]


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
