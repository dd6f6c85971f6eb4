# SPDX-License-Identifier: Apache-2.0
"""Playing bags with odd clocks, names and options."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import rclpy
from bagfiles import START_NS, Recorded, image, info, recorded, text, write_bag
from dds import own_domain
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image

from depthforge_ros import cli
from depthforge_ros.ros.bags.reader import open_bag
from depthforge_ros.ros.play.bag_source import BagSource
from depthforge_ros.ros.play.play_command import PARTIAL
from depthforge_ros.ros.play.publisher import play

NOW_NS = 1_790_000_000_000_000_000
SECOND_NS = 1_000_000_000
KINDS = {"/image": Image, "/camera_info": CameraInfo}


@pytest.fixture(autouse=True)
def domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(own_domain()))


def restamped_ns(path: Path, speed: float = 1.0) -> list[int]:
    """Stamps that `play --stamps now` sends if it begins at NOW_NS, from its beginning on."""
    with open_bag(path) as bag:
        source = BagSource(bag, None, speed, True)
        sent = [
            deserialize_message(item.message(NOW_NS), KINDS[item.topic]) for item in source.items()
        ]
    return [m.header.stamp.sec * SECOND_NS + m.header.stamp.nanosec - NOW_NS for m in sent]


@pytest.mark.parametrize("device_ns", [12 * SECOND_NS, 2 * START_NS // 3, START_NS])
def test_stamps_of_another_clock_are_moved_to_now(tmp_path: Path, device_ns: int) -> None:
    """Since a camera was switched on, of a simulation, and of the bag's own clock."""
    messages = []
    for i in range(3):
        at_ns, stamp_ns = START_NS + i * SECOND_NS, device_ns + i * SECOND_NS
        messages += [recorded("/image", at_ns, image(i, stamp_ns))]
        messages += [recorded("/camera_info", at_ns + 5, info(stamp_ns))]
    path = write_bag(tmp_path / "bag", messages)
    assert restamped_ns(path) == [i * SECOND_NS for i in (0, 0, 1, 1, 2, 2)]
    assert restamped_ns(path, 2.0) == [i * SECOND_NS // 2 for i in (0, 0, 1, 1, 2, 2)]


def test_two_foreign_clocks_have_a_time_line_each_and_no_stamp_stays_none(tmp_path: Path) -> None:
    stamps_ns = (12 * SECOND_NS, 90_000 * SECOND_NS, 13 * SECOND_NS, 90_001 * SECOND_NS, 0)
    messages = [
        recorded("/image", START_NS + i * SECOND_NS // 2, image(i, stamp_ns))
        for i, stamp_ns in enumerate(stamps_ns)
    ]
    half, second = SECOND_NS // 2, SECOND_NS
    path = write_bag(tmp_path / "bag", messages)
    assert restamped_ns(path) == [0, half, second, half + second, -NOW_NS]


def test_a_simulated_log_with_wall_clock_stamps_does_not_overflow(tmp_path: Path) -> None:
    messages = [recorded("/image", (1 + i) * SECOND_NS, image(i, START_NS)) for i in range(2)]
    assert restamped_ns(write_bag(tmp_path / "bag", messages)) == [0, 0]


def test_names_that_ros_cannot_have_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("bad name", "/1st", "/a//b", "/ümlaut", "", "/end/", "/a{b}", "~/x", "/a" * 200)
    messages = [recorded(name, START_NS, text("x")) for name in (*names, "relative/name", "/good")]
    with open_bag(write_bag(tmp_path / "bag", messages)) as bag:
        source = BagSource(bag)
        assert sorted(source.offers) == ["/good", "relative/name"]
        assert source.skipped == len(names)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == list(names)
    assert "Invalid topic name" in lines[0]
    assert "is not installed" not in "".join(lines)


def test_times_that_clock_cannot_hold_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = 4_200_000_000 * SECOND_NS
    path = write_bag(tmp_path / "bag", [recorded("/text", late, text("2103"))])
    assert cli.main(["play", str(path), "--clock", "10"]) == 2
    assert "log times go up to 4200000001 s; /clock cannot hold" in capsys.readouterr().err
    assert cli.main(["play", str(path)]) == 0


class _Impatient(threading.Event):
    """Stops where it would have to wait for minutes."""

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None and timeout > 60:
            self.set()
        return super().wait(timeout)


def test_a_long_pause_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recorder that began before its clock was set."""
    hour = 3600 * SECOND_NS
    messages = [recorded("/text", at, text("x")) for at in (hour, 51 * hour)]
    rclpy.init(args=[], domain_id=own_domain())
    try:
        with open_bag(write_bag(tmp_path / "bag", messages)) as bag:
            report = play(Node("player"), BagSource(bag), _Impatient())
    finally:
        rclpy.shutdown()
    assert report.published == {"/text": 1}
    assert report.interrupted
    assert capsys.readouterr().err == "next message in 2 days, 2:00:00; Ctrl-C ends the wait\n"


@pytest.mark.parametrize("speed", ["1e-310", "1e308", "0", "nan"])
def test_speeds_without_sense_are_refused(
    tmp_path: Path, speed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_bag(tmp_path / "bag", [recorded("/text", START_NS, text("x"))])
    assert cli.main(["play", str(path), "--speed", speed]) == 2
    assert "--speed is " in capsys.readouterr().err


def test_a_message_of_no_bytes_is_played(tmp_path: Path) -> None:
    messages = [
        Recorded("/image", "sensor_msgs/msg/Image", START_NS, raw)
        for raw in (b"", b"\0", b"\0\1\0\0", b"\0\1\0\0" + b"\xff" * 8)
    ]
    path = write_bag(tmp_path / "bag", messages)
    assert cli.main(["play", str(path), "--stamps", "now"]) in (0, PARTIAL)
