# SPDX-License-Identifier: Apache-2.0
"""`depthforge view`: what of the node's messages gets into Rerun's recording."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dds import own_domain
from nodes import Bench, camera_info_message, image_message, running_node
from waits import WAIT_S

from depthforge_ros import cli

rerun = pytest.importorskip("rerun", reason="needs Rerun: pip install 'depthforge_ros[view]'")


def printed(file: Path) -> str:
    """What Rerun's own tool finds in a recording."""
    command = [sys.executable, "-m", "rerun", "rrd", "print", "-vv", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=WAIT_S)
    return done.stdout


def test_everything_of_a_running_node_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = own_domain()
    file = tmp_path / "drive.rrd"
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    command = [sys.executable, "-m", "depthforge_ros.cli", "view", "--save", str(file)]
    with (
        running_node(domain, tmp_path, checkpoint="instant"),
        Bench(domain) as bench,
        subprocess.Popen(command) as process,
    ):

        def frames_out() -> int:
            bench.send(camera_info_message())
            bench.send(image_message(1))
            return int(bench.values().get("frames out", 0))

        def is_shown() -> bool:  # the image's topic is known from the first report
            frames_out()
            return bench.node.count_subscribers("/image") == 2

        bench.spin_until(is_shown)
        before = frames_out()
        bench.spin_until(lambda: frames_out() >= before + 5)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
    text = printed(file)
    for path in ("camera/image", "camera/image/classes", "depth", "world/points", "camera"):
        assert f"/{path}" in text
    for path in ("rate/out/inference", "latency/p50/inference", "dropped/inference", "text"):
        assert f"/diagnostics/{path}" in text


def test_points_are_the_valid_ones_with_their_colours() -> None:
    from sensor_msgs.msg import PointCloud2, PointField

    from depthforge_ros.ros.monitor.rerun_log import valid_points

    layout = np.dtype({"names": ["x", "y", "z", "rgb"], "formats": ["<f4"] * 3 + ["<u4"],
                       "offsets": [0, 4, 8, 12], "itemsize": 20})  # fmt: skip
    rows = np.zeros(3, layout)
    rows[0] = (1, 2, 3, 0x00FF8001)
    rows[1] = (np.nan, np.nan, np.nan, 0x00FFFFFF)
    rows[2] = (4, 5, 6, 0x00000001)
    message = PointCloud2(height=1, width=3, point_step=20, row_step=60)
    message.fields = [PointField(name=n, offset=o) for n, o in zip("xyz", (0, 4, 8), strict=True)]
    message.fields.append(PointField(name="rgb", offset=12))
    message.data.frombytes(rows.tobytes())
    positions, colors = valid_points(message)
    assert positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert colors.tolist() == [[255, 128, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--max-depth", "0"], "--max-depth is 0.0; expected a number above 0"),
        (["--seconds", "nan"], "--seconds is nan; expected a number above 0"),
        (["--save", "THERE"], "--save is THERE, which exists already"),
        ([], "no window without DISPLAY or WAYLAND_DISPLAY; give --web or --save FILE.rrd"),
    ],
)
def test_bad_input_is_one_line(
    options: list[str],
    line: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    there = tmp_path / "there.rrd"
    there.touch()
    words = [str(there) if word == "THERE" else word for word in options]
    assert cli.main(["view", *words]) == 2
    assert capsys.readouterr().err == f"depthforge view: {line.replace('THERE', str(there))}\n"
