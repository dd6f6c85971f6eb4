# SPDX-License-Identifier: Apache-2.0
"""Bags that are whole and odd: their files, log times, names, definitions and compression."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
import zstandard
from bagfiles import START_NS, Recorded, compressed, image, recorded, text, write_bag
from mcap.reader import SeekingReader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rcl_interfaces.srv import GetParameters

from depthforge_ros import cli
from depthforge_ros.ros.bags.batch import PARTIAL
from depthforge_ros.ros.bags.reader import Bag, open_bag
from depthforge_ros.ros.bags.topic import BagError, Topic, message_class, parsed_qos, qos_profile

IMAGE, STRING = "sensor_msgs/msg/Image", "std_msgs/msg/String"
INSTANT = ("--checkpoint", "instant", "--short-side", "64")
TEXTS = [recorded("/text", START_NS + i, text(f"line {i}" * 50)) for i in range(8)]
FOO = b"\0\1\0\0\1\0\0\0"
IDL = "module my_msgs { module msg { struct Foo { long a; }; }; };"


def mcap(
    path: Path,
    messages: Sequence[Recorded],
    definitions: dict[str, tuple[str, str]] | None = None,
    metadata: dict[str, str] | None = None,
    **options: object,
) -> Path:
    """An MCAP file. definitions: encoding and text of the schemas of topics."""
    with path.open("wb") as file:
        writer = McapWriter(file, **{"compression": CompressionType.NONE, **options})
        writer.start("ros2", "test")
        channels: dict[tuple[str, str], int] = {}
        for topic, kind, time_ns, raw in messages:
            if (topic, kind) not in channels:
                encoding, definition = (definitions or {}).get(topic, ("ros2msg", ""))
                schema = writer.register_schema(kind, encoding, definition.encode())
                made = writer.register_channel(topic, "cdr", schema, metadata or {})
                channels[topic, kind] = made
            writer.add_message(channels[topic, kind], time_ns, raw, time_ns)
        writer.finish()
    return path


def describe(folder: Path, names: list, **fields: object) -> Path:
    """Write metadata.yaml."""
    content = {"relative_file_paths": names, **fields}
    place = folder / "metadata.yaml"
    place.write_text(yaml.safe_dump({"rosbag2_bagfile_information": content}))
    return folder


def database(
    path: Path,
    rows: Sequence[tuple[int, int, bytes]],
    topics: Sequence[tuple[int, str, str, str, str]] = ((1, "/text", STRING, "cdr", ""),),
) -> sqlite3.Connection:
    """A sqlite3 bag as Foxy writes it, open."""
    made = sqlite3.connect(path)
    made.execute(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, "
        "serialization_format TEXT, offered_qos_profiles TEXT)"
    )
    made.execute(
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
        "data BLOB)"
    )
    made.executemany("INSERT INTO topics VALUES (?, ?, ?, ?, ?)", topics)
    made.executemany("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", rows)
    made.commit()
    return made


def read(path: Path) -> tuple[list[tuple], Bag]:
    """Every message that can be read, and the bag."""
    with open_bag(path) as bag:
        return [(t.name, t.kind, time_ns, raw) for t, time_ns, raw in bag.messages()], bag


def expected(messages: Sequence[Recorded] = TEXTS) -> list[tuple]:
    return [tuple(message) for message in messages]


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A folder with two files of one bag, without metadata.yaml."""
    folder = tmp_path / "bag"
    folder.mkdir()
    mcap(folder / "bag_0.mcap", TEXTS[:4])
    mcap(folder / "bag_1.mcap", TEXTS[4:])
    return folder


def test_files_are_read_in_the_order_of_their_times(split: Path) -> None:
    messages, bag = read(describe(split, ["bag_1.mcap", "bag_0.mcap"]))
    assert (messages, bag.losses()) == (expected(), [])
    mcap(split / "bag_0.mcap", TEXTS[::2])
    mcap(split / "bag_1.mcap", TEXTS[1::2])
    messages, bag = read(split)
    assert (messages, bag.losses()) == (expected(), [])


@pytest.mark.parametrize("names", [[], ["old_0.mcap", "old_1.mcap"]])
def test_files_that_were_renamed_are_read(split: Path, names: list[str]) -> None:
    messages, bag = read(describe(split, names))
    assert (messages, bag.losses()) == (expected(), [])
    assert bag.remarks == [
        f"metadata.yaml names {', '.join(names) or 'no files'}; {split} has bag_0.mcap, "
        "bag_1.mcap, read instead"
    ]


def test_a_file_may_be_named_twice_or_not_by_a_text(split: Path) -> None:
    messages, _ = read(describe(split, ["bag_0.mcap", "bag_1.mcap", "bag_0.mcap"]))
    assert messages == expected()
    messages, bag = read(describe(split, ["bag_0.mcap", "bag_1.mcap", None]))
    assert (messages, bag.losses()) == (expected(), [f"{split / 'None'} is missing"])


@pytest.mark.parametrize(
    "fields",
    [
        {"topics_with_message_count": 5, "custom_data": [1], "ros_distro": 7},
        {"topics_with_message_count": [None, {"topic_metadata": None}, {"topic_metadata": {}}]},
        {"topics_with_message_count": {"a": 1}, "custom_data": {"a": 5, 3: None}},
    ],
    ids=str,
)
def test_odd_fields_of_metadata_cost_nothing(split: Path, fields: dict) -> None:
    messages, bag = read(describe(split, ["bag_0.mcap", "bag_1.mcap"], **fields))
    assert (messages, bag.losses()) == (expected(), [])
    assert all(isinstance(text, str) for text in (bag.ros_distro, *bag.custom_data.values()))


def test_files_may_be_decompressed_or_compressed_by_hand(split: Path) -> None:
    describe(split, ["bag_0.mcap.zstd", "bag_1.mcap"])
    file = split / "bag_1.mcap"
    packed = file.with_name(f"{file.name}.zstd")
    content = file.read_bytes()
    half = len(content) // 2  # as parallel compressors write it: frame after frame
    frames = (zstandard.compress(content[:half]), zstandard.compress(content[half:]))
    packed.write_bytes(b"".join(frames))
    file.unlink()
    messages, bag = read(split)
    assert (messages, bag.losses()) == (expected(), [])
    messages, bag = read(packed)  # by itself
    assert (messages, bag.losses()) == (expected(TEXTS[4:]), [])


def test_a_compressed_file_that_breaks_off_is_named(tmp_path: Path) -> None:
    file = mcap(tmp_path / "bag.mcap", TEXTS, chunk_size=600)
    packed = tmp_path / "bag.mcap.zstd"
    frames = [zstandard.compress(file.read_bytes()[i : i + 500]) for i in range(0, 3000, 500)]
    packed.write_bytes(b"".join(frames)[:-20])
    messages, bag = read(packed)
    assert 0 < len(messages) < 8
    assert messages == expected()[: len(messages)]
    assert bag.losses()[0] == f"{packed} breaks off after 2500 bytes of its content"
    assert all(str(packed) in loss for loss in bag.losses())
    packed.write_bytes(frames[0] + b"rubbish" * 9)
    assert "is damaged after 500 bytes of its content" in read(packed)[1].losses()[0]


@pytest.mark.parametrize("described", [True, False])
def test_a_compressed_message_is_whole_or_counted(tmp_path: Path, described: bool) -> None:
    packed = [m._replace(raw=zstandard.compress(m.raw)) for m in TEXTS]
    packed[2] = packed[2]._replace(raw=packed[2].raw[:-9])
    file = mcap(tmp_path / "bag_0.mcap", packed)
    if described:
        describe(tmp_path, [file.name], compression_mode="MESSAGE", compression_format="zstd")
    messages, bag = read(tmp_path if described else file)
    assert messages == expected([*TEXTS[:2], *TEXTS[3:]])
    assert bag.losses() == ["/text: 7 of 8 messages read"]


def test_compression_that_is_not_known_is_named(tmp_path: Path) -> None:
    mcap(tmp_path / "bag_0.mcap", TEXTS[:1])
    describe(tmp_path, ["bag_0.mcap"], compression_mode="message", compression_format="lz4")
    messages, bag = read(tmp_path)
    loss = f"{tmp_path}: its messages are compressed by lz4; expected zstd"
    assert (messages, bag.losses()) == ([], [loss, "/text: 0 of 1 messages read"])


def test_messages_outside_of_chunks_are_read_as_well(tmp_path: Path) -> None:
    file = tmp_path / "bag.mcap"
    with file.open("wb") as stream:
        writer = McapWriter(stream, chunk_size=200)
        writer.start("ros2", "test")
        schema = writer.register_schema(STRING, "ros2msg", b"string data")
        channel = writer.register_channel("/text", "cdr", schema)
        for number, (_, _, time_ns, raw) in enumerate(TEXTS):
            if number == 4:
                writer._Writer__chunk_builder = None  # every chunk so far is finished
            writer.add_message(channel, time_ns, raw, time_ns)
        writer.finish()
    with file.open("rb") as stream:
        assert len(SeekingReader(stream).get_summary().chunk_indexes) == 4
    messages, bag = read(file)
    assert (messages, bag.losses()) == (expected(), [])


def test_times_of_the_statistics_may_be_zero(tmp_path: Path) -> None:
    file = mcap(tmp_path / "bag.mcap", TEXTS, enable_crcs=False)
    with file.open("rb") as stream:
        summary = SeekingReader(stream).get_summary()
    statistics = summary.statistics
    times = statistics.message_start_time, statistics.message_end_time
    packed = struct.pack("<IQQ", statistics.chunk_count, *times)
    before, found, after = file.read_bytes().rpartition(packed)
    assert found
    file.write_bytes(before + packed[:4] + bytes(16) + after)
    _, bag = read(file)
    assert (bag.start_ns, bag.duration_ns) == (START_NS, 7)


def test_messages_that_were_cut_out_are_missed(tmp_path: Path) -> None:
    """Whole records are gone from the middle, so that nothing but the count tells of it."""
    file = mcap(tmp_path / "bag.mcap", TEXTS, use_chunking=False)
    content = file.read_bytes()
    start, end = (content.index(TEXTS[number].raw) for number in (3, 5))
    file.write_bytes(content[:start] + content[end:])
    messages, bag = read(file)
    assert len(messages) == 6
    assert bag.losses() == ["/text: 6 of 8 messages read"]


def test_texts_that_are_not_utf_8_cost_nothing(tmp_path: Path) -> None:
    for options in ({}, {"use_chunking": False}):
        metadata = {"owner": "QQQQ", "offered_qos_profiles": ""}
        file = mcap(tmp_path / "bag.mcap", TEXTS, None, metadata, enable_crcs=False, **options)
        file.write_bytes(file.read_bytes().replace(b"QQQQ", b"\xff\xfe\xe4\xfc"))
        messages, bag = read(file)
        assert (messages, bag.losses()) == (expected(), [])
    rows = [(1, m.time_ns, m.raw) for m in TEXTS]
    with database(tmp_path / "bag.db3", rows) as made:
        made.execute("UPDATE topics SET offered_qos_profiles = CAST(x'fffee4' AS TEXT)")
    made.close()
    messages, bag = read(tmp_path / "bag.db3")
    assert (messages, bag.losses()) == (expected(), [])


def test_rows_of_no_topic_are_counted_and_idle_topics_are_no_loss(tmp_path: Path) -> None:
    rows = [(1, m.time_ns, m.raw) for m in TEXTS]
    topics = [(1, "/text", STRING, "cdr", ""), (2, "/box", "a/msg/Box", "protobuf", "")]
    database(tmp_path / "bag.db3", rows, topics).close()
    messages, bag = read(tmp_path / "bag.db3")
    assert (messages, bag.losses()) == (expected(), [])
    assert bag.remarks == ["/box: a protobuf topic without messages"]
    rows += [(7, START_NS, b""), (8, START_NS, b"")]
    database(tmp_path / "two.db3", rows, topics[:1]).close()
    messages, bag = read(tmp_path / "two.db3")
    assert messages == expected()
    assert bag.losses() == [f"{tmp_path / 'two.db3'}: 2 messages have no topic and are left out"]


def test_a_definition_may_be_null(tmp_path: Path) -> None:
    topics = [(1, "/foo", "my_msgs/msg/Foo", "cdr", "")]
    with database(tmp_path / "bag.db3", [(1, START_NS, FOO)], topics) as made:
        made.execute(
            "CREATE TABLE message_definitions(topic_type TEXT, encoding TEXT, "
            "encoded_message_definition TEXT)"
        )
        made.execute("INSERT INTO message_definitions(topic_type) VALUES ('my_msgs/msg/Foo')")
    made.close()
    messages, bag = read(tmp_path / "bag.db3")
    assert messages == [("/foo", "my_msgs/msg/Foo", START_NS, FOO)]
    assert (bag.topics[0].definition, bag.topics[0].encoding) == ("", "")


def test_the_log_of_a_linked_database_is_read(tmp_path: Path) -> None:
    made = database(tmp_path / "bag.db3", [(1, TEXTS[0].time_ns, TEXTS[0].raw)])
    made.execute("PRAGMA journal_mode = WAL")
    made.execute("PRAGMA wal_autocheckpoint = 0")
    row = (1, TEXTS[1].time_ns, TEXTS[1].raw)
    made.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", row)
    made.commit()
    for suffix in ("", "-wal"):  # as a killed recorder leaves them
        content = (tmp_path / f"bag.db3{suffix}").read_bytes()
        (tmp_path / f"killed.db3{suffix}").write_bytes(content)
    made.close()
    link = tmp_path / "link.db3"
    link.symlink_to(tmp_path / "killed.db3")
    messages, bag = read(link)
    assert (messages, bag.losses()) == (expected(TEXTS[:2]), [])
    log = tmp_path / "killed.db3-wal"
    log.write_bytes(b"rubbish!" + log.read_bytes()[8:])
    messages, bag = read(link)
    assert messages == expected(TEXTS[:1])
    assert bag.losses() == [f"{log} is damaged: SQLite ignores it, and with it the last messages"]


def test_log_times_that_no_format_holds_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = recorded("/image", START_NS, image(0, START_NS)).raw
    topics = [(1, "/image", IMAGE, "cdr", "")]
    database(tmp_path / "bag.db3", [(1, -5, raw), (1, START_NS, raw)], topics).close()
    assert cli.main(["annotate", f"{tmp_path}/bag.db3", f"{tmp_path}/a", *INSTANT]) == PARTIAL
    assert "/image: 1 messages have log times outside of 1970 to 2262" in capsys.readouterr().err
    late = [Recorded("/image", IMAGE, time_ns, raw) for time_ns in (START_NS, 2**63 + 1)]
    file = mcap(tmp_path / "late.mcap", late)
    options = ["--storage", "sqlite3", *INSTANT]
    assert cli.main(["annotate", str(file), f"{tmp_path}/b", *options]) == PARTIAL
    for name in "ab":
        messages, _ = read(tmp_path / name)
        assert [time_ns for topic, _, time_ns, _ in messages if topic == "/image"] == [START_NS]


def test_images_of_two_types_on_one_topic_are_all_annotated(tmp_path: Path) -> None:
    messages = [
        recorded("/image", START_NS, image(0, START_NS)),
        recorded("/image", START_NS + 1, compressed(1, START_NS + 1)),
        recorded("/image", START_NS + 2, text("no image")),
    ]
    file = mcap(tmp_path / "bag.mcap", messages)
    assert cli.main(["annotate", str(file), f"{tmp_path}/out", *INSTANT]) == 0
    found, _ = read(tmp_path / "out")
    times = [time_ns for topic, _, time_ns, _ in found if topic == "/depthforge/semantic"]
    assert times == [START_NS, START_NS + 1]
    assert [message for message in found if message[0] == "/image"] == expected(messages)


def test_each_topic_keeps_its_definition(tmp_path: Path) -> None:
    definitions = {
        "/one": ("ros2msg", "int32 a\n"),
        "/two": ("ros2msg", "int64 b\n"),
        "/three": ("omgidl", IDL),
        "/four": ("ros2idl", f"{IDL} "),
    }
    messages = [Recorded(topic, "my_msgs/msg/Foo", START_NS, FOO) for topic in definitions]
    messages.append(recorded("/image", START_NS, image(0, START_NS)))
    file = mcap(tmp_path / "bag.mcap", messages, definitions)
    assert cli.main(["annotate", str(file), f"{tmp_path}/out", *INSTANT]) == 0
    (made,) = (tmp_path / "out").glob("*.mcap")
    with made.open("rb") as stream:
        summary = SeekingReader(stream).get_summary()
    schemas = {c.topic: summary.schemas[c.schema_id] for c in summary.channels.values()}
    found = {
        topic: (schemas[topic].encoding, schemas[topic].data.decode()) for topic in definitions
    }
    assert found == definitions


def test_what_is_no_camera_is_named(tmp_path: Path) -> None:
    packets = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
    file = mcap(tmp_path / "bag.mcap", [Recorded("/cam/ffmpeg", packets, START_NS, FOO)])
    arguments = ["annotate", str(file), f"{tmp_path}/out", *INSTANT]
    assert cli.main(arguments) == 2
    names = ("/a/b/image", "/a_b/image", "/c/b/image")
    mcap(file, [recorded(name, START_NS, image(0, START_NS)) for name in names])
    topics = [word for name in names for word in ("--topic", name)]
    assert cli.main([*arguments, *topics]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--namespace", "foo"), ("--namespace", "/a b"), ("--camera-pitch", "nan")],
)
def test_options_of_annotate_are_checked(
    tmp_path: Path, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_bag(tmp_path / "in", [recorded("/image", START_NS, image(0, START_NS))])
    assert cli.main(["annotate", str(source), f"{tmp_path}/out", option, value, *INSTANT]) == 2
    assert f"{option} is " in capsys.readouterr().err


def test_qos_with_numbers_out_of_range_can_be_offered() -> None:
    template = (
        "- {history: 1, depth: %s, reliability: 1, durability: 1, deadline: {sec: 0, nsec: 0},"
        " lifespan: {sec: 0, nsec: 0}, liveliness: 1, avoid_ros_namespace_conventions: false,"
        " liveliness_lease_duration: {sec: 0, nsec: 0}}"
    )
    for depth, allowed in (("'12'", 12), ("null", 10), ("1099511627776", 2**31 - 1), ("-4", 10)):
        (profile,) = parsed_qos(template % depth)
        made = qos_profile(Topic("/t", STRING, "", "", (profile,)))
        made.get_c_qos_profile()
        assert made.depth == allowed


def test_classes_of_service_events_are_found() -> None:
    found = message_class("rcl_interfaces/srv/GetParameters_Event")
    assert found is GetParameters.Event
    for kind in ("rcl_interfaces/srv/GetParameters", "no_msgs/action/Grip_FeedbackMessage", "a/b"):
        assert message_class(kind) is None


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="has no storage file"), open_bag(describe(tmp_path, [])):
        pass
