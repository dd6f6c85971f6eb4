# SPDX-License-Identifier: Apache-2.0
"""What a training run tells: log.jsonl, validations, TensorBoard."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from runs import config_of, logged, trained, write_images, write_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from depthforge_ros import cli
from depthforge_ros.learning.loop import WEIGHTS
from depthforge_ros.network.weights import read_weights


def test_validation_and_curves_come_from_the_averaged_weights(tmp_path: Path) -> None:
    write_images(tmp_path / "data", "val", 2)
    held_out = {"kind": "folder", "root": str(tmp_path / "data"), "split": "val"}
    config = config_of(tmp_path, validate=[held_out], ema=0.5, tensorboard=True, log_every=2)
    run = trained(config)
    lines = logged(config.output)
    measured = [line for line in lines if "folder/miou" in line]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6]
    assert [line["step"] for line in measured] == [6]
    live = {name: p.detach().clone() for name, p in run.parameters.items()}
    weights = read_weights(config.output / WEIGHTS)[0]
    for name, average in run.average.values.items():
        torch.testing.assert_close(weights[name.removeprefix("network.")], average, rtol=0, atol=0)
    assert any(not torch.equal(live[n], v) for n, v in run.average.values.items())
    shown = EventAccumulator(str(config.output / "tensorboard")).Reload()
    assert [event.step for event in shown.Scalars("loss")] == [2, 4, 6]
    (point,) = shown.Scalars("folder/miou")
    assert point.value == pytest.approx(measured[0]["folder/miou"], rel=1e-6)


def test_a_validation_that_was_cut_off_is_made_up_for(tmp_path: Path) -> None:
    write_images(tmp_path / "data", "val", 2)
    held_out = {"kind": "folder", "root": str(tmp_path / "data"), "split": "val"}
    config = config_of(tmp_path, validate=[held_out])
    trained(config)
    log = config.output / "log.jsonl"
    whole = log.read_text("utf-8")
    trained(config)
    assert log.read_text("utf-8") == whole
    log.write_text("".join(line + "\n" for line in whole.splitlines()[:-1]), "utf-8")
    trained(config)
    assert log.read_text("utf-8") == whole


def test_asking_for_tensorboard_where_it_is_not_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    assert cli.main(["train", str(write_run(tmp_path, tensorboard=True))]) == 2
    said = capsys.readouterr().err
    assert "tensorboard is true, but Python module 'tensorboard" in said
    assert "pip install tensorboard" in said
