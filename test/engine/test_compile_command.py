# SPDX-License-Identifier: Apache-2.0
"""`depthforge compile`: builds, checks, compares, and says what failed."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import stored_backend
import torch
from paths import TINY_YAML

from depthforge_ros.cli import main
from depthforge_ros.engine import Journal, Request, Shape, compare
from depthforge_ros.engine.build_subprocess import BuildError
from depthforge_ros.engine.cache import EngineCache
from depthforge_ros.engine.candidate import Candidates
from depthforge_ros.engine.load import load_network
from depthforge_ros.variant import load_variant

WORDS = ["compile", str(TINY_YAML), "--shape", "96x64", "--checkpoint", "untrained"]
WORDS += ["--device", "cpu", "--backend", "stored", "--precision", "fp32"]


def build_here(job, on_progress, keep_going):
    network = load_network(load_variant(job.variant), job.checkpoint)
    shape = Shape(job.height, job.width, job.batch)
    stored_backend.build(network, shape, job.precision, Path(job.folder))


def use_builder(patch, build):
    patch.setattr(compare, "Candidates", functools.partial(Candidates, build=build))


@pytest.fixture(autouse=True)
def backend(monkeypatch, tmp_path):
    stored_backend.install(monkeypatch, load_variant(TINY_YAML))
    monkeypatch.setenv("DEPTHFORGE_ENGINES", str(tmp_path / "engines"))
    use_builder(monkeypatch, build_here)


def test_an_engine_is_built_checked_and_reported(tmp_path, capsys):
    assert main(WORDS) == 0
    said = capsys.readouterr().out
    assert "building stored fp32 for 96x64" in said
    assert "stored fp32: ready after " in said
    assert "self-check passed: labels agree on 100.00%" in said
    assert main([*WORDS, "--report", str(tmp_path / "r.md"), "--rounds", "1"]) == 0
    assert "building" not in capsys.readouterr().out  # it is in the cache
    rows = (tmp_path / "r.md").read_text().splitlines()
    checked = [row.split("|")[1:4] for row in rows if "passed: " in row]
    assert [row[0].strip() for row in checked] == ["stored fp32", "eager fp32"]
    assert "96x64, 1 rounds in turns, milliseconds a batch:" in rows
    timed = [row.split("|")[1].strip() for row in rows[rows.index(rows[-1]) - 1 :]]
    assert timed == ["stored fp32", "eager fp32"]


def test_a_failed_build_is_the_exit_status_and_its_reason_is_printed(monkeypatch, capsys):
    def failing(job, on_progress, keep_going):
        raise BuildError("build failed: RuntimeError: no space left")

    use_builder(monkeypatch, failing)
    assert main(WORDS) == 1
    assert "stored fp32: build failed: RuntimeError: no space left\n" in capsys.readouterr().out


def test_a_shape_without_memory_leaves_the_others(monkeypatch, tmp_path):
    load = stored_backend.load

    def small_device(folder, shape, device):
        if shape.width > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load(folder, shape, device)

    monkeypatch.setattr(stored_backend, "load", small_device)
    request = Request(
        str(TINY_YAML), "untrained", "cpu", "stored", "fp32", (Shape(64, 64), Shape(64, 96))
    )
    journal = Journal()
    trial = next(iter(compare.trials(request, journal, lambda: True)))
    assert trial.passed
    assert trial.engine.shapes == (Shape(64, 64),)
    assert journal.notes["memory"] == "cpu has no memory for stored at 96x64"
    assert len(EngineCache(tmp_path / "engines").keys()) == 2
