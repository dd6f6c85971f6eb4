# SPDX-License-Identifier: Apache-2.0
"""Reading bags as they are recorded, and writing ones that survive a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from bagfiles import START_NS, compressed, image, picture, qos, read_bag, recorded, text, write_bag
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rosbags.interfaces import QosLiveliness, QosTime
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image

from depthforge_ros.ros.bags.layout import is_bag
from depthforge_ros.ros.bags.reader import frame_from_raw, open_bag
from depthforge_ros.ros.bags.resumable_writer import SegmentedBag
from depthforge_ros.ros.bags.topic import BagError, Topic, message_class, own_topic, qos_profile
from depthforge_ros.ros.images import BadImage

TEXTS = [recorded("/text", START_NS + i, text(f"line {i}")) for i in range(6)]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_is_read_as_it_was_written(tmp_path: Path, storage: str) -> None:
    path = write_bag(tmp_path / "bag", TEXTS, storage)
    file = next(p for p in path.iterdir() if p.suffix in (".mcap", ".db3"))
    for place in (path, file):
        assert is_bag(place)
        with open_bag(place) as reader:
            read = [(t.name, t.kind, time_ns, raw) for t, time_ns, raw in reader.messages()]
            (topic,) = reader.topics
            assert (reader.losses(), reader.remarks) == ([], [])
            assert (reader.start_ns, reader.duration_ns) == (START_NS, 5)
        assert read == [tuple(message) for message in TEXTS]
        store = get_typestore(Stores.ROS2_HUMBLE)
        assert (topic.name, topic.kind, topic.count) == ("/text", "std_msgs/msg/String", 6)
        assert topic.digest == store.hash_rihs01("std_msgs/msg/String")
        assert "string data" in topic.definition
        assert topic.qos == (qos(),)


def test_what_is_no_bag_is_named(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, "is no bag"),
    ):
        with pytest.raises(BagError, match=f"{path} {reason}"), open_bag(path):
            pass
    for name in ("empty.mcap", "empty.db3"):
        (tmp_path / name).write_bytes(b"rubbish")
        with pytest.raises(BagError, match=f"{name} cannot be opened"), open_bag(tmp_path / name):
            pass


def test_images_of_a_bag_become_frames() -> None:
    for message, kind in (
        (image(3, START_NS), "sensor_msgs/msg/Image"),
        (compressed(3, START_NS), "sensor_msgs/msg/CompressedImage"),
    ):
        frame, header = frame_from_raw(kind, serialize_message(message))
        assert (frame.rgb == picture(3)).all()
        assert header == message.header
        assert frame.stamp_ns == START_NS


@pytest.mark.parametrize("end", [0, 3, 20, 100])
def test_an_unreadable_message_is_a_bad_image(end: int) -> None:
    raw = serialize_message(image(0, START_NS))[:end]
    with pytest.raises(BadImage, match=f"of {end} bytes cannot be read") as caught:
        frame_from_raw("sensor_msgs/msg/Image", raw)
    assert caught.value.cause == "corrupt_message"


def test_message_classes_are_found_by_name() -> None:
    assert message_class("sensor_msgs/msg/Image") is Image
    for unknown in ("sensor_msgs/msg/Nothing", "nowhere_msgs/msg/Image", "rubbish", ""):
        assert message_class(unknown) is None


def topic(*profiles: object, count: int = 0) -> Topic:
    return Topic("/t", "std_msgs/msg/String", "", "", tuple(profiles), count)


def test_recorded_qos_is_offered_again() -> None:
    profile = qos_profile(topic(qos("BEST_EFFORT", "VOLATILE", 3)))
    assert profile.reliability is ReliabilityPolicy.BEST_EFFORT
    assert profile.durability is DurabilityPolicy.VOLATILE
    assert (profile.history, profile.depth) == (HistoryPolicy.KEEP_LAST, 3)
    # Both ways of writing infinity are "unspecified".
    assert (profile.lifespan, profile.liveliness_lease_duration) == (Duration(), Duration())

    timed = qos()._replace(
        deadline=QosTime(0, 200), lifespan=QosTime(3, 0), liveliness=QosLiveliness.MANUAL_BY_TOPIC
    )
    profile = qos_profile(topic(timed))
    assert profile.deadline == Duration(nanoseconds=200)
    assert profile.lifespan == Duration(seconds=3)
    assert profile.liveliness is LivelinessPolicy.MANUAL_BY_TOPIC


def test_several_offers_become_the_strongest() -> None:
    profile = qos_profile(
        topic(qos("BEST_EFFORT", "VOLATILE", 3), qos("RELIABLE", "TRANSIENT_LOCAL", 1), count=7)
    )
    assert profile.reliability is ReliabilityPolicy.RELIABLE
    assert profile.durability is DurabilityPolicy.TRANSIENT_LOCAL
    assert profile.depth == 7  # what two latching publishers kept, one must keep


def test_what_was_not_recorded_gets_a_default() -> None:
    for profile in (
        qos_profile(topic()),
        qos_profile(topic(qos("UNKNOWN", "UNKNOWN", 0, "UNKNOWN"))),
    ):
        assert profile.reliability is ReliabilityPolicy.RELIABLE
        assert profile.durability is DurabilityPolicy.VOLATILE
        assert (profile.history, profile.depth) == (HistoryPolicy.KEEP_LAST, 10)
    assert qos_profile(topic(qos(history="KEEP_ALL", depth=0))).history is HistoryPolicy.KEEP_ALL


LABELS = own_topic("/labels", "std_msgs/msg/String", latched=True)
TEXT = own_topic("/text", "std_msgs/msg/String")
JOB = {"bag": "abc", "topics": ["/image"]}


def segmented(target: Path, storage: str = "mcap", job: dict = JOB, size: int = 30) -> SegmentedBag:
    return SegmentedBag(target, [TEXT, LABELS], job=job, storage=storage, segment_bytes=size)


def fill(bag: SegmentedBag, messages: list) -> None:
    for message in messages:
        bag.write(message.topic, message.kind, message.time_ns, message.raw)
        bag.progress["messages"] += 1
        bag.commit()


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_files_make_one_bag(tmp_path: Path, storage: str) -> None:
    target = tmp_path / "out"
    with segmented(target, storage) as bag:
        fill(bag, TEXTS)
        assert not target.exists()
        bag.finish()
    assert read_bag(target) == TEXTS
    suffix = {"mcap": "mcap", "sqlite3": "db3"}[storage]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    names = [f"out_{i}.{suffix}" for i in range(3)]
    assert sorted(p.name for p in target.iterdir()) == ["metadata.yaml", *names]
    content = yaml.safe_load((target / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert (content["version"], content["storage_identifier"]) == (8, storage)
    assert content["relative_file_paths"] == names
    assert content["message_count"] == 6
    assert content["starting_time"]["nanoseconds_since_epoch"] == START_NS
    assert content["duration"]["nanoseconds"] == 5
    assert [(f["path"], f["message_count"]) for f in content["files"]] == [(n, 2) for n in names]
    counts = {
        t["topic_metadata"]["name"]: t["message_count"]
        for t in content["topics_with_message_count"]
    }
    assert counts == {"/text": 6, "/labels": 0}
    assert json.loads(content["custom_data"]["depthforge"]) == {**JOB, "storage": storage}
    with Reader(target) as reader:
        definitions = {c.topic: c.msgdef.data for c in reader.connections}
        digests = {c.topic: c.digest for c in reader.connections}
    assert "string data" in definitions["/text"]
    assert digests["/labels"] == LABELS.digest


def test_an_empty_bag_is_a_bag(tmp_path: Path) -> None:
    with segmented(tmp_path / "out") as bag:
        bag.finish()
    assert read_bag(tmp_path / "out") == []


@pytest.mark.parametrize(("paused", "kept"), [(False, 2), (True, 3)])
def test_a_paused_bag_goes_on_where_it_was_and_an_abandoned_file_is_written_again(
    tmp_path: Path, paused: bool, kept: int
) -> None:
    target = tmp_path / "out"
    with segmented(target) as bag:
        fill(bag, TEXTS[:3])  # a file of two, and one message in an open file
        if paused:
            bag.pause()
    assert not target.exists()
    with segmented(target) as bag:
        assert bag.progress == {"messages": kept}
        fill(bag, TEXTS[kept:])
        bag.finish()
    assert read_bag(target) == TEXTS


def test_a_kill_while_the_files_are_put_together(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with segmented(target) as bag:
        fill(bag, TEXTS)
    partial = tmp_path / "out.partial"
    (partial / "bag").mkdir()
    (partial / "out_0" / "out_0.mcap").rename(partial / "bag" / "out_0.mcap")
    (partial / "bag" / "metadata.yaml").write_text("half a fi")
    with segmented(target) as bag:
        assert bag.progress == {"messages": 6}
        bag.finish()
    assert read_bag(target) == TEXTS


def test_another_job_is_refused_by_name(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with segmented(target) as bag:
        fill(bag, TEXTS[:2])
    text = "bag was 'abc' and is now 'xyz'; variant was None and is now 'nano'"
    with (
        pytest.raises(BagError, match=text),
        segmented(target, job={**JOB, "bag": "xyz", "variant": "nano"}),
    ):
        pass
    with (
        pytest.raises(BagError, match="storage was 'mcap' and is now 'sqlite3'"),
        segmented(target, "sqlite3"),
    ):
        pass


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(BagError, match="out exists already"), segmented(target):
        pass
    assert sorted(tmp_path.iterdir()) == [target]
    other = tmp_path / "other"
    with segmented(other) as bag:
        fill(bag, TEXTS[:2])
        other.write_text("mine")
        with pytest.raises(BagError, match="other has appeared meanwhile"):
            bag.finish()
    assert other.read_text() == "mine"
    strange = tmp_path / "strange.partial"
    strange.mkdir()
    (strange / "notes.txt").write_text("mine")
    with (
        pytest.raises(BagError, match=r"holds notes\.txt but no job"),
        segmented(tmp_path / "strange"),
    ):
        pass
    started = tmp_path / "started.partial"
    started.mkdir()
    (started / "job.json.new").write_text('{"topics": ["/te')  # killed while it wrote that
    with segmented(tmp_path / "started") as bag:
        fill(bag, TEXTS)
        bag.finish()
    assert read_bag(tmp_path / "started") == TEXTS


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    with (
        segmented(tmp_path / "out"),
        pytest.raises(BagError, match=r"out\.partial is being written by another process"),
        segmented(tmp_path / "out"),
    ):
        pass


def test_a_lost_file_is_named(tmp_path: Path) -> None:
    with segmented(tmp_path / "out") as bag:
        fill(bag, TEXTS)
    (tmp_path / "out.partial" / "out_1" / "out_1.mcap").unlink()
    with (
        pytest.raises(BagError, match=r"out_1 has lost its out_1\.mcap"),
        segmented(tmp_path / "out"),
    ):
        pass
