# SPDX-License-Identifier: Apache-2.0
"""Shifts the class head's bias to where mIoU is highest, on images that training has not seen.

Training weighs rare classes more, so that they are learnt at all; afterwards the network gives
them too many pixels. The class head's bias is part of the weights: inference stays as it is.

    python -m depthforge_ros.learning.class_bias nano WEIGHTS OUT [--streets 72]
        [--data camvid:datasets/camvid --taught runs/camvid_taught]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from depthforge_ros.engine.load import load_network
from depthforge_ros.frame import UNLABELLED
from depthforge_ros.learning.config import DatasetKind, DatasetSettings, open_dataset
from depthforge_ros.learning.quick_validation import prepared, spread
from depthforge_ros.learning.relight import relight
from depthforge_ros.learning.samples import Sample
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.weights import read_weights, save_weights
from depthforge_ros.street import CONDITIONS, TRAIN_SEEDS, StreetDrive
from depthforge_ros.variant import load_variant

PIXELS_A_CLASS = 300
"""At most so many pixels of a class are kept of an image; each then counts for several."""
STEPS = (-1.0, -0.4, -0.15, 0.15, 0.4, 1.0)
ROUNDS = 4
LARGEST_SHIFT = 2.0
RELIT_SHARE = 0.6


@dataclass(frozen=True)
class Seen:
    """What the network answered at some pixels of an image.

    class_logits: [Q, K + 1]. masks: [P, Q] probabilities. truth: [P] int64. weight: [P] how many
    pixels of the image each stands for.
    """

    class_logits: Tensor
    masks: Tensor
    truth: Tensor
    weight: Tensor


@torch.inference_mode()
def seen(network: DepthForge, sample: Sample, rng: np.random.Generator) -> Seen:
    """Return the network's answers at pixels of every class of the sample."""
    images = prepared(sample, network)
    size = images.shape[2:]
    outputs = network.forward_train(images)
    masks = F.interpolate(outputs.mask_logits[-1].float(), size, mode="bilinear")[0].sigmoid()
    labels = torch.from_numpy(sample.labels)[None, None].float()
    truth = F.interpolate(labels, size, mode="nearest-exact")[0, 0].long().flatten()
    chosen, weights = [], []
    for label in truth.unique().tolist():
        if label == UNLABELLED:
            continue
        places = (truth == label).nonzero()[:, 0].numpy()
        taken = rng.permutation(places)[:PIXELS_A_CLASS]
        chosen.append(taken)
        weights.append(np.full(len(taken), len(places) / len(taken), np.float32))
    at = torch.from_numpy(np.concatenate(chosen)) if chosen else torch.empty(0, dtype=torch.long)
    weight = torch.from_numpy(np.concatenate(weights)) if weights else torch.empty(0)
    return Seen(outputs.class_logits[-1][0].float(), masks.flatten(1).T[at], truth[at], weight)


def mean_iou(images: Sequence[Seen], shift: Tensor) -> float:
    """Return mIoU over the classes that occur in truth or prediction. shift: [K], logits."""
    K = len(shift)
    counts = torch.zeros(K * K)
    added = torch.cat([shift, shift.new_zeros(1)])
    for image in images:
        classes = (image.class_logits + added).softmax(-1)[:, :-1]  # [Q, K]
        predicted = (image.masks @ classes).argmax(1)  # [P]
        counts.index_add_(0, image.truth * K + predicted, image.weight)
    table = counts.view(K, K)
    hits = table.diagonal()
    union = table.sum(0) + table.sum(1) - hits
    return float((hits / union)[union > 0].mean())


def best_shift(groups: Sequence[Sequence[Seen]], classes: int) -> tuple[Tensor, float, float]:
    """Return the shift [K] of the logits, and the mean of the groups' mIoU before and after.

    One class after the other takes the step that helps most, as long as one helps.
    """

    def goal(shift: Tensor) -> float:
        return sum(mean_iou(group, shift) for group in groups) / len(groups)

    shift = torch.zeros(classes)
    before = best = goal(shift)
    for _ in range(ROUNDS):
        at_start = best
        for label in range(classes):
            for step in STEPS:
                tried = shift.clone()
                tried[label] = (shift[label] + step).clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
                value = goal(tried)
                if value > best:
                    shift, best = tried, value
        if best == at_start:
            break
    return shift, before, best


def fresh_streets(count: int) -> Iterable[Sample]:
    """Yield streets from the end of the training seeds, every condition in turn."""
    for index, seed in enumerate(TRAIN_SEEDS[-count:]):
        condition = CONDITIONS[index % len(CONDITIONS)]
        frame = StreetDrive(seed, condition, 512, 384, frames=1)[0]
        focal_px = float(frame.intrinsics[0, 0])
        yield Sample(
            frame.rgb, frame.labels, frame.depth_m, "street", condition, f"{seed:08d}/0", focal_px
        )


def relit(sample: Sample, rng: np.random.Generator) -> Sample:
    """Return the sample, a share of the times by night or in bad weather."""
    height, width = sample.labels.shape
    centre = ((width - 1) / 2, (height - 1) / 2)
    changed = relight(sample, centre, rng) if rng.random() < RELIT_SHARE else None
    return changed or sample


def main(argv: Sequence[str] | None = None) -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description="shift the class head's bias for mIoU")
    parser.add_argument("variant")
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--streets", type=int, default=72, help="fresh rendered streets")
    parser.add_argument("--data", metavar="KIND:FOLDER", help="a labelled data set, relit")
    parser.add_argument("--taught", type=Path, help="its teacher's answers")
    parser.add_argument("--frames", type=int, default=48, help="of the data set")
    parser.add_argument("--float16", action="store_true", help="write weights as float16")
    parser.add_argument("--share", type=float, default=1.0, help="of the shift that is applied")
    args = parser.parse_args(argv)
    variant = load_variant(args.variant)
    network = load_network(variant, str(args.weights)).eval()
    rng = np.random.default_rng(11)
    streets = (relit(sample, rng) for sample in fresh_streets(args.streets))
    groups = [[seen(network, sample, rng) for sample in tqdm(streets, total=args.streets)]]
    if args.data:
        kind, _, root = args.data.partition(":")
        settings = DatasetSettings(DatasetKind(kind), Path(root), taught=args.taught)
        samples = spread(open_dataset(settings, variant.labels), args.frames)
        relit_samples = (relit(sample, rng) for sample in samples)
        groups.append([seen(network, s, rng) for s in tqdm(relit_samples, total=args.frames)])
    shift, before, after = best_shift(groups, len(variant.labels))
    print(f"mIoU {100 * before:.1f} -> {100 * after:.1f} %")
    for label, value in zip(variant.labels.classes, shift.tolist(), strict=True):
        print(f"{label.name:14s} {value:+.2f}")
    state, stored = read_weights(args.weights)
    name = "mask_decoder.class_head.bias"
    state[name] = state[name] + args.share * torch.cat([shift, shift.new_zeros(1)]).to(state[name])
    if args.float16:
        state = {key: value.half() for key, value in state.items()}
    save_weights(state, stored or variant, args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
