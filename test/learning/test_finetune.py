# SPDX-License-Identifier: Apache-2.0
"""From six labelled images to weights that the node loads, as docs/finetune.md describes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from paths import ROOT
from PIL import Image
from runs import config_of, logged, tiny_variant, write_images, write_run

from depthforge_ros import cli
from depthforge_ros.engine import build_engine
from depthforge_ros.learning import datasets
from depthforge_ros.learning.config import DatasetKind, DatasetSettings, open_dataset, read_config
from depthforge_ros.network.depthforge import ADAPTER_PARTS, DepthForge
from depthforge_ros.network.weights import load_weights, read_weights, save_weights
from depthforge_ros.network.weights.files import open_weights
from depthforge_ros.variant import LabelClass, LabelSet, load_variant


def folder_settings(root: Path, split: str = "train") -> DatasetSettings:
    return DatasetSettings(DatasetKind.FOLDER, root / "data", split)


def other_labels(count: int) -> LabelSet:
    """Ten classes of Cityscapes in another order, then new ones."""
    names = ["sky", "road", "car"] + [f"new {index}" for index in range(count - 3)]
    return LabelSet("other", tuple(LabelClass(name, (1, 2, 3)) for name in names))


def test_the_shipped_network_is_fine_tuned_evaluated_converted_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a smaller network in nano's place, and two steps instead of 300."""
    monkeypatch.chdir(tmp_path)
    variant_path = tiny_variant(tmp_path)
    variant = load_variant(variant_path)
    torch.manual_seed(0)
    shipped = DepthForge(variant)
    save_weights(shipped.state_dict(), variant, tmp_path / "nano.safetensors")
    write_images(tmp_path / "datasets/own", count=4)
    write_images(tmp_path / "datasets/own", split="val", count=2)
    settings = yaml.safe_load((ROOT / "config/train/finetune_nano.yaml").read_text("utf-8"))
    assert settings["train"] == [{"kind": "folder", "root": "datasets/own", "split": "train"}]
    settings |= {"variant": str(variant_path), "weights": ["nano.safetensors"], "steps": 2}
    settings |= {"workers": 0, "threads": 1, "losses": {"points": 64}}
    settings["augment"] |= {"crop": 64, "short_side_px": 64}
    (tmp_path / "finetune.yaml").write_text(yaml.safe_dump(settings))
    assert cli.main(["train", "finetune.yaml", "--device", "cpu"]) == 0
    tuned = tmp_path / "runs/finetune_nano/weights.safetensors"
    parts = {name.partition(".")[0] for name in open_weights(tuned).shapes}
    assert parts == set(ADAPTER_PARTS)
    assert "folder/miou" in logged(tuned.parent)[-1]
    both = f"nano.safetensors,{tuned}"
    command = ["evaluate", "--variant", str(variant_path), "--checkpoint", both]
    assert cli.main([*command, "--data", "folder:datasets/own", "--out", "out"]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    assert report["datasets"][0]["images"] == 2
    assert set(report["checkpoint_sha256"]) == {"nano.safetensors", "weights.safetensors"}
    command = ["weights", "convert", "--variant", str(variant_path), "nano.safetensors"]
    assert cli.main([*command, str(tuned), "--out", "own.safetensors"]) == 0
    state = read_weights(tmp_path / "own.safetensors")[0]
    trained = read_weights(tuned)[0]
    for name, value in shipped.state_dict().items():
        assert torch.equal(state[name], trained.get(name, value)), name
    assert not torch.equal(state["tokens.a"], shipped.state_dict()["tokens.a"])
    crops = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    one = build_engine(variant, "own.safetensors", device="cpu")(crops, depth=True)
    two = build_engine(variant, both, device="cpu")(crops, depth=True)
    assert torch.equal(one.scores, two.scores)
    assert torch.equal(one.depth, two.depth)


def test_the_configuration_starts_from_the_weights_that_ship() -> None:
    config = read_config(ROOT / "config/train/finetune_nano.yaml")
    (weights,) = config.weights
    assert set(open_weights(ROOT / weights).shapes) == set(
        DepthForge(config.load_variant()).state_dict()
    )


def test_every_label_is_checked_before_the_first_step_in_a_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path)
    labels = tmp_path / "data/labels/train/clear"
    Image.fromarray(np.full((90, 120), 31, np.uint8)).save(labels / "1.png")
    Image.fromarray(np.zeros((90, 100), np.uint8)).save(labels / "3.png")
    (labels / "4.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((90, 120, 3), np.uint8)).save(labels / "5.png")
    assert cli.main(["train", str(path), "--device", "cpu"]) == 2
    head, *lines = capsys.readouterr().err.splitlines()
    assert head == "depthforge train: 4 of 6 labels of folder are invalid:"
    assert len(lines) == 4
    for line, name, text in zip(
        lines,
        ("1.png", "3.png", "4.png", "5.png"),
        ("label ids [31] are out of range", "size is [90, 100], its image's [90, 120]",
         "cannot identify image file", "mode RGB; expected 8-bit ids"),
        strict=True,
    ):  # fmt: skip
        assert line.startswith(f"  {labels / name}")
        assert text in line
    assert not (tmp_path / "out").exists()


def test_the_label_set_of_the_variant_decides_which_ids_there_are(tmp_path: Path) -> None:
    write_images(tmp_path / "data")
    path = tmp_path / "data/labels/train/clear/0.png"
    for count, ids in ((25, [0, 19, 24, 255]), (5, [0, 4, 255])):
        Image.fromarray(np.resize(np.array(ids, np.uint8), (90, 120))).save(path)
        source = open_dataset(folder_settings(tmp_path), other_labels(count))
        assert set(np.unique(source[0].labels)) == set(ids)
    Image.fromarray(np.full((90, 120), 5, np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"label ids \[5\] are out of range; allowed: 0\.\.4 and"):
        open_dataset(folder_settings(tmp_path), other_labels(5))[0]


def test_public_sets_join_by_the_names_of_the_classes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.zeros((2, 6, 3), np.uint8)).save(tmp_path / "images/00001.png")
    ids = np.array([7, 8, 23, 26, 34, 0], np.uint8)  # road, sidewalk, sky, car, plate, nothing
    Image.fromarray(np.tile(ids, (2, 1))).save(tmp_path / "labels/00001.png")
    settings = DatasetSettings(DatasetKind.GTA5, tmp_path)
    sample = open_dataset(settings, other_labels(5))[0]
    assert sample.labels[0].tolist() == [1, 255, 0, 2, 255, 255]
    held_out = DatasetSettings(DatasetKind.STREET_HELD_OUT, frames=1)
    with pytest.raises(ValueError, match="has the classes of cityscapes only; label set 'other'"):
        open_dataset(held_out, other_labels(5))
    classes = load_variant("nano").labels.classes
    more = LabelSet("more", (*classes, LabelClass("cone", (1, 2, 3))))
    assert len(open_dataset(held_out, more)) == 1  # its ids are the first of the set
    same = LabelSet("mine", classes)
    assert isinstance(open_dataset(settings, same), datasets.FolderDataset)
    assert open_dataset(settings, same)[0].labels[0].tolist() == [0, 1, 10, 13, 255, 255]


def test_steps_beyond_the_plan_say_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path, steps=4)
    train = ["train", str(path), "--device", "cpu", "--steps"]
    assert cli.main([*train, "9"]) == 2
    error = capsys.readouterr().err
    assert f"--steps is 9; the plan of {path} is 1..4. To train longer, write" in error
    assert f"{tmp_path / 'out/weights.safetensors'} last in `weights`" in error
    assert cli.main([*train, "2"]) == 0
    assert [line["step"] for line in logged(tmp_path / "out")] == [1, 2]
    assert cli.main(train[:-1]) == 0
    assert [line["step"] for line in logged(tmp_path / "out")] == [1, 2, 3, 4]
    capsys.readouterr()
    assert cli.main(train[:-1]) == 0
    assert "the run is complete. To train longer" in "".join(capsys.readouterr())
    again = config_of(
        tmp_path,
        "again",
        output=str(tmp_path / "again"),
        weights=[str(tmp_path / "frozen.safetensors"), str(tmp_path / "out/weights.safetensors")],
    )
    network = DepthForge(again.load_variant())
    load_weights(network, again.load_variant(), again.weights)
