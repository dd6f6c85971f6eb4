# SPDX-License-Identifier: Apache-2.0
"""Does depth help in weather that was never trained on? The three models of the question.

    python -m depthforge_ros.learning.street_cache runs/streets --drives 1200
    python docs/scripts/generalisation.py --seeds 3

Encoders and method see clear streets alone. Every model is then measured on the same held-out
streets under every condition. What is finished is kept below runs/, and a run that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Iterable
from pathlib import Path

import torch

from depthforge_ros.engine import build_engine
from depthforge_ros.learning.config import (
    Ablation,
    DatasetKind,
    DatasetSettings,
    TrainConfig,
    read_config,
)
from depthforge_ros.learning.loop import WEIGHTS
from depthforge_ros.learning.scoring import score_dataset
from depthforge_ros.learning.train_command import train
from depthforge_ros.pipeline import Pipeline
from depthforge_ros.street import CONDITIONS

CONFIGS = Path(__file__).resolve().parents[2] / "config" / "train"
STAGES = ("generalisation_1_visual", "generalisation_2_depth", "generalisation_3_method")
NAMES = {
    Ablation.NONE: "no tokens",
    Ablation.REIN: "Rein: tokens without depth",
    Ablation.DEPTH: "depth-aware tokens, refinement",
}


def main() -> None:
    """Train what is not trained yet, measure what is not measured yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=24, help="held-out streets a condition")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    visual, depth, method = (read_config(CONFIGS / f"{name}.yaml") for name in STAGES)
    for config in (visual, depth):
        run(config, args.device)
    scores: dict[Ablation, list[dict[str, float]]] = {ablation: [] for ablation in Ablation}
    for seed in range(args.seeds):
        for ablation in Ablation:
            output = method.output / f"{ablation.value}_{seed}"
            config = dataclasses.replace(method, ablation=ablation, seed=seed, output=output)
            run(config, args.device)
            scores[ablation].append(measured(config, args.frames, args.device))
            print(table(scores), flush=True)


def run(config: TrainConfig, device: str) -> None:
    """Train one stage, unless it is done."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    train(config, torch.device(device), main_process=True)


def measured(config: TrainConfig, frames: int, device: str) -> dict[str, float]:
    """mIoU by condition, in per cent; kept beside the weights."""
    kept = config.output / f"miou_{frames}.json"
    if not kept.is_file():
        checkpoint = ",".join(map(str, [*config.weights, config.output / WEIGHTS]))
        engine = build_engine(config.load_variant(), checkpoint, device=device)
        streets = DatasetSettings(DatasetKind.STREET_HELD_OUT, frames=frames)
        conditions = score_dataset(Pipeline(engine), streets).conditions
        kept.write_text(json.dumps({name: 100 * s.miou for name, s in conditions.items()}))
    return json.loads(kept.read_text("utf-8"))


def table(scores: dict[Ablation, list[dict[str, float]]]) -> str:
    """Markdown: mean ± deviation over the seeds, by model and condition."""
    unseen = [condition for condition in CONDITIONS if condition != "clear"]
    head = ["model", *CONDITIONS, "mean of the unseen"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for ablation, runs in scores.items():
        if runs:
            cells = [spread(one[condition] for one in runs) for condition in CONDITIONS]
            mean = spread(statistics.mean(one[c] for c in unseen) for one in runs)
            lines.append([NAMES[ablation], *cells, mean])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Iterable[float]) -> str:
    """Mean ± sample deviation."""
    given = list(values)
    deviation = statistics.stdev(given) if len(given) > 1 else 0.0
    return f"{statistics.mean(given):.1f} ± {deviation:.1f}"


if __name__ == "__main__":
    main()
