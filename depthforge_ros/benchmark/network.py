# SPDX-License-Identifier: Apache-2.0
"""`depthforge benchmark network`: operations and time of a network, stage by stage.

With `--vs` two settings run in turn in one process, so that both meet the machine in the same mood;
what counts is the ratio of neighbours.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depthforge_ros.benchmark.ceiling import matmul_flops_per_s, seconds
from depthforge_ros.benchmark.settings import SETTINGS, Prepared, countable, prepare
from depthforge_ros.benchmark.stages import stage_flops, stage_seconds
from depthforge_ros.benchmark.topics import processor
from depthforge_ros.engine.build import load_network, pick_device
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.variant import load_variant

SEED = 0


@dataclass(frozen=True)
class Figures:
    """What one setting costs. seconds: of every run; stages: FLOPs and median seconds of each."""

    name: str
    dtype: str
    flops: int
    seconds: tuple[float, ...]
    stage_flops: dict[str, int]
    stage_seconds: dict[str, float]
    ceiling_flops_per_s: float

    @property
    def fraction(self) -> float:
        """Of what the machine could at best, in the median run."""
        return self.flops / statistics.median(self.seconds) / self.ceiling_flops_per_s


@dataclass(frozen=True)
class Comparison:
    """The second setting's time over the first's, for every pair of neighbouring runs.

    labels_agree: fraction of pixels to which both give the same class; of random weights, one class
    may win everywhere. patterns_agree: the same with each class's mean over the image taken from
    its scores, so that what is compared is where a class is likelier than elsewhere.
    """

    ratios: tuple[float, ...]
    labels_agree: float
    patterns_agree: float


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge benchmark network`."""
    parser.add_argument("setting", choices=SETTINGS, help=told(SETTINGS))
    parser.add_argument("--vs", choices=SETTINGS, help="another setting, run in turn with it")
    parser.add_argument("--variant", default="nano", help="network")
    parser.add_argument("--checkpoint", default="untrained", help="weights; untrained: random")
    parser.add_argument("--crop", default="", metavar="HxW", help="image; the variant's crop")
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    parser.add_argument("--runs", type=int, default=5, help="how often each setting runs")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", type=Path, help="write all figures to this file")


def told(settings: dict[str, str]) -> str:
    """The settings and what they mean, in one line."""
    return "; ".join(f"{name}: {meaning}" for name, meaning in settings.items())


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0."""
    for name in ("batch", "runs"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}; wanted at least 1")
    if args.json and not args.json.absolute().parent.is_dir():
        raise ValueError(f"--json is {args.json}, whose folder does not exist")
    variant = load_variant(args.variant)
    height, width = crop_of(args.crop) if args.crop else (variant.crop, variant.crop)
    device = pick_device(args.device)
    with torch.device("meta"):
        counted = DepthForge(variant)
    names = [args.setting, *([args.vs] if args.vs else [])]
    counts = {}
    for name in names:
        shape = (args.batch, 3, height, width)
        way = countable(name, counted, height, width)
        images = torch.zeros(shape, dtype=torch.uint8, device="meta")
        with torch.no_grad(), way.mode():
            counts[name] = dict(stage_flops(way.network, images))
    network = load_network(variant, args.checkpoint).to(device).eval().requires_grad_(False)
    ways = {name: prepare(name, network, height, width) for name in names}
    del network
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randint(
        256, (args.batch, 3, height, width), dtype=torch.uint8, generator=generator
    ).to(device)
    figures, comparison = measure(ways, counts, images, args.runs)
    machine = {
        "processor": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{processor()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    title = (
        f"{variant.name}, {args.batch} x {height}x{width}, checkpoint {args.checkpoint}, "
        f"{machine['processor']}, torch {machine['torch']}"
    )
    print(text(title, figures, comparison))
    if args.json:
        content: dict[str, Any] = {
            "variant": variant.name,
            "checkpoint": args.checkpoint,
            "images": [args.batch, 3, height, width],
            "machine": machine,
            "settings": [asdict(one) for one in figures],
            "comparison": asdict(comparison) if comparison else None,
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return 0


def crop_of(text: str) -> tuple[int, int]:
    """Height and width of `HxW`. Raises ValueError."""
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise ValueError(f"--crop is {text!r}; wanted HEIGHTxWIDTH, such as 512x1024") from None
    return height, width


@torch.inference_mode()
def measure(
    ways: dict[str, Prepared], counts: dict[str, dict[str, int]], images: Tensor, runs: int
) -> tuple[list[Figures], Comparison | None]:
    """Run all settings in turn: once to warm up, then `runs` times, then once by stages."""
    labels, patterns = {}, {}
    for name, way in ways.items():
        with way.mode():
            scores = way.network(images)[0]  # [B, K, H, W]
        labels[name] = scores.argmax(1)
        patterns[name] = (scores - scores.mean((2, 3), keepdim=True)).argmax(1)
    times: dict[str, list[float]] = {name: [] for name in ways}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            with way.mode():
                times[name].append(seconds(lambda way=way: way.network(images), images.device))
    for name, way in ways.items():
        with way.mode():
            stages[name].append(stage_seconds(way.network, images))
    ceilings = {
        dtype: matmul_flops_per_s(images.device, dtype)
        for dtype in {way.dtype for way in ways.values()}
    }
    figures = [
        Figures(
            name=name,
            dtype=str(way.dtype).removeprefix("torch."),
            flops=sum(counts[name].values()),
            seconds=tuple(times[name]),
            stage_flops=counts[name],
            stage_seconds=stages[name][0],
            ceiling_flops_per_s=ceilings[way.dtype],
        )
        for name, way in ways.items()
    ]
    if len(ways) < 2:
        return figures, None
    first, second = ways
    ratios = tuple(b / a for a, b in zip(times[first], times[second], strict=True))
    agree, patterns_agree = (
        (one[first] == one[second]).float().mean().item() for one in (labels, patterns)
    )
    return figures, Comparison(ratios, agree, patterns_agree)


def text(title: str, figures: list[Figures], comparison: Comparison | None) -> str:
    """The figures as lines and tables."""
    lines = [title]
    for one in figures:
        median = statistics.median(one.seconds)
        lines += [
            "",
            f"{one.name}: median {1000 * median:.1f} ms ({1000 * min(one.seconds):.1f} to "
            f"{1000 * max(one.seconds):.1f}, {len(one.seconds)} runs), "
            f"{one.flops / 1e9:.1f} GFLOP, {one.fraction:.0%} of the {one.dtype} ceiling of "
            f"{one.ceiling_flops_per_s / 1e9:.0f} GFLOP/s",
            f"  {'stage':<18}{'GFLOP':>10}{'ms':>10}{'of ceiling':>12}",
        ]
        for stage, flops in one.stage_flops.items():
            spent_s = one.stage_seconds[stage]
            share = flops / spent_s / one.ceiling_flops_per_s if spent_s > 0 else 0.0
            lines.append(f"  {stage:<18}{flops / 1e9:>10.1f}{1000 * spent_s:>10.1f}{share:>12.0%}")
    if comparison:
        first, second = figures
        ratios = comparison.ratios
        lines += [
            "",
            f"{first.name} is {statistics.median(ratios):.2f} times as fast as {second.name} "
            f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} pairs of runs); "
            f"{comparison.labels_agree:.2%} of the labels agree, "
            f"{comparison.patterns_agree:.2%} with the mean of each class taken away",
        ]
    return "\n".join(lines)
