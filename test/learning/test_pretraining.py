# SPDX-License-Identifier: Apache-2.0
"""Training small encoders from nothing: losses against plain loops, stages, rendered streets."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from paths import ROOT, TINY_YAML
from runs import config_of, logged, tiny_variant, write_frozen, write_images, write_run

from depthforge_ros import cli
from depthforge_ros.learning import street_cache
from depthforge_ros.learning.batches import Batch
from depthforge_ros.learning.config import TrainConfig, read_config
from depthforge_ros.learning.loop import Run
from depthforge_ros.learning.pretrain import VisualTask, depth_losses, soft_dice
from depthforge_ros.learning.street_cache import RenderSettings, StreetCache, render, render_drive
from depthforge_ros.learning.train_command import build_task
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.weights import WeightsError, read_weights
from depthforge_ros.street import CONDITIONS, HELD_OUT_SEEDS, TRAIN_SEEDS, StreetDrive
from depthforge_ros.variant import load_variant

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = RenderSettings(drives=3, frames=2, width=96, height=80)


# ---- losses --------------------------------------------------------------------------------


def test_soft_dice_against_plain_loops() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, 5)
    labels = torch.tensor([0, 1, 255, 1, 0])[torch.randint(0, 5, (2, 3, 5))]
    p = logits.softmax(1)
    dice = []
    for k in (0, 1):  # the classes that are there
        overlap = sizes = 0.0
        for b, y, x in np.ndindex(2, 3, 5):
            if labels[b, y, x] != 255:
                here = float(labels[b, y, x] == k)
                overlap += float(p[b, k, y, x]) * here
                sizes += float(p[b, k, y, x]) + here
        dice.append((2 * overlap + 1) / (sizes + 1))
    assert float(soft_dice(logits, labels)) == pytest.approx(1 - np.mean(dice), abs=1e-6)
    assert float(soft_dice(logits, torch.full_like(labels, 255))) == 1.0


def test_depth_losses_against_plain_loops() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 120, (2, 5, 6)).astype(np.float32)
    truth[0, 0, :3], truth[1, 2, 2] = np.nan, np.inf
    truth[1, 4, 4] = 0.1  # nearer than the camera can be trusted: counted as 0.5 m
    guess = rng.uniform(1, 80, truth.shape).astype(np.float32)
    error = weight = edges = 0.0
    log: dict[tuple[int, ...], float] = {}
    for place in np.ndindex(*truth.shape):
        if np.isnan(truth[place]):
            continue
        far = truth[place] >= 80
        expected = 80.0 if far else max(0.5, float(truth[place]))
        difference = math.log(guess[place]) - math.log(expected)
        ratio = min(float(guess[place]) / expected, 4.0)
        error += (abs(difference) + abs(ratio - 1)) / 2 * (0.2 if far else 1.0)
        weight += 0.2 if far else 1.0
        if not far:
            log[place] = difference
    for step in ((0, 1, 0), (0, 0, 1)):
        pairs = [(p, tuple(np.add(p, step).tolist())) for p in log]
        steps = [abs(log[a] - log[b]) for a, b in pairs if b in log]
        edges += sum(steps) / len(steps)
    mean, edge = depth_losses(torch.from_numpy(guess), torch.from_numpy(truth), 80.0)
    assert float(mean) == pytest.approx(error / weight, rel=1e-5)
    assert float(edge) == pytest.approx(edges, rel=1e-5)


def test_the_visual_loss_against_plain_torch(tmp_path: Path) -> None:
    task = VisualTask(DepthForge(load_variant(tiny_variant(tmp_path))))
    labels = np.zeros((8, 8), np.uint8)
    labels[:2], labels[2:4] = 5, 255
    task.weigh_classes([labels])
    # 32 road and 16 poles: the rarer, the heavier; 1 / ln(1.1 + share), with mean 1.
    weights = np.array([1 / math.log(1.1 + share) for share in [2 / 3, *[0] * 4, 1 / 3, *[0] * 13]])
    np.testing.assert_allclose(task.class_weights, weights / weights.mean(), rtol=1e-6)
    torch.manual_seed(0)
    truth = torch.randint(0, 19, (2, 64, 64)).to(torch.uint8)
    truth[:, :20] = 255
    images = torch.randint(0, 256, (2, 3, 64, 64)).to(torch.uint8)
    unknown = torch.full((2, 64, 64), torch.nan)
    batch = Batch(images, truth, unknown, torch.full((2,), torch.nan), (0, 1), ("a", "b"), ())
    with torch.no_grad():
        loss = task(batch)
        logits = torch.nn.functional.interpolate(task.logits(images), (32, 32), mode="bilinear")
    thinned = truth[:, ::2, ::2].long()
    entropy = torch.nn.functional.cross_entropy(
        logits, thinned, task.class_weights, ignore_index=255
    )
    assert float(loss.parts["entropy"]) == pytest.approx(float(entropy), rel=1e-5)
    assert float(loss.parts["dice"]) == pytest.approx(float(soft_dice(logits, thinned)), rel=1e-6)
    assert float(loss.total) == pytest.approx(float(sum(loss.parts.values())), rel=1e-6)


# ---- stages --------------------------------------------------------------------------------


def trained(config: TrainConfig) -> Run:
    run = Run(build_task(config), config, torch.device("cpu"))
    run.train()
    return run


def test_three_stages_make_a_whole_network(tmp_path: Path) -> None:
    render(tmp_path / "streets", SMALL)
    streets = [{"kind": "street", "root": str(tmp_path / "streets")}]
    both = [*streets, {"kind": "folder", "root": str(tmp_path / "data"), "split": "train"}]
    weights = {
        name: str(tmp_path / name / "weights.safetensors") for name in ("visual", "depth", "method")
    }
    common = {"steps": 3, "augment": {"crop": 64, "short_side_px": 64, "scale": [1, 1.2]}}
    stages = {
        "visual": {"train": both, "weights": []},
        "depth": {"train": streets, "weights": [weights["visual"]], "validate": streets},
        "method": {"train": both, "weights": [weights["visual"], weights["depth"]]},
    }
    networks = {}
    for stage, changes in stages.items():
        output = str(tmp_path / stage)
        config = config_of(tmp_path, stage, stage=stage, output=output, **common, **changes)
        networks[stage] = trained(config).task.network
    parts = {name: {key.split(".")[0] for key in read_weights(p)[0]} for name, p in _paths(weights)}
    assert parts["visual"] == {"visual"}
    assert parts["depth"] == {"depth", "depth_head"}
    assert parts["method"] == {"tokens", "refinement", "pixel_decoder", "mask_decoder"}
    whole = networks["method"].state_dict()
    for name, path in _paths(weights):
        for key, value in read_weights(path)[0].items():
            assert torch.equal(whole[key], value), (name, key)
    # The depth encoder began as a copy of the visual one, and went its own way.
    apart = (whole["depth.blocks.0.mlp.fc1.weight"] - whole["visual.blocks.0.mlp.fc1.weight"]).std()
    assert 0 < apart < 0.02
    last = (tmp_path / "depth/log.jsonl").read_text("utf-8").splitlines()[-1]
    assert {"street/abs_rel", "street/rmse_m", "street/delta1"} <= set(yaml.safe_load(last))


def _paths(weights: dict[str, str]) -> list[tuple[str, Path]]:
    return [(name, Path(path)) for name, path in weights.items()]


def test_a_relative_head_or_flat_data_cannot_learn_metres(tmp_path: Path) -> None:
    write_images(tmp_path / "data")
    with pytest.raises(ValueError, match=r"stage depth needs metric depth, which \['folder'\]"):
        config_of(tmp_path, stage="depth", weights=[])
    relative = TINY_YAML
    streets = [{"kind": "street", "root": str(tmp_path / "streets")}]
    config = config_of(tmp_path, stage="depth", train=streets, variant=str(relative), weights=[])
    with pytest.raises(ValueError, match="variant 'tiny' has a relative depth head"):
        build_task(config)


def test_a_depth_encoder_starts_from_nothing_else(tmp_path: Path) -> None:
    streets = [{"kind": "street", "root": str(tmp_path / "streets")}]
    head = tmp_path / "head.safetensors"
    config = config_of(tmp_path, stage="depth", train=streets, weights=[str(head)])
    write_frozen(head, load_variant(config.variant), ("depth_head",))
    with pytest.raises(WeightsError, match="no fitting visual"):
        build_task(config)


# ---- rendered streets ----------------------------------------------------------------------


def test_rendered_streets_are_the_drives_themselves(tmp_path: Path) -> None:
    assert render(tmp_path, SMALL) == 3
    cache = StreetCache(tmp_path)
    assert len(cache) == 6
    sample = cache[3]
    frame = StreetDrive(TRAIN_SEEDS[1], CONDITIONS[1], 96, 80, 2, SMALL.rate_hz)[1]
    np.testing.assert_array_equal(sample.rgb, frame.rgb)
    np.testing.assert_array_equal(sample.labels, frame.labels)
    np.testing.assert_allclose(sample.depth_m, frame.depth_m, rtol=1e-3)
    assert sample.focal_px == pytest.approx(frame.intrinsics[0, 0], rel=1e-6)
    assert (sample.condition, sample.name) == (CONDITIONS[1], f"{TRAIN_SEEDS[1]:08d}/1")
    with pytest.raises(IndexError, match="frame 6 is not in a cache of 6"):
        cache[6]
    some = StreetCache(tmp_path, (CONDITIONS[1],))
    assert [some[index].name for index in range(len(some))] == [
        f"{TRAIN_SEEDS[1]:08d}/{frame}" for frame in range(2)
    ]
    with pytest.raises(ValueError, match="street conditions are \\('fair',\\); allowed"):
        StreetCache(tmp_path, ("fair",))
    assert not set(TRAIN_SEEDS[:1000]) & set(HELD_OUT_SEEDS)


def test_first_seed_gives_other_streets_and_must_be_a_training_seed(tmp_path: Path) -> None:
    settings = replace(SMALL, drives=1, frames=1, first_seed=40)
    assert render(tmp_path, settings) == 1
    sample = StreetCache(tmp_path)[0]
    assert (sample.condition, sample.name) == (CONDITIONS[0], f"{TRAIN_SEEDS[40]:08d}/0")
    with pytest.raises(
        ValueError, match=r"first_seed 99999; expected training seeds within 0..99999"
    ):
        replace(SMALL, first_seed=99_999)


def test_a_killed_renderer_leaves_nothing_half_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = np.save

    def full(path: Path, array: np.ndarray) -> None:
        if "depth_m" in path.name and "00000001" in path.parent.name:
            raise OSError(28, "No space left on device")
        saved(path, array)

    monkeypatch.setattr(street_cache.np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        render(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["00000000_clear"]
    monkeypatch.undo()
    stamp = (tmp_path / "00000000_clear/rgb.npy").stat().st_mtime_ns
    cache = StreetCache(tmp_path)
    assert len(cache) == 2
    assert render(tmp_path, SMALL) == 2
    assert (tmp_path / "00000000_clear/rgb.npy").stat().st_mtime_ns == stamp
    cache.refresh()
    assert len(cache) == 6
    assert not render_drive(tmp_path, TRAIN_SEEDS[0], CONDITIONS[0], SMALL)


def test_streets_are_rendered_beside_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = {"frames": 2, "width": 96, "height": 80, "rate_hz": 1.0}
    streets = {"kind": "street", "root": str(tmp_path / "streets"), "render": {"drives": 2, **size}}
    path = write_run(tmp_path, stage="visual", train=[streets], weights=[], steps=2)
    assert cli.main(["train", str(path), "--device", "cpu"]) == 0
    assert {line["step"] for line in logged(tmp_path / "out")} == {1, 2}
    sample = StreetCache(tmp_path / "streets")[1]
    frame = StreetDrive(TRAIN_SEEDS[0], CONDITIONS[0], 96, 80, 2, rate_hz=1.0)[1]
    np.testing.assert_array_equal(sample.rgb, frame.rgb)
    streets["render"]["width"], streets["root"] = 7, str(tmp_path / "others")
    path = write_run(tmp_path, stage="visual", train=[streets], weights=[])
    assert cli.main(["train", str(path), "--device", "cpu"]) == 2
    log = tmp_path / "others/render.log"
    assert f"rendering failed; {log} says why" in capsys.readouterr().err
    assert "width" in log.read_text("utf-8")


# ---- configurations that ship --------------------------------------------------------------

CONFIGS = sorted((ROOT / "config/train").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_is_valid(path: Path) -> None:
    config = read_config(path)
    variant = config.load_variant()
    assert config.augment.crop % 32 == 0
    assert config.output == Path("runs") / path.stem
    assert variant.depth_head.max_depth_m is not None or config.stage.value == "method"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, r"unknown keys \['stepz'\]"),
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"warmup": 1.5}, r"warmup is 1.5; expected between 0 and 1"),
        ({"ema": 1.0}, "ema is 1.0; expected between 0 and 1"),
        ({"train": []}, "train is empty"),
        ({"augment": {"crop": 100}}, "crop is 100; expected a multiple of 32"),
        ({"stage": "all"}, "stage is 'all'; expected one of"),
    ],
)
def test_a_bad_configuration_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        config_of(tmp_path, **change)
    assert "config.yaml" in str(error.value)
