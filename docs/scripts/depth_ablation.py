# SPDX-License-Identifier: Apache-2.0
"""Does depth in the tokens help the network with one encoder? See docs/generalisation.md.

    python docs/scripts/depth_ablation.py --seeds 3 --frames 12

Every model begins with the weights that ship. Encoder and depth head stay frozen, the way from the
tokens into the features begins anew from the seed, everything else is trained further. Finished
runs are kept below the configuration's `output`, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from depthforge_ros.engine.engine import CropOutput
from depthforge_ros.engine.load import load_network
from depthforge_ros.frame import Frame
from depthforge_ros.learning.config import TrainConfig, read_config
from depthforge_ros.learning.loop import WEIGHTS, Run
from depthforge_ros.learning.metrics import Confusion
from depthforge_ros.learning.street_cache import HeldOutStreets
from depthforge_ros.learning.train_command import build_task
from depthforge_ros.network.depthforge import ADAPTER_PARTS, DepthForge, frozen_parts
from depthforge_ros.network.weights import save_weights
from depthforge_ros.pipeline import Pipeline
from depthforge_ros.variant import PATCH, load_variant

CONFIG = Path(__file__).resolve().parents[2] / "config" / "train" / "ablation_nano.yaml"
CPU = torch.device("cpu")
SCALE_AT_START = 0.1
VALUES_AT_START = 20.0
"""Root mean square of what a token writes, W_t(T): the features' is 21 to 44."""

MOST_M = 100.0
CYCLES = (0.5, 16.0)
"""Lowest and highest frequency of the sines of log depth: cycles between 1 m and MOST_M."""


class Model(Enum):
    """What the tokens see."""

    DEPTH = "depth"
    """d, the features that the depth head reads. In a network with one encoder: the visual ones."""
    VISUAL = "visual"
    """Visual features alone (`nano+rein`); the refinement decoder stays."""
    METRES = "metres"
    """Sines of the metres that the frozen depth head answers, in place of d."""


class Change(Enum):
    """What is taken from a trained model when it is measured."""

    NOTHING = "as trained"
    ZERO_DEPTH = "d = 0"
    NO_TOKENS = "no tokens"


MEASURED = {
    Model.DEPTH: (Change.NOTHING, Change.ZERO_DEPTH),
    Model.VISUAL: (Change.NOTHING,),
    Model.METRES: (Change.NOTHING,),
}


@torch.no_grad()
def start(config: TrainConfig, model: Model, seed: int) -> TrainConfig:
    """Write the weights that a model starts from; return the configuration of its run.

    The tokens' last layer starts at 0, so that all models start as one function. Their scale starts
    at 0.1 (shipped: 0.004), and what they write is as large as the features (shipped: a hundredth).
    """
    network = load_network(load_variant(config.variant), "")
    name = f"{config.variant}+rein" if model is Model.VISUAL else config.variant
    variant, tokens = load_variant(name), network.tokens
    torch.manual_seed(seed)
    tokens.token_to_feature.reset_parameters()
    tokens.token_to_feature.bias.zero_()
    values = tokens.token_to_feature(tokens.a @ tokens.b)  # [L, m, C]
    tokens.token_to_feature.weight.mul_(VALUES_AT_START / rms(values))
    tokens.delta.weight.zero_()
    tokens.delta.bias.zero_()
    tokens.scale.fill_(SCALE_AT_START)
    output = config.output / f"{model.value}_{seed}"
    weights = []
    for file, parts in (("frozen", frozen_parts(variant)), ("start", ADAPTER_PARTS)):
        state = {k: v for k, v in network.state_dict().items() if k.partition(".")[0] in parts}
        weights.append(output / f"{file}.safetensors")
        save_weights(state, variant, weights[-1])
    return dataclasses.replace(
        config, variant=name, seed=seed, output=output, weights=tuple(weights)
    )


def train(config: TrainConfig, model: Model) -> None:
    """Train one model, unless it is done."""
    task = build_task(config)
    if model is Model.METRES:
        show_metres(task.network)
    run = Run(task, config, CPU)
    run.resume()
    run.train()


def trained(config: TrainConfig, model: Model) -> DepthForge:
    """Return a model as its run left it."""
    paths = [*config.weights, config.output / WEIGHTS]
    network = load_network(config.load_variant(), ",".join(map(str, paths)))
    if model is Model.METRES:
        show_metres(network)
    return network.eval().requires_grad_(False)


def show_metres(network: DepthForge) -> None:
    """Let the tokens see sines of log metres, as large as the features, in place of d."""
    encode: Callable[..., Any] = network.encode
    metres: list[Tensor] = []

    def encode_twice(images: Tensor, depth: bool) -> Any:
        metres.clear()
        with torch.no_grad():
            rows, columns = images.shape[2] // PATCH, images.shape[3] // PATCH
            answer = network.depth_head(encode(images, True).depth_tokens, rows, columns)
            logs = nn.functional.avg_pool2d(answer[:, None].clamp_min(1.0).log(), PATCH)
            metres.append(sines(logs.flatten(1), network.variant.visual.width))
        return encode(images, depth)

    def replace(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x, seen, *rest = args
        if metres:
            seen = metres[0] * seen.square().mean((1, 2), keepdim=True).sqrt()
        return x, seen, *rest

    network.encode = encode_twice  # type: ignore[method-assign]
    network.tokens.register_forward_pre_hook(replace)


def sines(logs: Tensor, width: int) -> Tensor:
    """Logarithms of metres [B, N] -> sines and cosines of mean square 1, [B, N, width]."""
    low, high = CYCLES
    cycles = low * (high / low) ** torch.linspace(0, 1, width // 2)
    phase = logs[..., None] * (2 * math.pi / math.log(MOST_M) * cycles)
    return math.sqrt(2) * torch.cat([phase.sin(), phase.cos()], dim=-1)


# ---- measurement -------------------------------------------------------------------------------


class PlainEngine:
    """A network as it was trained, for the pipeline: hooks act, nothing is folded."""

    backend, precision, device = "plain", "fp32", CPU

    def __init__(self, network: DepthForge) -> None:
        self.network, self.variant = network, network.variant

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Return the scores of crops [B, 3, h, w] uint8; no depth."""
        assert not depth
        return CropOutput(self.network(crops, depth=False)[0], None)


@contextmanager
def changed(network: DepthForge, change: Change) -> Iterator[None]:
    """Take depth or the tokens from a network, while in the context."""
    tokens: Any = network.tokens
    forward = tokens.forward
    if change is Change.ZERO_DEPTH:
        tokens.forward = lambda x, _, *rest, **named: forward(x, None, *rest, **named)
    elif change is Change.NO_TOKENS:
        tokens.forward = lambda x, *_, **__: x
    try:
        yield
    finally:
        tokens.forward = forward


class Kept(nn.Module):
    """A frozen layer that keeps its last answer, for the next network that gives the same input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.given: Tensor | None = None
        self.answer: Any = None

    def forward(self, x: Tensor) -> Any:
        """Return what the layer does of x."""
        if self.given is None or not torch.equal(x, self.given):
            self.given, self.answer = x, self.layer(x)
        return self.answer


def share_encoder(networks: Sequence[DepthForge]) -> None:
    """Let networks that have the same frozen encoder run it once a frame."""
    first = networks[0].visual
    for network in networks[1:]:
        for name, value in network.visual.state_dict().items():
            assert torch.equal(value, first.state_dict()[name]), name
        network.visual = first
    first.patch_embed = Kept(first.patch_embed)
    first.blocks = nn.ModuleList(Kept(block) for block in first.blocks)


def measure(
    networks: dict[str, DepthForge], frames: int, conditions: tuple[str, ...]
) -> dict[str, Any]:
    """Return, by model, mIoU in per cent by condition as trained, and with d = 0 for `depth`.

    Each of the first `frames` held-out streets is seen under every condition. moved: the number of
    pixels that have another class than as trained.
    """
    share_encoder(list(networks.values()))
    pipelines = {name: Pipeline(PlainEngine(network)) for name, network in networks.items()}
    counts: dict[tuple[str, Change, str], Confusion] = {}
    moved: dict[tuple[str, Change], int] = {}
    pixels = 0
    streets = HeldOutStreets(frames, conditions, every_condition=True)
    for index in tqdm(range(len(streets)), unit="frame"):
        sample = streets[index]
        frame = Frame(sample.rgb, focal_px=sample.focal_px)
        pixels += sample.labels.size
        for name, network in networks.items():
            plain: np.ndarray | None = None
            for change in MEASURED[Model(name.partition("_")[0])]:
                with changed(network, change):
                    labels = pipelines[name](frame, depth=False).labels
                plain = labels if plain is None else plain
                key = name, change, sample.condition
                classes = len(network.variant.labels)
                counts.setdefault(key, Confusion(classes)).add(sample.labels, labels)
                moved[name, change] = moved.get((name, change), 0) + int((labels != plain).sum())
    report: dict[str, Any] = {"pixels": pixels}
    for (name, change), number in moved.items():
        miou = {c: 100 * counts[name, change, c].mean_iou() for c in conditions}
        report.setdefault(name, {})[change.value] = {"miou": miou, "moved": number}
    for name, network in networks.items():
        report[name]["scale"] = network.tokens.scale.item()
    return report


def table(report: dict[str, Any], seeds: int, conditions: tuple[str, ...]) -> str:
    """Return Markdown: mean ± deviation over the seeds, then the differences seed by seed."""
    lines = [["model", *conditions, "mean", "pixels moved %", "scale"]]
    lines.append(["---"] + ["---:"] * (len(lines[0]) - 1))
    for model in Model:
        runs = [report[f"{model.value}_{seed}"] for seed in range(seeds)]
        for change in MEASURED[model]:
            found = [run[change.value] for run in runs]
            cells = [spread([one["miou"][c] for one in found]) for c in conditions]
            cells.append(spread([mean(one) for one in found]))
            cells.append(spread([100 * one["moved"] / report["pixels"] for one in found], 3))
            cells.append(spread([run["scale"] for run in runs], 4))
            lines.append([f"{model.value}, {change.value}", *cells])
    text = ["| " + " | ".join(line) + " |" for line in lines]
    for model in (Model.DEPTH, Model.METRES):
        pairs = [
            [report[f"{m.value}_{seed}"][Change.NOTHING.value] for m in (model, Model.VISUAL)]
            for seed in range(seeds)
        ]
        for c in conditions:
            values = [seen["miou"][c] - visual["miou"][c] for seen, visual in pairs]
            text.append(difference(f"{model.value}, {c}", values))
        text.append(difference(f"{model.value}, mean", [mean(a) - mean(b) for a, b in pairs]))
    return "\n".join(text)


def mean(one: dict[str, Any]) -> float:
    """Mean of the mIoUs over the conditions."""
    return statistics.mean(one["miou"].values())


def difference(name: str, values: list[float]) -> str:
    """Return a model less `visual`, seed by seed, and mean ± deviation."""
    return f"{name}, less visual: {', '.join(f'{v:+.2f}' for v in values)}: {spread(values, 2)}"


def spread(values: list[float], digits: int = 1) -> str:
    """Mean ± sample deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


@torch.no_grad()
def inspect(network: DepthForge, images: Tensor) -> list[tuple[float, float, float]]:
    """Return by block what the tokens see of images [B, 3, H, W].

    Correlation of x·T and d·T over patches and tokens; root mean square of the patches' features
    and of what the tokens add to them before the last layer.
    """
    found: list[tuple[float, float, float]] = []

    def note(tokens: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        x, seen, index = args
        features = x[:, options.get("prefix", 1) :]
        values = tokens.a[index] @ tokens.b[index]
        look, depth = features @ values.T, seen @ values.T  # [B, N, m] each
        weights = ((look + depth) / math.sqrt(x.shape[-1])).softmax(-1)
        correction = weights[..., 1:] @ tokens.token_to_feature(values[1:])
        agreement = torch.corrcoef(torch.stack([look.flatten(), depth.flatten()]))[0, 1]
        found.append((float(agreement), rms(features), rms(correction)))

    hook = network.tokens.register_forward_pre_hook(note, with_kwargs=True)
    network(images, depth=False)
    hook.remove()
    return found


def rms(values: Tensor) -> float:
    """Root mean square."""
    return float(values.square().mean().sqrt())


def main() -> None:
    """Train what is not trained yet, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=12, help="held-out streets a condition")
    parser.add_argument("--conditions", default="clear,night,snow")
    args = parser.parse_args()
    torch.set_flush_denormal(True)  # before threads exist: they inherit it
    config, conditions = read_config(args.config), tuple(args.conditions.split(","))
    torch.set_num_threads(config.threads or torch.get_num_threads())
    cv2.setNumThreads(1)
    sample = HeldOutStreets(1, ("clear",))[0]
    image = torch.from_numpy(sample.rgb.transpose(2, 0, 1).copy())[None]
    shipped = load_network(load_variant(config.variant), "").eval()
    for block, (r, features, correction) in enumerate(inspect(shipped, image)):
        print(f"block {block}: x·T against d·T {r:.5f}, x {features:.1f}, tokens {correction:.2f}")
    networks = {}
    for model in Model:
        for seed in range(args.seeds):
            run = start(config, model, seed)
            train(run, model)
            networks[f"{model.value}_{seed}"] = trained(run, model)
    report = measure(networks, args.frames, conditions)
    path = config.output / f"measured_{args.frames}.json"
    path.write_text(json.dumps(report, indent=1))
    print(table(report, args.seeds, conditions))


if __name__ == "__main__":
    main()
