# SPDX-License-Identifier: Apache-2.0
"""Bags that ended badly: what can be read is read, the rest named."""

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
from bagfiles import START_NS, image, read_bag, recorded, write_bag
from mcap.reader import SeekingReader
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from text_bags import TEXTS, expected, mcap, read

from depthforge_ros import cli
from depthforge_ros.ros.bags.batch import PARTIAL
from depthforge_ros.ros.bags.layout import is_bag
from depthforge_ros.ros.bags.reader import open_bag
from depthforge_ros.ros.bags.topic import BagError

INSTANT = ("--checkpoint", "instant", "--short-side", "64")


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
