# SPDX-License-Identifier: Apache-2.0
"""Training runs, killed, resumed, spread over processes and refused: real files, real processes."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import config_of, logged, run_of, tiny_variant, trained, write_run
from waits import WAIT_S

from depthforge_ros import cli
from depthforge_ros.engine import build_engine
from depthforge_ros.learning.checkpoints import ResumeError, load_state, remove_partials
from depthforge_ros.learning.loop import WEIGHTS, NotFiniteError, decay_groups, learning_rate
from depthforge_ros.learning.train_command import build_task
from depthforge_ros.network.depthforge import ADAPTER_PARTS
from depthforge_ros.network.weights import WeightsError, read_weights, save_weights
from depthforge_ros.variant import load_variant

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = read_weights(a)[0], read_weights(b)[0]
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


# ---- learning ------------------------------------------------------------------------------


def test_the_loss_falls_and_the_adapter_joins_the_frozen_encoders(tmp_path: Path) -> None:
    config = config_of(tmp_path, steps=40, lr=3e-3, save_every=40)
    frozen_before = (tmp_path / "frozen.safetensors").read_bytes()
    run = trained(config)
    losses = [line["loss"] for line in logged(config.output)]
    assert len(losses) == 40
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])
    state, stored = read_weights(config.output / WEIGHTS)
    assert stored == load_variant(config.variant)
    assert {name.split(".")[0] for name in state} == set(ADAPTER_PARTS)
    assert (tmp_path / "frozen.safetensors").read_bytes() == frozen_before
    joined = f"{tmp_path}/frozen.safetensors,{config.output / WEIGHTS}"
    engine = build_engine(load_variant(config.variant), joined, device="cpu")
    crops = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        scores, depth = run.task.network(crops)
    output = engine(crops, depth=True)
    torch.testing.assert_close(output.scores, scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.depth, depth, rtol=1e-5, atol=1e-6)
    with pytest.raises(WeightsError, match=r"missing visual"):
        build_engine(load_variant(config.variant), str(config.output / WEIGHTS))


def test_the_schedule_rises_and_falls_along_cosines(tmp_path: Path) -> None:
    config = config_of(tmp_path, steps=101, lr=1.0, warmup=0.2)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[19] == pytest.approx(1.0, abs=1e-3)
    assert rates[60] == pytest.approx(0.5, abs=1e-2)
    assert rates[100] == pytest.approx(1e-4)
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_norms_tokens_and_biases_are_not_decayed(tmp_path: Path) -> None:
    task = build_task(config_of(tmp_path))
    decayed, free = decay_groups(task, 0.05)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    names = {id(p): name for name, p in task.named_parameters() if p.requires_grad}
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    without = {names[id(p)] for p in free["params"]}
    assert {"network.tokens.a", "network.tokens.scale", "network.tokens.merge.bias"} <= without
    assert not any(name.endswith("proj.weight") for name in without)


# ---- stopping and going on -----------------------------------------------------------------

KILLED = """
import os, signal, sys
from depthforge_ros import cli
from depthforge_ros.learning import checkpoints
saves = 0
flush = os.fsync
def killed(descriptor):
    global saves
    if "state.pt" in os.readlink(f"/proc/self/fd/{descriptor}"):
        saves += 1
        if saves == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    flush(descriptor)
os.fsync = killed
cli.main(["train", sys.argv[1], "--device", "cpu"])
"""


def test_killed_within_a_save_and_resumed_the_weights_are_bit_identical(tmp_path: Path) -> None:
    options = {"ema": 0.9, "accumulate": 2, "clip_norm": 1.0}
    whole = config_of(tmp_path, "whole", output=str(tmp_path / "whole"), **options)
    trained(whole)
    path = write_run(tmp_path, **options)
    done = python("-c", KILLED, str(path))
    assert done.returncode == -signal.SIGKILL, done.stderr
    out = tmp_path / "out"
    (partial,) = out.glob(".*.partial")
    variant = load_variant(whole.variant)
    stopped = config_of(tmp_path, **options)
    assert load_state(out, stopped, variant)["step"] == 2  # the save before is whole
    assert read_weights(out / WEIGHTS)[1] == variant
    assert [line["step"] for line in logged(out)] == [1, 2, 3, 4]
    assert cli.main(["train", str(path), "--device", "cpu"]) == 0
    assert not partial.exists()
    assert_same_weights(out / WEIGHTS, whole.output / WEIGHTS)
    assert [line["step"] for line in logged(out)] == [1, 2, 3, 4, 5, 6]
    losses = [[line["loss"] for line in logged(folder)] for folder in (out, whole.output)]
    assert losses[0] == losses[1]


def test_a_full_disk_leaves_the_previous_save_whole(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    run = trained(config, until=2)
    before = {path.name: path.read_bytes() for path in config.output.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # writing more fails
    try:
        with pytest.raises(OSError, match=r"state\.pt could not be written|File too large"):
            run.train(until=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = {path.name: path.read_bytes() for path in config.output.iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"log.jsonl"}
    resumed = trained(config)
    assert resumed.step == 6
    assert [line["step"] for line in logged(config.output)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("full", ["state.pt", "weights.safetensors"])
def test_no_space_left_while_either_file_is_written(
    tmp_path: Path, full: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path, steps=4)
    out = tmp_path / "out"
    flush = os.fsync

    def no_space(descriptor: int) -> None:
        if (out / full).exists() and f".{full}." in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", no_space)
    assert cli.main(["train", str(path), "--device", "cpu"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list(out.glob(".*"))
    step = torch.load(out / "state.pt", weights_only=True)["step"]
    assert step == 2
    monkeypatch.undo()
    assert cli.main(["train", str(path), "--device", "cpu"]) == 0
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 4
    assert b'"depthforge.step":"4"' in (out / WEIGHTS).read_bytes()


def test_another_variant_or_run_is_refused_with_the_fields(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    trained(config, until=2)
    other = load_variant(tiny_variant(tmp_path, "other", tokens=8, crop=96))
    with pytest.raises(ResumeError, match="is of another run") as e:
        load_state(config.output, config, other)
    assert "crop: stored 64, expected 96" in str(e.value)
    assert "tokens: stored 12, expected 8" in str(e.value)
    changed = dataclasses.replace(config, lr=2e-3, steps=8, log_every=5)
    with pytest.raises(ResumeError) as e:
        run_of(changed).resume()
    assert "lr: stored 0.001, expected 0.002" in str(e.value)
    assert "steps: stored 6, expected 8" in str(e.value)
    assert "log_every" not in str(e.value)
    assert run_of(dataclasses.replace(config, log_every=5, workers=2)).resume()


def test_weights_of_another_variant_are_refused_with_the_fields(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    wider = tiny_variant(tmp_path, "wider", crop=96)
    with pytest.raises(WeightsError, match="crop: stored 64, expected 96"):
        build_task(dataclasses.replace(config, variant=str(wider)))
    with pytest.raises(WeightsError, match="missing visual"):
        build_task(dataclasses.replace(config, weights=()))


def test_the_method_continues_from_an_adapter_that_is_given(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    task = build_task(config)
    adapter = {k: v for k, v in task.network.state_dict().items() if k.startswith(task.exported())}
    adapter["tokens.scale"] = torch.full_like(adapter["tokens.scale"], 0.25)
    path = tmp_path / "adapter.safetensors"
    save_weights(adapter, task.network.variant, path)
    again = dataclasses.replace(config, weights=(*config.weights, path))
    assert (build_task(again).network.tokens.scale == 0.25).all()
    del adapter["tokens.scale"]
    save_weights(adapter, task.network.variant, path)
    with pytest.raises(WeightsError, match=r"missing tokens\.scale"):
        build_task(again)


def test_a_state_from_before_a_setting_existed_is_continued(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    trained(config, until=2)
    path = config.output / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["config"]["ablation"]
    torch.save(state, path)
    assert run_of(config).resume()


def test_partial_files_alone_are_removed(tmp_path: Path) -> None:
    for name in ("state.pt", "weights.safetensors", ".state.pt.17.partial"):
        (tmp_path / name).write_bytes(b"x")
    remove_partials(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"state.pt", "weights.safetensors"}


@pytest.mark.parametrize("where", ["loss", "matching"])
def test_nan_stops_the_run_and_saves_the_batch(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path)
    run = trained(config, until=2)
    kept = (config.output / WEIGHTS).read_bytes()
    if where == "matching":
        with torch.no_grad():
            run.task.network.pixel_decoder.output_conv.conv.weight.fill_(torch.nan)
    else:
        forward = type(run.task).forward

        def broken(task: object, batch: object) -> object:
            loss = forward(task, batch)
            return dataclasses.replace(loss, total=loss.total * torch.nan)

        monkeypatch.setattr(type(run.task), "forward", broken)
    with pytest.raises(NotFiniteError, match=r"at step 2; the batch is in \S+not_finite") as error:
        run.train()
    batch = torch.load(config.output / "not_finite_step2_process0.pt", weights_only=True)
    assert batch["images"].shape == (2, 3, 64, 64)
    assert batch["numbers"] == [4, 5]
    assert all(name.startswith("folder/clear/") for name in batch["names"])
    assert ", ".join(batch["names"]) in str(error.value)
    assert (config.output / WEIGHTS).read_bytes() == kept


# ---- several processes ---------------------------------------------------------------------


def test_two_processes_train_like_one_with_the_double_batch(tmp_path: Path) -> None:
    one = config_of(tmp_path, "one", batch=4, steps=3, output=str(tmp_path / "one"))
    trained(one)
    two = write_run(tmp_path, batch=2, steps=3)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    verb = ("-m", "depthforge_ros.cli", "train", str(two), "--device", "cpu")
    done = python(*launcher, *verb, GLOO_SOCKET_IFNAME="lo")
    assert done.returncode == 0, done.stderr
    losses = [
        [line["loss"] for line in logged(folder)] for folder in (one.output, tmp_path / "out")
    ]
    assert len(losses[0]) == 3
    single, double = (read_weights(f / WEIGHTS)[0] for f in (one.output, tmp_path / "out"))
    start = build_task(one).network.state_dict()
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)
    # Adam makes a full step out of any gradient. Attention's gradients nearly vanish while all
    # queries are alike, and the sign of what is left is rounding, so it is left out.
    names = [name for name in single if "in_proj" not in name]
    alone = config_of(tmp_path, "alone", batch=2, steps=3, output=str(tmp_path / "alone"))
    trained(alone)
    half = read_weights(alone.output / WEIGHTS)[0]
    start = build_task(one).network.state_dict()

    def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        return float(torch.stack([(a[name] - b[name]).square().sum() for name in names]).sum())

    moved = distance(single, start)
    assert distance(single, double) < 1e-4 * moved
    assert distance(single, half) > 0.1 * moved  # what one of the two processes would learn alone
    for name in names:
        assert (single[name] - double[name]).abs().max() < 0.1 * (1e-3 * 3), name
