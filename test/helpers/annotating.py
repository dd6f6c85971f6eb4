# SPDX-License-Identifier: Apache-2.0
"""A drive to annotate, and an engine that tells its images apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from bagfiles import (
    START_NS,
    Recorded,
    image,
    info,
    recorded,
    text,
)
from torch import Tensor

from depthforge_ros.engine.engine import CropOutput
from depthforge_ros.pipeline import Pipeline, PipelineSettings
from depthforge_ros.variant import Variant, load_variant

PERIOD_NS = 33_333_333
LATENCY_NS = 5_000_000


class RedEngine:
    """The redder a pixel, the higher its class and its depth: results tell images apart."""

    backend = "red"
    precision = "none"

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.device = torch.device("cpu")

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        red = crops[:, 0].float() / 256  # [B, h, w]
        classes = len(self.variant.labels)
        winner = (red * classes).long()
        scores = torch.nn.functional.one_hot(winner, classes).permute(0, 3, 1, 2) * 0.8
        return CropOutput(scores, red + 0.5 if depth else None)


def pipeline(variant: str = "nano", **settings: object) -> Pipeline:
    chosen = {"short_side_px": 64, **settings}
    return Pipeline(RedEngine(load_variant(variant)), PipelineSettings(**chosen))


def drive(
    count: int, make: Callable = image, topic: str = "/front/image_raw", note_bytes: int = 0
) -> list[Recorded]:
    """A recording: images logged later than they are stamped, with CameraInfo and other topics."""
    messages = []
    for index in range(count):
        stamp_ns = START_NS + index * PERIOD_NS
        log_ns = stamp_ns + LATENCY_NS
        messages += [
            recorded(topic, log_ns, make(index, stamp_ns)),
            recorded("/front/camera_info", log_ns, info(stamp_ns)),
            recorded("/notes", log_ns + 1, text(f"note {index}".ljust(note_bytes))),
        ]
    return messages


def command(source: Path, target: Path, *options: str) -> list[str]:
    """Arguments after `depthforge`."""
    fixed = ["--checkpoint", "instant", "--short-side", "64", "--split-mib", "1"]
    return ["annotate", str(source), str(target), *fixed, *options]
