# SPDX-License-Identifier: Apache-2.0
"""`depthforge annotate --into`: every bag once, whoever races for it, and whatever is broken."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bagfiles import START_NS, image, info, recorded, write_bag
from rosbags.rosbag2 import Reader
from waits import WAIT_S

from depthforge_ros import cli
from depthforge_ros.ros.bags import resumable_writer as segments
from depthforge_ros.ros.bags.annotation import Summary
from depthforge_ros.ros.bags.batch import (
    BUSY,
    DONE,
    FAILED,
    INTERRUPTED,
    PARTIAL,
    Work,
    annotate_here,
    find_work,
    shard_of,
    worst,
)
from depthforge_ros.ros.bags.resumable_writer import ExistsError, SegmentedBag, TakenError
from depthforge_ros.ros.bags.topic import BagError, own_topic

NAMES = ("a", "day/b", "day/c", "night/d", "night/e")
FIXED = ("--checkpoint", "instant", "--short-side", "64")


def write_drives(root: Path, count: int = 4) -> Path:
    """A folder of bags, each with another number of images: `count`, `count` + 1 ..."""
    for extra, name in enumerate(NAMES):
        messages = []
        for index in range(count + extra):
            stamp_ns = START_NS + index * 100_000_000
            messages.append(recorded("/front/image_raw", stamp_ns, image(index, stamp_ns)))
            messages.append(recorded("/front/camera_info", stamp_ns, info(stamp_ns)))
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_bag(root / name, messages)
    return root


def annotate(*options: str | Path) -> int:
    return cli.main(["annotate", *map(str, options), *FIXED])


def masks(bag: Path) -> int:
    with Reader(bag) as reader:
        (count,) = [c.msgcount for c in reader.connections if c.topic == "/depthforge/semantic"]
    return count


def assert_whole(out: Path, count: int = 4) -> None:
    """Every bag is there with a mask for every image, and nothing else is."""
    assert {name: masks(out / name) for name in NAMES} == {
        name: count + extra for extra, name in enumerate(NAMES)
    }
    assert {path.name for path in out.rglob("*.partial*")} == set()


def test_bags_are_found_and_named_once(tmp_path: Path) -> None:
    drives = write_drives(tmp_path / "drives", 1)
    shutil.copy(next((drives / "a").glob("*.mcap")), drives / "loose.mcap")
    shutil.copytree(drives / "a", drives / "out" / "a")
    shutil.copytree(drives / "a", drives / "x.partial" / "x_0")
    out = drives / "out"
    found = {str(w.target.relative_to(out)): w.source for w in find_work([drives], out)}
    assert list(found) == [*NAMES[:3], "loose", *NAMES[3:]]
    assert found["day/b"] == drives / "day/b"
    assert found["loose"] == drives / "loose.mcap"
    single = find_work([drives / "a", drives / "loose.mcap"], out)
    assert [w.target for w in single] == [out / "a", out / "loose"]
    with pytest.raises(ValueError, match=r"drives/a and .*out/a would both become .*/elsewhere/a"):
        find_work([drives / "a", out / "a"], tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"no bag at .*nothing or below"):
        find_work([tmp_path / "nothing"], out)


def test_shards_are_a_partition(tmp_path: Path) -> None:
    work = find_work([write_drives(tmp_path / "drives", 1)], tmp_path / "out")
    parts = [shard_of(work, f"{index}/3") for index in (1, 2, 3)]
    assert [len(part) for part in parts] == [2, 2, 1]
    assert sorted((w for part in parts for w in part), key=lambda w: w.target) == work
    assert shard_of(work, "7/7") == []
    for wrong in ("0/2", "3/2", "1", "a/b", "-1/2"):
        with pytest.raises(ValueError, match=rf"--shard is '{wrong}'; expected i/n"):
            shard_of(work, wrong)


def test_shards_one_after_the_other_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drives, out = write_drives(tmp_path / "drives"), tmp_path / "out"
    assert annotate(drives, "--into", out, "--shard", "1/2") == DONE
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{out / 'a'}: 8 messages copied, 4 images annotated, refused: none"
    assert [line.split(":")[0] for line in said] == [str(out / n) for n in NAMES[::2]]
    assert annotate(drives, "--into", out, "--shard", "2/2") == DONE
    assert_whole(out)
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert annotate(drives, "--into", out) == DONE
    assert capsys.readouterr().out == "".join(f"{out / n}: exists already\n" for n in NAMES)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert annotate(drives, "--into", out, "--mode", "slide") == FAILED
    errors = capsys.readouterr().err
    assert f"{out / 'a'} exists, but was made differently: mode was 'whole' and is now" in errors


def test_what_cannot_be_read_is_named_and_the_rest_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drives, out = write_drives(tmp_path / "drives", 10), tmp_path / "out"
    (file,) = (drives / "day/b").glob("*.mcap")
    file.write_bytes(file.read_bytes()[:20_000])
    (drives / "night/d/metadata.yaml").write_text("not: [a bag", "utf-8")
    (empty,) = (drives / "day/c").glob("*.mcap")
    empty.write_bytes(b"")
    assert annotate(drives, "--into", out) == FAILED
    errors = capsys.readouterr().err
    cannot = f"{drives / 'day/c'}: bag {drives / 'day/c'} cannot be opened: {empty} is empty"
    assert cannot in errors
    assert not (out / "day/c").exists()
    lost = f"{out / 'day/b'}: {file} breaks off 19957 bytes before its end"
    unread = f"{out / 'night/d'}: {drives / 'night/d/metadata.yaml'} cannot be read: "
    assert lost in errors
    assert unread in errors
    assert {name: masks(out / name) for name in NAMES if name != "day/c"} == {
        "a": 10,
        "day/b": 3,
        "night/d": 13,
        "night/e": 14,
    }
    empty.unlink()
    shutil.rmtree(drives / "day/c")
    assert annotate(drives, "--into", out) == PARTIAL  # and says the same of what exists
    errors = capsys.readouterr().err
    assert lost in errors
    assert unread in errors


def test_two_runs_with_workers_race_for_every_bag_and_each_is_written_once(tmp_path: Path) -> None:
    drives, out = write_drives(tmp_path / "drives", 15), tmp_path / "out"
    command = [sys.executable, "-m", "depthforge_ros.cli", "annotate", str(drives), *FIXED]
    command += ["--into", str(out)]
    runs = [
        subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        for options in (("--workers", "2"), ())
    ]
    said = [run.communicate(timeout=WAIT_S)[0] for run in runs]
    assert {run.returncode for run in runs} <= {DONE, BUSY}
    assert_whole(out, 15)
    written = [line.split(":")[0] for line in "".join(said).splitlines() if "copied" in line]
    assert sorted(written) == sorted(str(out / name) for name in NAMES)


def test_workers_that_are_ended_keep_what_they_have(tmp_path: Path) -> None:
    drives, out = write_drives(tmp_path / "drives", 40), tmp_path / "out"
    command = [sys.executable, "-m", "depthforge_ros.cli", "annotate", str(drives), *FIXED]
    process = subprocess.Popen([*command, "--into", str(out), "--workers", "2"])
    while not list(out.rglob("*.partial")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == INTERRUPTED
    assert not all((out / name).exists() for name in NAMES)
    assert annotate(drives, "--into", out) == DONE
    assert_whole(out, 40)


def bag_at(target: Path) -> SegmentedBag:
    topics = [own_topic("/text", "std_msgs/msg/String")]
    return SegmentedBag(target, topics, job={"a": 1}, storage="mcap", segment_bytes=1000)


def test_a_lock_that_was_taken_away_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run finishes after we have opened its lock and before we hold it."""
    target = tmp_path / "out"
    first = bag_at(target)
    first.__enter__()
    try_lock = segments.try_lock

    def late(descriptor: int) -> bool:
        monkeypatch.setattr(segments, "try_lock", try_lock)
        first.finish()
        first.__exit__()
        return try_lock(descriptor)

    monkeypatch.setattr(segments, "try_lock", late)
    with pytest.raises(ExistsError) as caught, bag_at(target):
        pass
    assert caught.value.difference == ""
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_target_that_appears_before_the_lock_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    true_mkdir = Path.mkdir

    def late(path: Path, *arguments: object, **options: object) -> None:
        monkeypatch.setattr(Path, "mkdir", true_mkdir)
        with bag_at(target) as other:
            other.finish()
        true_mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", late)
    with pytest.raises(ExistsError), bag_at(target):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_many_threads_race_and_one_writes(tmp_path: Path) -> None:
    outcomes: list[str] = []
    together = threading.Barrier(8)

    def write(index: int) -> None:
        together.wait()
        for number in range(20):
            try:
                with bag_at(tmp_path / f"out_{number}") as bag:
                    bag.finish()
                outcomes.append(f"out_{number}")
            except (ExistsError, TakenError):
                pass

    threads = [threading.Thread(target=write, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted(f"out_{number}" for number in range(20))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(outcomes)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["a"], "1 paths; expected BAG OUT, or BAG ... --into FOLDER"),
        (["a", "b", "c"], "3 paths; expected BAG OUT"),
        (["a", "b", "--shard", "1/2"], "--shard and --workers are for many bags"),
        (["a", "--into", "b", "--workers", "0"], "--workers is 0; expected at least 1"),
    ],
)
def test_wrong_options(options: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert annotate(*options) == 2
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("statuses", "one"),
    [
        *(({0}, 0), ({0, 75}, 75), ({0, 75, 1}, 1), ({0, 3}, 3), ({3, 75}, 75)),
        *(({-9, 0}, 1), ({130, 1}, 130)),
    ],
)
def test_one_status_of_many(statuses: set[int], one: int) -> None:
    assert worst(statuses) == one


def test_lines_of_workers_never_run_into_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python that does not buffer hands every `write` to the pipe at once, so a line is one."""
    pieces: list[str] = []
    stream = io.StringIO()
    monkeypatch.setattr(stream, "write", pieces.append)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    work = [Work(tmp_path / name, tmp_path / "out" / name) for name in ("a", "b", "c", "d")]
    done = Summary(3, {}, {}, {}, messages=6, finished=True)
    there = ExistsError(work[1].target, "")
    outcomes = iter([done, there, TakenError("taken"), BagError("bad")])

    def annotate_one(_: Work) -> Summary:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert annotate_here(work, annotate_one) == FAILED
    assert len(pieces) == 4
    assert all(piece.count("\n") == 1 and piece.endswith("\n") for piece in pieces)
