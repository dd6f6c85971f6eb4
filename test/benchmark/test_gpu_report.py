# SPDX-License-Identifier: Apache-2.0
"""The script for a new GPU: its commands are ones that `depthforge` takes, and a report comes."""

from __future__ import annotations

import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from waits import WAIT_S

from depthforge_ros import cli

SCRIPT = ROOT / "docs" / "scripts" / "gpu_report.py"
STEPS = runpy.run_path(str(SCRIPT))["steps"]("dinov2_l", "1024x512", "cpu")


@pytest.mark.parametrize("command", [command for _, command in STEPS])
def test_depthforge_takes_the_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*shlex.split(command), "--no-such-option"])
    assert end.value.code == 2
    assert "unrecognized arguments: --no-such-option" in capsys.readouterr().err


def test_what_a_step_says_is_in_the_report(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--only", "machine", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    report = out.read_text("utf-8")
    assert "## The machine\n\n```\ndepthforge doctor\n```\n\nStatus " in report
    assert "OK   " in report
    assert done.returncode == (0 if "Status 0" in report else 1)
