# SPDX-License-Identifier: Apache-2.0
"""Bags that ended badly or come from elsewhere: what can be read is read, the rest named."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
import zstandard
from bagfiles import START_NS, Recorded, image, qos, read_bag, recorded, text, write_bag
from mcap.reader import SeekingReader
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter

from depthforge_ros import cli
from depthforge_ros.ros.bags.batch import PARTIAL
from depthforge_ros.ros.bags.layout import is_bag
from depthforge_ros.ros.bags.reader import Bag, open_bag
from depthforge_ros.ros.bags.topic import BagError

STRING = "std_msgs/msg/String"
TEXTS = [recorded("/text", START_NS + i, text(f"line {i:04d} ".ljust(500))) for i in range(40)]
INSTANT = ("--checkpoint", "instant", "--short-side", "64")
DEFINITION = b"string data\n"


def mcap(path: Path, messages: list[Recorded] = TEXTS, **options: object) -> Path:
    """An MCAP file of texts in chunks of 4 kB, as the mcap library writes it with these options."""
    options = {"chunk_size": 4096, "compression": CompressionType.NONE, **options}
    with path.open("wb") as file:
        writer = McapWriter(file, **options)
        writer.start("ros2", "test")
        schema = writer.register_schema(STRING, "ros2msg", DEFINITION)
        channel = writer.register_channel("/text", "cdr", schema)
        for message in messages:
            writer.add_message(channel, message.time_ns, message.raw, message.time_ns)
        writer.finish()
    return path


def read(path: Path) -> tuple[list[tuple], Bag]:
    """Every message that can be read, and the bag."""
    with open_bag(path) as bag:
        return [(t.name, t.kind, time_ns, raw) for t, time_ns, raw in bag.messages()], bag


def expected(messages: list[Recorded] = TEXTS) -> list[tuple]:
    return [tuple(message) for message in messages]


@pytest.mark.parametrize(
    "options",
    [
        {"index_types": IndexType.NONE},
        {"index_types": IndexType.MESSAGE},
        {"index_types": IndexType.CHUNK},
        {"use_chunking": False},
        {"use_statistics": False},
        {"repeat_channels": False, "repeat_schemas": False},
        {"use_summary_offsets": False},
        {"compression": CompressionType.ZSTD},
        {"compression": CompressionType.LZ4, "index_types": IndexType.NONE},
        {"enable_crcs": False},
    ],
    ids=str,
)
def test_every_part_of_an_index_may_be_absent(tmp_path: Path, options: dict) -> None:
    messages, bag = read(mcap(tmp_path / "drive.mcap", **options))
    assert messages == expected()
    assert (bag.losses(), bag.start_ns, bag.duration_ns) == ([], START_NS, 39)
    assert bag.topics[0].count == 40


def test_messages_come_in_the_order_of_their_log_times(tmp_path: Path) -> None:
    shuffled = [TEXTS[i ^ 9] for i in range(32)]
    for options in ({}, {"use_chunking": False}):
        messages, _ = read(mcap(tmp_path / "drive.mcap", shuffled, **options))
        assert messages == expected(TEXTS[:32])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("options", [{}, {"compression": CompressionType.ZSTD}], ids=str)
def test_a_killed_recorder_leaves_what_it_wrote(
    tmp_path: Path, share: float, options: dict
) -> None:
    file = mcap(tmp_path / "drive.mcap", **options)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    messages, bag = read(file)
    assert messages == expected()[: len(messages)]
    # At most one chunk of 4 kB is lost, and with compression the file is mostly its index.
    assert len(messages) >= (int(40 * share) - 9 if not options else 0)
    if len(messages) == 40:  # cut behind the data: nothing is lost
        assert bag.losses() == []
        return
    (loss,) = bag.losses()
    assert loss.startswith(f"{file} breaks off ")
    assert "`mcap recover`" in loss


def test_a_file_without_a_whole_chunk_has_nothing_to_read(tmp_path: Path) -> None:
    file = tmp_path / "drive.mcap"
    for content, reason in ((b"", "is empty"), (b"rubbish" * 9, "is no MCAP file")):
        file.write_bytes(content)
        with pytest.raises(BagError, match=f"{file} {reason}"), open_bag(file):
            pass
    file.write_bytes(mcap(tmp_path / "whole.mcap").read_bytes()[:40])
    messages, bag = read(file)
    assert messages == []
    assert len(bag.losses()) == 1


def test_a_stale_index_of_metadata_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "drive.mcap"
    with file.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start("ros2", "test")
        writer.add_metadata("vehicle", {"plate": "X-1"})
        writer.finish()
    with file.open("rb") as stream:
        (index,) = SeekingReader(stream).get_summary().metadata_indexes
    before, indexed, after = file.read_bytes().rpartition(struct.pack("<Q", index.offset))
    file.write_bytes(before + struct.pack("<Q", index.offset + 5) + after)
    assert indexed
    _, bag = read(file)
    assert (bag.metadata, bag.losses()) == ([("vehicle", {"plate": "X-1"})], [])


@pytest.mark.parametrize("enable_crcs", [True, False])
def test_a_damaged_chunk_costs_no_other(tmp_path: Path, enable_crcs: bool) -> None:
    file = mcap(tmp_path / "drive.mcap", enable_crcs=enable_crcs)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1200] = bytes(1200)
    file.write_bytes(content)
    messages, bag = read(file)
    assert set(messages) < set(expected())
    assert 31 <= len(messages) <= 38
    damage, count = bag.losses()
    assert damage.startswith(f"{file} is damaged in the ")
    assert count == f"/text: {len(messages)} of 40 messages read"


@pytest.mark.parametrize("storage", ["mcap", "compressed", "sqlite3"])
def test_no_damage_raises_and_none_is_silent(tmp_path: Path, storage: str) -> None:
    if storage == "sqlite3":
        file = write_bag(tmp_path / "bag", TEXTS, storage) / "bag.db3"
    else:
        kind = CompressionType.ZSTD if storage == "compressed" else CompressionType.NONE
        file = mcap(tmp_path / "drive.mcap", compression=kind)
    whole = file.read_bytes()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        content, start, length = bytearray(whole), *rng.integers(1, (len(whole), 3000))
        if seed % 3 == 0:
            del content[start:]
        elif seed % 3 == 1:
            content[start : start + length] = bytes(length)
        else:
            content[start : start + 4] = rng.bytes(4)
        file.write_bytes(content)
        try:
            messages, bag = read(file)
        except BagError:
            continue
        assert len(messages) == 40 or bag.losses(), seed


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


KILLED = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("PRAGMA journal_mode = WAL")
database.execute("PRAGMA wal_autocheckpoint = 0")
rows = database.execute("SELECT timestamp, data FROM messages ORDER BY id").fetchall()
for time_ns, data in rows:
    row = (time_ns + 100, data)
    database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)", row)
    database.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("writable", [True, False])
def test_the_write_ahead_log_of_a_killed_recorder_is_read(
    tmp_path: Path, writable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bag(tmp_path / "bag", TEXTS, "sqlite3")
    (folder / "metadata.yaml").unlink()
    file = (folder / "bag.db3").rename(folder / "bag_0.db3")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (folder / "bag_0.db3-shm").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"bag_0.db3", "bag_0.db3-wal"}
    if not writable:  # as root, a folder is always writable
        connect = sqlite3.connect

        def refuse(database: str, **options: object) -> sqlite3.Connection:
            if str(folder) in database:
                raise sqlite3.OperationalError("unable to open database file")
            return connect(database, **options)

        monkeypatch.setattr(sqlite3, "connect", refuse)
    messages, bag = read(folder)
    again = [message._replace(time_ns=message.time_ns + 100) for message in TEXTS]
    assert messages == expected([*TEXTS, *again])
    assert bag.losses() == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_broken_database_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    many = [m._replace(time_ns=START_NS + i) for i, m in enumerate(TEXTS * 20)]
    file = write_bag(tmp_path / "bag", many, "sqlite3") / "bag.db3"
    os.truncate(file, file.stat().st_size // 2)
    messages, bag = read(file)
    assert messages == expected(many)[: len(messages)]
    assert len(messages) > 200
    assert any("damaged" in loss or "breaks off" in loss for loss in bag.losses())
    database = sqlite3.connect(tmp_path / "other.db3")
    database.execute("CREATE TABLE other (id INTEGER)")
    database.close()
    with pytest.raises(BagError, match="lacks the tables"), open_bag(tmp_path / "other.db3"):
        pass


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_folders_whose_metadata_is_lacking_or_wrong(tmp_path: Path, storage: str) -> None:
    folder = write_bag(tmp_path / "bag", TEXTS, storage)
    place = folder / "metadata.yaml"
    whole = place.read_text("utf-8")
    place.write_text(whole.replace(f"storage_identifier: {storage}", "storage_identifier: ''"))
    messages, bag = read(folder)
    assert (messages, bag.losses()) == (expected(), [])
    place.write_text(whole.replace("message_count: 40", "message_count: 45"))
    _, bag = read(folder)
    assert bag.losses() == ["/text: 40 of 45 messages read"]
    place.write_text(whole[:20])
    messages, bag = read(folder)
    assert messages == expected()
    assert f"{place} cannot be read: " in bag.losses()[0]
    place.unlink()
    assert not is_bag(folder)  # nothing tells that its files belong together
    (file,) = folder.iterdir()
    file.rename(folder / f"bag_0{file.suffix}")
    messages, bag = read(folder)
    assert (messages, bag.losses()) == (expected(), [])
    assert bag.remarks == [f"{folder} has no metadata.yaml; `ros2 bag reindex` writes one"]


def test_a_missing_file_of_a_split_bag_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    for index in (10, 9):
        mcap(folder / f"bag_{index}.mcap", TEXTS[index : index + 1])
    messages, _ = read(folder)
    assert messages == expected(TEXTS[9:11])
    names = ["bag_9.mcap", "bag_11.mcap"]
    content = {"rosbag2_bagfile_information": {"relative_file_paths": names}}
    (folder / "metadata.yaml").write_text(yaml.safe_dump(content))
    messages, bag = read(folder)
    assert messages == expected(TEXTS[9:10])
    assert bag.losses() == [
        f"{folder / 'bag_11.mcap'} is missing",
        f"{folder / 'bag_10.mcap'} is left out: metadata.yaml does not name it",
    ]


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


def test_a_partial_bag_says_so_when_it_is_made_and_when_it_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [recorded("/image", START_NS + i, image(i, START_NS + i)) for i in range(3)]
    messages[1] = messages[1]._replace(raw=messages[1].raw[:60])
    source = write_bag(tmp_path / "drives" / "a", messages)
    into = tmp_path / "out"
    batch = ["annotate", str(source.parent), "--into", str(into), *INSTANT]
    assert cli.main(["annotate", str(source), str(tmp_path / "one"), *INSTANT]) == PARTIAL
    assert [cli.main(batch), cli.main(batch)] == [PARTIAL, PARTIAL]
    assert f"{into / 'a'}: 1 images: corrupt_message\n" in capsys.readouterr().err
    assert len(read_bag(into / "a")) == 3 + 1 + 2 * 2
    custom = yaml.safe_load((into / "a/metadata.yaml").read_text())
    custom = custom["rosbag2_bagfile_information"]["custom_data"]
    assert json.loads(custom["depthforge_losses"]) == ["1 images: corrupt_message"]
