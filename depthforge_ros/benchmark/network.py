# SPDX-License-Identifier: Apache-2.0
"""`depthforge benchmark network`: operations and time of a network, stage by stage.

Settings run in turn in one process, so that other load affects all alike; compare the
ratios of neighbouring runs. On a shared machine, processor time is more reliable than wall time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depthforge_ros.benchmark.machine import matmul_flops_per_s, processor
from depthforge_ros.benchmark.settings import SETTINGS, Prepared, countable, prepare
from depthforge_ros.benchmark.stages import REST, STAGES, stage_flops, stage_seconds
from depthforge_ros.engine import Shape
from depthforge_ros.engine.load import load_network, pick_device
from depthforge_ros.engine.self_check import check_images
from depthforge_ros.image_size import parse_size
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.variant import load_variant


@dataclass(frozen=True)
class Figures:
    """What one setting costs.

    seconds: of every run by the clock; cpu_seconds: the same of all processors together, of this
    process alone. stage_flops, stage_seconds: of each stage, the median run's by the clock.
    """

    name: str
    dtype: str
    flops: int
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    stage_flops: dict[str, int]
    stage_seconds: dict[str, float]
    ceiling_flops_per_s: float

    @property
    def fraction(self) -> float:
        """Of what the machine could at best, in the median run."""
        return self.flops / statistics.median(self.seconds) / self.ceiling_flops_per_s


@dataclass(frozen=True)
class Comparison:
    """Two settings against each other.

    ratios: the time of `vs` over that of `name`, for every pair of neighbouring runs; cpu_ratios:
    the same of processor time. labels_agree: fraction of pixels to which both give the same class;
    of random weights, one class may win everywhere. patterns_agree: the same with each class's mean
    over the image taken from its scores: where a class is likelier than elsewhere.
    """

    name: str
    vs: str
    ratios: tuple[float, ...]
    cpu_ratios: tuple[float, ...]
    labels_agree: float
    patterns_agree: float


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge benchmark network`."""
    parser.add_argument("setting", nargs="+", choices=SETTINGS, help=choices_help(SETTINGS))
    parser.add_argument("--vs", choices=SETTINGS, help="what they are compared with")
    parser.add_argument("--variant", default="nano", help="network")
    parser.add_argument("--checkpoint", default="untrained", help="weights; untrained: random")
    parser.add_argument(
        "--crop", default="", metavar="WxH", help="of the images; the variant's crop"
    )
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    parser.add_argument("--runs", type=int, default=5, help="how often each setting runs")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", type=Path, help="write all figures to this file")


def choices_help(settings: dict[str, str]) -> str:
    """The settings and what they mean, in one line."""
    return "; ".join(f"{name}: {meaning}" for name, meaning in settings.items())


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0."""
    for name in ("batch", "runs"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}; expected at least 1")
    if args.json and not args.json.absolute().parent.is_dir():
        raise ValueError(f"--json is {args.json}, whose folder does not exist")
    variant = load_variant(args.variant)
    side = variant.crop
    width, height = parse_size(args.crop, "--crop") if args.crop else (side, side)
    Shape(height, width)  # raises ValueError for a size that no network takes
    device = pick_device(args.device)
    with torch.device("meta"):
        counted = DepthForge(variant)
    names = list(dict.fromkeys([*args.setting, *([args.vs] if args.vs else [])]))
    counts = {}
    for name in names:
        shape = (args.batch, 3, height, width)
        way = countable(name, counted, height, width)
        images = torch.zeros(shape, dtype=torch.uint8, device="meta")
        with torch.no_grad(), way.mode():
            counts[name] = dict(stage_flops(way.network, images))  # type: ignore[arg-type]
    network = load_network(variant, args.checkpoint).to(device).eval().requires_grad_(False)
    ways = {name: prepare(name, network, height, width, args.batch) for name in names}
    del network
    images = check_images(Shape(height, width, args.batch)).to(device)
    figures, comparisons = measure(ways, counts, images, args.runs, args.vs)
    machine = {
        "processor": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{processor()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    title = (
        f"{variant.name}, {args.batch} x {width}x{height}, checkpoint {args.checkpoint}, "
        f"{machine['processor']}, torch {machine['torch']}"
    )
    print(text(title, figures, comparisons))
    if args.json:
        content: dict[str, Any] = {
            "variant": variant.name,
            "checkpoint": args.checkpoint,
            "images": [args.batch, 3, height, width],
            "machine": machine,
            "settings": [asdict(one) for one in figures],
            "comparisons": [asdict(one) for one in comparisons],
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return 0


@torch.inference_mode()
def measure(
    ways: dict[str, Prepared],
    counts: dict[str, dict[str, int]],
    images: Tensor,
    runs: int,
    vs: str | None,
) -> tuple[list[Figures], list[Comparison]]:
    """Run all settings in turn, once to warm up and then `runs` times; compare each with `vs`."""
    labels, patterns = {}, {}
    for name, way in ways.items():
        with way.mode():
            scores = way.network(images)[0]  # [B, K, H, W]
        labels[name] = scores.argmax(1)
        patterns[name] = (scores - scores.mean((2, 3), keepdim=True)).argmax(1)
    clock: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            started_s = time.process_time()
            with way.mode():
                spent_s = stage_seconds(way.network, images)
            cpu[name].append(time.process_time() - started_s)
            clock[name].append(sum(spent_s.values()))
            stages[name].append(spent_s)
    ceilings = {
        dtype: matmul_flops_per_s(images.device, dtype)
        for dtype in {way.dtype for way in ways.values()}
    }
    figures = [
        Figures(
            name=name,
            dtype=str(way.dtype).removeprefix("torch."),
            flops=sum(counts[name].values()),
            seconds=tuple(clock[name]),
            cpu_seconds=tuple(cpu[name]),
            stage_flops=counts[name],
            stage_seconds={
                stage: statistics.median(one[stage] for one in stages[name]) for stage in STAGES
            },
            ceiling_flops_per_s=ceilings[way.dtype],
        )
        for name, way in ways.items()
    ]
    comparisons = [
        Comparison(
            name=name,
            vs=vs,
            ratios=ratios(clock[name], clock[vs]),
            cpu_ratios=ratios(cpu[name], cpu[vs]),
            labels_agree=(labels[name] == labels[vs]).float().mean().item(),
            patterns_agree=(patterns[name] == patterns[vs]).float().mean().item(),
        )
        for name in ways
        if vs is not None and name != vs
    ]
    return figures, comparisons


def ratios(first: list[float], second: list[float]) -> tuple[float, ...]:
    """Every second over its first."""
    return tuple(b / a for a, b in zip(first, second, strict=True))


def text(title: str, figures: list[Figures], comparisons: list[Comparison]) -> str:
    """The figures as lines and tables."""
    lines = [title]
    for one in figures:
        median_s = statistics.median(one.seconds)
        lines += [
            "",
            f"{one.name}: median {1000 * median_s:.1f} ms ({1000 * min(one.seconds):.1f} to "
            f"{1000 * max(one.seconds):.1f}, {len(one.seconds)} runs; processors "
            f"{1000 * statistics.median(one.cpu_seconds):.1f} ms), {one.flops / 1e9:.1f} GFLOP, "
            f"{one.fraction:.0%} of the {one.dtype} ceiling of "
            f"{one.ceiling_flops_per_s / 1e9:.0f} GFLOP/s",
            f"  {'stage':<18}{'GFLOP':>10}{'ms':>10}{'of ceiling':>12}",
        ]
        # A program of another runtime has no stages.
        staged = any(spent for stage, spent in one.stage_seconds.items() if stage != REST)
        for stage, flops in one.stage_flops.items():
            if not staged and stage != REST:
                continue
            spent_s = one.stage_seconds[stage]
            share = flops / spent_s / one.ceiling_flops_per_s if spent_s > 0 else 0.0
            lines.append(f"  {stage:<18}{flops / 1e9:>10.1f}{1000 * spent_s:>10.1f}{share:>12.0%}")
    for compared in comparisons:
        lines += [
            "",
            f"{compared.name} is {statistics.median(compared.ratios):.2f} times as fast as "
            f"{compared.vs} ({min(compared.ratios):.2f} to {max(compared.ratios):.2f} in "
            f"{len(compared.ratios)} pairs of runs; by processor time "
            f"{statistics.median(compared.cpu_ratios):.2f}); "
            f"{compared.labels_agree:.2%} of the labels agree, "
            f"{compared.patterns_agree:.2%} with the mean of each class taken away",
        ]
    return "\n".join(lines)
