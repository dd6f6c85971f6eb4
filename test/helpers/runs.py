# SPDX-License-Identifier: Apache-2.0
"""A training run small enough for a test: a tiny network, a few images, all files in one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from paths import TINY_YAML
from PIL import Image

from depthforge_ros.learning.config import TrainConfig, read_config
from depthforge_ros.learning.loop import Run
from depthforge_ros.learning.train_command import build_task
from depthforge_ros.network.depthforge import FROZEN_PARTS, DepthForge
from depthforge_ros.network.weights import save_weights
from depthforge_ros.variant import Variant, load_variant


def tiny_variant(folder: Path, name: str = "tiny", **changes: Any) -> Path:
    """A variant file: the tiny network with a metric depth head, and `changes`."""
    data = yaml.safe_load(TINY_YAML.read_text("utf-8"))
    data["depth_head"] |= {"kind": "metric", "max_depth_m": 80}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data | changes), "utf-8")
    return path


def write_images(root: Path, split: str = "train", count: int = 6) -> None:
    """Images of coloured stripes whose colour tells the class, in the layout of `folder`."""
    for index in range(count):
        rng = np.random.default_rng(index)
        classes = np.kron(rng.permutation(8)[:6], np.ones(20)).astype(np.uint8)  # [120]
        labels = np.tile(classes, (90, 1))
        labels[:10] = 255
        rgb = np.stack([labels * 30, 255 - labels * 20, labels * 7], axis=-1)
        for kind, image in (("images", rgb[..., ::-1]), ("labels", None)):
            path = root / kind / split / "clear" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if image is None:
                Image.fromarray(labels).save(path)
            else:
                assert cv2.imwrite(str(path), image)


def write_frozen(path: Path, variant: Variant, parts: tuple[str, ...] = FROZEN_PARTS) -> None:
    """Random frozen encoders, the same ones every time."""
    torch.manual_seed(0)
    prefixes = tuple(f"{part}." for part in parts)
    state = DepthForge(variant).state_dict()
    save_weights({k: v for k, v in state.items() if k.startswith(prefixes)}, variant, path)


def write_run(folder: Path, name: str = "config", **changes: Any) -> Path:
    """A configuration of stage method in `folder`, with `changes`, and all that it needs."""
    variant = folder / "tiny.yaml"
    if not variant.is_file():
        write_frozen(folder / "frozen.safetensors", load_variant(tiny_variant(folder)))
        write_images(folder / "data")
    settings = {
        "stage": "method",
        "variant": str(variant),
        "output": str(folder / "out"),
        "train": [{"kind": "folder", "root": str(folder / "data"), "split": "train"}],
        "validate": [],
        "augment": {"crop": 64, "scale": [0.8, 1.3]},
        "steps": 6,
        "batch": 2,
        "lr": 1e-3,
        "weights": [str(folder / "frozen.safetensors")],
        "losses": {"points": 64},
        "workers": 0,
        "threads": 1,
        "autocast": False,
        "save_every": 2,
        "log_every": 1,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings | changes), "utf-8")
    return path


def config_of(folder: Path, name: str = "config", **changes: Any) -> TrainConfig:
    """The configuration that `write_run` writes."""
    return read_config(write_run(folder, name, **changes))


def run_of(config: TrainConfig) -> Run:
    """The run, at its start."""
    return Run(build_task(config), config, torch.device("cpu"))


def trained(config: TrainConfig, until: int | None = None) -> Run:
    """The run, continued where it was left, trained to its end or to step `until`."""
    run = run_of(config)
    run.resume()
    run.train(until)
    return run


def logged(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
