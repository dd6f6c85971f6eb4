# SPDX-License-Identifier: Apache-2.0
"""An evaluation as JSON for programs, as Markdown and as a picture for people."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from depthforge_ros import dataclass_yaml
from depthforge_ros.learning.evaluation import DatasetScores, Scores
from depthforge_ros.learning.plot import draw_report
from depthforge_ros.pipeline import PipelineSettings


@dataclass(frozen=True)
class Report:
    """What was measured, and on what."""

    variant: str
    checkpoint: str
    backend: str
    precision: str
    device: str
    settings: PipelineSettings
    datasets: tuple[DatasetScores, ...]

    def mean_miou(self) -> float:
        """The mean of the data sets' mIoUs, each counting once."""
        return sum(one.scores.miou for one in self.datasets) / len(self.datasets)


def write_report(report: Report, folder: Path) -> str:
    """Write report.json, report.md and report.png; the Markdown. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(report)
    done, picture = cv2.imencode(".png", draw_report(report.datasets)[..., ::-1])
    assert done
    contents = {
        "report.json": (json.dumps(as_json(report), indent=2) + "\n").encode(),
        "report.md": text.encode(),
        "report.png": picture.tobytes(),
    }
    for name, content in contents.items():
        partial = folder / f".{name}.{os.getpid()}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)
    return text


def as_json(report: Report) -> dict[str, Any]:
    """Everything, in the units of the metrics (shares 0..1, metres); null where not defined."""
    return {
        "variant": report.variant,
        "checkpoint": report.checkpoint,
        "backend": report.backend,
        "precision": report.precision,
        "device": report.device,
        "pipeline": dataclass_yaml.plain(report.settings),
        "mean_miou": _number(report.mean_miou()),
        "datasets": [
            {
                "name": one.name,
                "same_content_in_every_condition": one.same_content,
                "skipped": list(one.skipped),
                **_scores_json(one.scores, one.classes),
                "conditions": {
                    name: _scores_json(scores, one.classes)
                    for name, scores in one.conditions.items()
                },
            }
            for one in report.datasets
        ],
    }


def _scores_json(scores: Scores, classes: Sequence[str]) -> dict[str, Any]:
    fields = dataclass_yaml.plain(scores)
    fields["iou"] = dict(zip(classes, scores.iou, strict=True))
    return _finite(fields)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return _number(value) if isinstance(value, float) else value


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def markdown(report: Report) -> str:
    """Tables for people, in per cent and metres."""
    settings = report.settings
    size = f"{settings.short_side_px} px" if settings.short_side_px else "the variant's crop"
    parts = [
        f"# Evaluation of `{report.variant}`",
        f"Weights: {report.checkpoint}. {report.backend}, {report.precision}, {report.device}; "
        f"mode {settings.mode.value}, short side {size}.",
        "mIoU over the classes that occur; calibration: expected calibration error of the "
        "confidence, 15 bins; depth up to 80 m, mean over images.",
    ]
    rows = [[one.name, *_figures(one.scores)] for one in report.datasets]
    if len(report.datasets) > 1:
        rows.append(["mean of the data sets", "", _percent(report.mean_miou()), *[""] * 6])
    parts.append(_table(["data set", *FIGURES], rows))
    for one in report.datasets:
        parts.append(f"## {one.name}")
        if one.same_content:
            parts.append(
                "Every condition shows the same streets, so content and condition are separated."
            )
        if one.skipped:
            parts.append(
                f"{len(one.skipped)} images could not be read: " + "; ".join(one.skipped[:5])
            )
        rows = [[name, *_figures(scores)] for name, scores in one.conditions.items()]
        parts.append(_table(["condition", *FIGURES], rows))
        several = len(one.conditions) > 1
        rows = [
            [label, _percent(one.scores.iou[index])]
            + [_percent(s.iou[index]) for s in one.conditions.values() if several]
            for index, label in enumerate(one.classes)
        ]
        names = [f"{name} %" for name in one.conditions] if several else []
        parts.append(_table(["class", "IoU %", *names], rows))
    return "\n\n".join(parts) + "\n"


FIGURES = (
    "images", "mIoU %", "pixel accuracy %", "calibration error %",
    "AbsRel", "RMSE m", "δ<1.25 %", "depth given %",
)  # fmt: skip


def _figures(scores: Scores) -> list[str]:
    depth = scores.depth
    return [
        str(scores.images),
        _percent(scores.miou),
        _percent(scores.pixel_accuracy),
        _percent(scores.calibration_error),
        *(
            [""] * 4
            if depth is None
            else [
                f"{depth.abs_rel:.3f}",
                f"{depth.rmse_m:.2f}",
                _percent(depth.delta1),
                _percent(depth.coverage),
            ]
        ),
    ]


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
