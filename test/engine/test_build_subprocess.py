# SPDX-License-Identifier: Apache-2.0
"""A build in a process of its own that is given up, or crashes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from paths import ROOT
from waits import WAIT_S

from depthforge_ros.engine import CancelledError
from depthforge_ros.engine.build_subprocess import BuildError, Job, build_in_subprocess

BUILDERS = ROOT / "test" / "builders"


def job(folder):
    return Job("nano", "untrained", "cpu", "stored", "fp32", 64, 64, 1, str(folder))


def test_a_build_that_is_given_up_ends_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(BUILDERS))

    def not_started():
        return not (tmp_path / "pid").exists()

    with pytest.raises(CancelledError):
        build_in_subprocess(job(tmp_path), print, not_started, "slow_builder")
    status = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    until = time.monotonic() + WAIT_S
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_crash_of_the_compiler_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(BUILDERS))
    text = "build was ended by SIGSEGV; its last output: lowering layer 7"
    with pytest.raises(BuildError, match=text):
        build_in_subprocess(job(tmp_path), print, lambda: True, "crashing_builder")
