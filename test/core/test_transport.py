# SPDX-License-Identifier: Apache-2.0
"""Fast DDS profiles that are sized for cameras, and the other middleware files that ship."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from argparse import ArgumentParser
from pathlib import Path

import pytest
from paths import ROOT

from depthforge_ros import transport_command
from depthforge_ros.transport_command import MIB, message_bytes, profile, segment_bytes

SPACE = {"": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
SHIPPED = ROOT / "config" / "fastdds.xml"


def number(root: ET.Element, name: str) -> int:
    (element,) = root.iterfind(f".//transport_descriptor/{name}", SPACE)
    return int(element.text)


@pytest.mark.parametrize(
    ("width", "height", "cameras", "segment_mib", "message_mib"),
    [
        (640, 480, 1, 64, 32),
        (1920, 1080, 1, 64, 32),
        (1920, 1080, 6, 288, 32),
        (3840, 2160, 1, 192, 32),
        (3840, 2160, 4, 768, 32),
        (7680, 4320, 1, 768, 96),
    ],
)
def test_shared_memory_grows_with_pixels_and_cameras(
    width: int, height: int, cameras: int, segment_mib: int, message_mib: int
) -> None:
    assert segment_bytes(width, height, cameras) == segment_mib * MIB
    assert segment_bytes(width, height, cameras) >= 8 * 3 * width * height * cameras
    assert message_bytes(width, height) == message_mib * MIB
    root = ET.fromstring(profile(width, height, cameras))
    assert number(root, "segment_size") == segment_mib * MIB
    assert number(root, "maxMessageSize") == message_mib * MIB


def test_nothing_but_the_sizes_differs_from_the_shipped_profile() -> None:
    shipped, made = ET.parse(SHIPPED).getroot(), ET.fromstring(profile(1920, 1080, 2))
    for name in ("segment_size", "maxMessageSize"):
        for root in (shipped, made):
            next(root.iterfind(f".//transport_descriptor/{name}", SPACE)).text = ""
    assert ET.tostring(made) == ET.tostring(shipped)


@pytest.mark.parametrize(
    ("width", "height", "cameras", "text"),
    [
        (1920, 1080, 0, "the number of cameras is 0; expected 1..64"),
        (7680, 4320, 6, "6 cameras of 7680x4320 need 4560 MiB in one process, and Fast DDS has at"),
    ],
)
def test_what_fast_dds_cannot_hold_is_refused(
    width: int, height: int, cameras: int, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        profile(width, height, cameras)


def test_a_profile_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    transport_command.configure(parser)
    assert transport_command.run(parser.parse_args(["--size", "1280x720", "--cameras", "4"])) == 0
    assert capsys.readouterr().out == profile(1280, 720, 4)
    file = tmp_path / "mine.xml"
    args = parser.parse_args(["--size", "1280x720", "--cameras", "4", "--out", str(file)])
    assert transport_command.run(args) == 0
    assert file.read_text("utf-8") == profile(1280, 720, 4)
    assert capsys.readouterr().out.splitlines() == [
        f"export FASTRTPS_DEFAULT_PROFILES_FILE={file}",
        f"export FASTDDS_DEFAULT_PROFILES_FILE={file}",
    ]
    with pytest.raises(FileExistsError):
        transport_command.run(args)


def test_the_cyclone_file_asks_for_no_more_than_the_doctor_looks_for() -> None:
    space = {"": "https://cdds.io/config"}
    root = ET.parse(ROOT / "config" / "cyclonedds.xml").getroot()
    buffer = root.find(".//SocketReceiveBufferSize", space)
    source = (ROOT / "depthforge_ros" / "doctor" / "machine.py").read_text("utf-8")
    assert buffer.get("min") == "10MB"
    assert "CYCLONE_BYTES = 10_000_000\n" in source
    assert root.find(".//MaxMessageSize", space).text == "65500B"


def test_the_shipped_profile_is_chosen_unless_the_user_chose_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fastrtps, fastdds = transport_command.PROFILE_VARIABLES
    monkeypatch.chdir(tmp_path)
    shipped = str(ROOT / "config" / "fastdds.xml")
    for before, after in (
        ({}, {fastrtps: shipped, fastdds: shipped}),
        ({fastrtps: "mine.xml"}, {fastrtps: "mine.xml"}),
        ({fastdds: "mine.xml"}, {fastdds: "mine.xml"}),
        ({transport_command.NO_PROFILE: "1"}, {transport_command.NO_PROFILE: "1"}),
    ):
        monkeypatch.setattr("os.environ", dict(before))
        transport_command.use_shipped_profile()
        assert os.environ == after
    (tmp_path / "DEFAULT_FASTRTPS_PROFILES.xml").write_text("mine")
    monkeypatch.setattr("os.environ", {})
    transport_command.use_shipped_profile()
    assert os.environ == {}
