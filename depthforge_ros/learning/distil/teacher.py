# SPDX-License-Identifier: Apache-2.0
"""Depth and finer labels for real images that have neither, from a trained network.

Metres come from the network; on the road they are those of the plane on which the camera moves,
and the rest is scaled to them, so that a network which learns from them answers steadily. Where a
data set merges classes (CamVid's car may be a truck), the network chooses within the merged class.

    python -m depthforge_ros.learning.distil.teacher camvid:datasets/camvid FOLDER --focal-px 525
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from depthforge_ros.engine import build_engine
from depthforge_ros.frame import UNLABELLED
from depthforge_ros.learning.config import DatasetKind, DatasetSettings, open_dataset
from depthforge_ros.learning.label_ids import ROAD, SKY
from depthforge_ros.pipeline import PipelineSettings
from depthforge_ros.pipeline.settings import inference_size
from depthforge_ros.pipeline.windows import resize_rgb
from depthforge_ros.variant import Variant, load_variant

MIN_ROAD = 400
"""Road pixels below which a frame's own scale is not measured."""


def plane_of(
    depth_m: np.ndarray, road: np.ndarray, rays: tuple[np.ndarray, np.ndarray], height_m: float
) -> np.ndarray | None:
    """n / h of the road's plane n·X = h, [3], by least squares with two rounds of trimming; scaled
    so that the camera is `height_m` above it. None where there is too little road.

    rays: x [W] and y [H] of every column and row at unit depth.
    """
    rows, columns = road.nonzero()
    if len(rows) < MIN_ROAD:
        return None
    x, y = rays[0][columns], rays[1][rows]
    inverse = 1.0 / depth_m[rows, columns]  # linear in the ray on a plane: 1/z = (n/h)·r
    design = np.stack([x, y, np.ones_like(x)], axis=1)
    keep = np.ones(len(rows), bool)
    for _ in range(3):
        plane, *_ = np.linalg.lstsq(design[keep], inverse[keep], rcond=None)
        errors = np.abs(design @ plane - inverse)
        keep = errors <= np.quantile(errors, 0.8)
    return plane / np.linalg.norm(plane) / height_m


def on_plane(plane: np.ndarray, rays: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Depth [H, W] of a plane, +Inf above its horizon."""
    inverse = plane[0] * rays[0][None] + plane[1] * rays[1][:, None] + plane[2]
    with np.errstate(divide="ignore"):
        return np.where(inverse > 1e-3, 1 / np.maximum(inverse, 1e-3), np.inf)


def refined(truth: np.ndarray, scores: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Labels [H, W] where the class is the likeliest of those that the data set merges into one.

    truth: trainIds as the data set tells them. scores: [K, H, W]. table: [256] from trainId to the
    merged class.
    """
    merged = table[truth]
    allowed = table[: len(scores), None, None] == merged[None]  # [K, H, W]
    best = np.where(allowed, scores, -1).argmax(0).astype(np.uint8)
    return np.where(truth == UNLABELLED, truth, best)


def teach(
    settings: DatasetSettings,
    folder: Path,
    variant: Variant,
    checkpoint: str,
    focal_px: float,
    height_m: float,
) -> int:
    """Write the teacher's answers for a data set; how many frames."""
    engine = build_engine(variant, checkpoint, device="cpu")
    source = open_dataset(settings)
    folder.mkdir(parents=True, exist_ok=True)
    table = source.merge.table
    planes, answers = [], []
    for sample in tqdm((source[i] for i in range(len(source))), total=len(source)):
        height, width = sample.labels.shape
        size = inference_size(height, width, PipelineSettings(), variant)
        output = engine(resize_rgb(sample.rgb, *size, torch.device("cpu")), depth=True)
        scores = F.interpolate(output.scores.float(), (height, width), mode="bilinear")[0]
        depth_m = F.interpolate(output.depth[None].float(), (height, width), mode="bilinear")[0, 0]
        metres = focal_px * size[0] / height / (variant.depth_head.focal_px or focal_px)
        depth = depth_m.numpy() * metres
        rays = rays_of(width, height, focal_px)
        planes.append(plane_of(depth, sample.labels == ROAD, rays, height_m))
        labels = refined(sample.labels, scores.numpy(), table)
        answers.append((sample.name, depth.astype(np.float16), labels))
    known = np.array([plane for plane in planes if plane is not None])
    usual = np.median(known, axis=0)  # of the one camera of the sequence
    for name, depth, labels in answers:
        height, width = labels.shape
        ground = on_plane(usual, rays_of(width, height, focal_px))
        metres = depth.astype(np.float32)
        road = (labels == ROAD) & np.isfinite(ground) & (ground < 40)
        scale = float(np.median(ground[road] / metres[road])) if road.sum() > MIN_ROAD else 1.0
        metres = metres * np.clip(scale, 0.5, 2.5)
        metres = np.where(road, ground, metres)
        metres[labels == SKY] = np.inf
        np.savez_compressed(
            folder / f"{name}.npz",
            depth_m=metres.astype(np.float16),
            labels=labels,
            focal_px=np.float32(focal_px),
        )
    return len(answers)


def rays_of(width: int, height: int, focal_px: float) -> tuple[np.ndarray, np.ndarray]:
    """x [W] and y [H] at unit depth of a camera that looks through the middle."""
    x = (np.arange(width) - (width - 1) / 2) / focal_px
    y = (np.arange(height) - (height - 1) / 2) / focal_px
    return x, y


def main(argv: Sequence[str] | None = None) -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description="teacher's depth and labels for a data set")
    parser.add_argument("data", metavar="KIND:FOLDER")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="sequences, joined by commas: one camera")
    parser.add_argument("--variant", default="nano", help="of the teacher")
    parser.add_argument("--checkpoint", default="", help="of the teacher; default: what ships")
    parser.add_argument("--focal-px", type=float, required=True)
    parser.add_argument("--camera-height-m", type=float, default=1.4)
    args = parser.parse_args(argv)
    kind, _, root = args.data.partition(":")
    only = tuple(args.only.split(",")) if args.only else ()
    settings = DatasetSettings(DatasetKind(kind), Path(root), only=only)
    variant = load_variant(args.variant)
    teach(settings, args.folder, variant, args.checkpoint, args.focal_px, args.camera_height_m)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
