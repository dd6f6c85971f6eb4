# SPDX-License-Identifier: Apache-2.0
"""`depthforge annotate` that is killed, interrupted or out of disk: a kill changes nothing."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from annotating import RedEngine, command, drive, pipeline
from bagfiles import (
    read_bag,
    write_bag,
)
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from torch import Tensor
from waits import WAIT_S

from depthforge_ros import cli
from depthforge_ros.engine.engine import CropOutput
from depthforge_ros.pipeline import Mode, Pipeline, PipelineSettings
from depthforge_ros.ros.bags.annotation import annotate_bag
from depthforge_ros.ros.bags.topic import BagError
from depthforge_ros.variant import load_variant


def contents(path: Path) -> list[tuple]:
    """What a bag says: copied messages byte for byte, added ones field by field.

    Serialization leaves what it finds in memory in the gaps between fields.
    """
    added = {"Image": Image, "CameraInfo": CameraInfo, "String": String}
    return [
        (m.topic, m.time_ns, deserialize_message(m.raw, added[m.kind.rpartition("/")[2]]))
        if m.topic.startswith("/depthforge")
        else m
        for m in read_bag(path)
    ]


# Annotates, and sends itself a signal once a file of the new bag is finished: not a moment later,
# however busy the machine is.
SIGNALLED = """
import os, sys
from pathlib import Path
from depthforge_ros import cli

number, file, *words = sys.argv[1:]
rename = Path.rename

def signalled(path, target):
    moved = rename(path, target)
    if Path(target).name == file:
        os.kill(os.getpid(), int(number))
    return moved

Path.rename = signalled
sys.exit(cli.main(words))
"""


def interrupt(source: Path, target: Path, number: int, file: int) -> tuple[int, str]:
    """Annotate until that file of the new bag is finished, and then get the signal."""
    program = [sys.executable, "-c", SIGNALLED, str(int(number)), f"{target.name}_{file}"]
    done = subprocess.run(
        [*program, *command(source, target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def long_bag(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple]]:
    """A bag of 60 images and long texts, and what annotating it in one go gives."""
    folder = tmp_path_factory.mktemp("long")
    write_bag(folder / "in", drive(60, note_bytes=90_000))
    assert cli.main(command(folder / "in", folder / "out")) == 0
    assert len(list((folder / "out").glob("*.mcap"))) >= 5
    return folder / "in", contents(folder / "out")


def test_a_killed_run_resumes_to_the_same_bag(
    tmp_path: Path, long_bag: tuple[Path, list[tuple]], capsys: pytest.CaptureFixture[str]
) -> None:
    source, expected = long_bag
    target = tmp_path / "out"
    for file in (0, 2):  # killed twice
        code, _ = interrupt(source, target, signal.SIGKILL, file)
        assert code == -signal.SIGKILL
        assert not target.exists()
    assert cli.main(command(source, target)) == 0
    out = "180 messages copied, 60 images annotated, refused: none\n"
    assert capsys.readouterr().out == out
    assert contents(target) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_run_keeps_what_it_has(
    tmp_path: Path, long_bag: tuple[Path, list[tuple]]
) -> None:
    source, expected = long_bag
    target = tmp_path / "out"
    code, output = interrupt(source, target, signal.SIGINT, 0)
    assert code == 130
    assert f"the same command goes on from {target}.partial" in output
    assert not target.exists()
    assert cli.main(command(source, target)) == 0
    assert contents(target) == expected


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_full_disk_leaves_no_bag(
    tmp_path: Path,
    long_bag: tuple[Path, list[tuple]],
    storage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, expected = long_bag
    target = tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
    try:
        code = cli.main(command(source, target, "--storage", storage))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert f"writing {target} failed: " in capsys.readouterr().err
    assert not target.exists()
    assert cli.main(command(source, target, "--storage", storage)) == 0
    assert contents(target) == expected


def test_a_run_that_failed_is_resumed_by_the_same_job_only(tmp_path: Path) -> None:
    source, other = write_bag(tmp_path / "in", drive(6)), write_bag(tmp_path / "other", drive(7))
    annotate_bag(source, tmp_path / "expected", pipeline(short_side_px=64))

    class Tired(RedEngine):
        def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
            left.pop()
            return super().__call__(crops, depth=depth)

    left = [1, 2, 3]
    with pytest.raises(IndexError):
        annotate_bag(
            source,
            tmp_path / "out",
            Pipeline(Tired(load_variant("nano")), PipelineSettings(short_side_px=64)),
            segment_bytes=1,
        )
    for bag, settings, job, difference in (
        (other, {}, {}, "bag was '.*' and is now '.*'"),
        (source, {"short_side_px": 96}, {}, "short_side_px was 64 and is now 96"),
        (source, {"mode": Mode.SLIDE}, {}, "mode was 'whole' and is now 'slide'"),
        (source, {}, {"weights": "ab"}, "weights was None and is now 'ab'"),
    ):
        with pytest.raises(
            BagError, match=rf"started with other settings: {difference}\. Use those"
        ):
            annotate_bag(bag, tmp_path / "out", pipeline(**settings), job=job)
    moved = source.rename(tmp_path / "moved")  # where it lies makes no difference
    summary = annotate_bag(moved, tmp_path / "out", pipeline(short_side_px=64))
    assert (summary.frames, summary.messages) == (6, 18)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
