# SPDX-License-Identifier: Apache-2.0
"""Bags that other programs wrote: what is not ours is kept, or left out by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
import zstandard
from bagfiles import START_NS, image, qos, recorded, write_bag
from mcap.reader import SeekingReader
from mcap.writer import Writer as McapWriter
from text_bags import DEFINITION, TEXTS, expected, mcap, read

from depthforge_ros import cli
from depthforge_ros.ros.bags.batch import PARTIAL
from depthforge_ros.ros.bags.reader import open_bag
from depthforge_ros.ros.bags.topic import BagError

INSTANT = ("--checkpoint", "instant", "--short-side", "64")


def test_channels_that_are_not_ros_2_are_left_out_by_name(tmp_path: Path) -> None:
    file = tmp_path / "drive.mcap"

    def write(*channels: tuple[str, str, str, int]) -> None:
        with file.open("wb") as stream:
            writer = McapWriter(stream)
            writer.start("", "test")
            for topic, encoding, schema_encoding, count in channels:
                schema = writer.register_schema("std_msgs/String", schema_encoding, DEFINITION)
                channel = writer.register_channel(topic, encoding, schema)
                for index in range(count):
                    message = TEXTS[index]
                    writer.add_message(channel, message.time_ns, message.raw, message.time_ns)
            writer.finish()

    write(
        ("/text", "cdr", "ros2msg", 3),
        ("/log", "json", "jsonschema", 2),
        ("/box", "protobuf", "protobuf", 1),
        ("/old", "ros1", "ros1msg", 1),
        ("/idle", "json", "jsonschema", 0),
    )
    messages, bag = read(file)
    assert messages == expected(TEXTS[:3])  # also by the full name of their type
    assert sorted(bag.losses()) == [
        "/box: 1 protobuf messages are left out",
        "/log: 2 json messages are left out",
        "/old: 1 ROS 1 messages are left out",
    ]
    assert bag.remarks == ["/idle: a json topic without messages"]
    for encoding, schema in (("ros1", "ros1msg"), ("cdr", "ros1msg")):
        write(("/text", encoding, schema, 2))
        with pytest.raises(BagError, match="holds ROS 1 messages; convert"), open_bag(file):
            pass


@pytest.mark.parametrize(
    ("kind", "definition"),
    [
        ("my_msgs/msg/Foo", "my_msgs/Bar bar\n"),
        ("my_msgs/msg/Foo", "int32 a\r\nint32 b\r\n"),
        ("my_msgs/msg/Foo", "wstring name\n"),
        ("my_msgs/msg/Foo", ""),
        ("my_msgs/action/Grip_FeedbackMessage", ""),
        ("my_msgs/msg/Foo", "this is { no definition ("),
    ],
)
def test_definitions_that_cannot_be_parsed_are_copied(
    tmp_path: Path, kind: str, definition: str
) -> None:
    source, target = tmp_path / "drive.mcap", tmp_path / "out"
    with source.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start("ros2", "test")
        odd = writer.register_schema(kind, "ros2msg", definition.encode())
        writer.add_message(writer.register_channel("/odd", "cdr", odd), 1, b"\0\1\0\0\7", 1)
        frames = writer.register_schema("sensor_msgs/msg/Image", "ros2msg", b"")
        raw = recorded("/image", 2, image(0, 2)).raw
        writer.add_message(writer.register_channel("/image", "cdr", frames), 2, raw, 2)
        writer.finish()
    assert cli.main(["annotate", str(source), str(target), *INSTANT]) == 0
    with open_bag(target) as bag:
        found = {topic.name: topic for topic in bag.topics}
        copied = [raw for topic, _, raw in bag.messages() if topic.name == "/odd"]
    assert (found["/odd"].kind, found["/odd"].definition) == (kind, definition)
    assert found["/depthforge/semantic"].count == 1
    assert copied == [b"\0\1\0\0\7"]


def test_what_a_bag_holds_beside_messages_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profiles = [qos("BEST_EFFORT", depth=3), qos("UNKNOWN", "UNKNOWN", 0, "UNKNOWN")]
    messages = [recorded("/image", START_NS, image(0, START_NS))]
    source = write_bag(tmp_path / "in", messages, profiles={"/image": profiles})
    file = source / "in.mcap"
    with file.open("rb") as stream:
        reader = SeekingReader(stream)
        content = list(reader.iter_messages())
    with file.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start("ros2", "test")
        for schema, channel, message in content:
            known = writer.register_schema(schema.name, schema.encoding, schema.data)
            index = writer.register_channel(channel.topic, "cdr", known, channel.metadata)
            writer.add_message(index, message.log_time, message.data, message.publish_time)
        writer.add_attachment(5, 6, "calibration.yaml", "text/yaml", b"k: 1")
        writer.add_metadata("vehicle", {"plate": "X-1"})
        writer.finish()
    place = source / "metadata.yaml"
    described = yaml.safe_load(place.read_text())
    information = described["rosbag2_bagfile_information"]
    information |= {"ros_distro": "humble", "custom_data": {"driver": "Ada", "depthforge": "old"}}
    place.write_text(yaml.safe_dump(described))
    assert cli.main(["annotate", str(source), str(tmp_path / "out"), *INSTANT]) == 0
    with open_bag(tmp_path / "out") as bag:
        (attachment,) = bag.attachments()
        assert (attachment.name, attachment.data) == ("calibration.yaml", b"k: 1")
        assert bag.metadata == [("vehicle", {"plate": "X-1"})]
        assert bag.ros_distro == "humble"
        assert bag.custom_data["driver"] == "Ada"
        assert bag.custom_data["depthforge_before"] == "old"
        (topic,) = [topic for topic in bag.topics if topic.name == "/image"]
        assert topic.qos == tuple(profiles)
    capsys.readouterr()
    options = (*INSTANT, "--storage", "sqlite3")
    assert cli.main(["annotate", str(source), str(tmp_path / "db"), *options]) == PARTIAL
    assert "1 attachments left out: sqlite3 has none" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["file", "message"])
def test_bags_that_rosbag2_compressed(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    compressor = zstandard.ZstdCompressor()
    if mode == "message":
        packed = [m._replace(raw=compressor.compress(m.raw)) for m in TEXTS]
        name = mcap(folder / "bag_0.mcap", packed).name
    else:
        file = mcap(folder / "bag_0.mcap")
        name = f"{file.name}.zstd"
        (folder / name).write_bytes(compressor.compress(file.read_bytes()))
        file.unlink()
    content = {"relative_file_paths": [name], "compression_format": "zstd"}
    content["compression_mode"] = mode.upper()
    place = folder / "metadata.yaml"
    place.write_text(yaml.safe_dump({"rosbag2_bagfile_information": content}))
    messages, bag = read(folder)
    assert (messages, bag.losses()) == (expected(), [])
