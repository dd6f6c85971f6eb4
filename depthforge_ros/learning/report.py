# SPDX-License-Identifier: Apache-2.0
"""Reports of an evaluation: JSON for programs, Markdown and a picture for people."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from depthforge_ros import dataclass_yaml
from depthforge_ros.learning.config import Origin
from depthforge_ros.learning.metrics import DepthScores
from depthforge_ros.learning.scoring import DatasetScores, Protocol, Scores
from depthforge_ros.pipeline import PipelineSettings


@dataclass(frozen=True)
class Report:
    """Scores, and everything they depend on. sha256: of the checkpoint's files, by name."""

    variant: str
    protocol: Protocol
    version: str
    sha256: Mapping[str, str]
    checkpoint: str
    backend: str
    precision: str
    device: str
    settings: PipelineSettings
    datasets: tuple[DatasetScores, ...]

    def by_origin(self) -> dict[Origin, list[DatasetScores]]:
        """Return the data sets of each origin that occurs, in the order of Origin."""
        groups = {origin: [d for d in self.datasets if d.origin is origin] for origin in Origin}
        return {origin: group for origin, group in groups.items() if group}


@dataclass(frozen=True)
class OriginMeans:
    """Means over the data sets of one origin. Each data set counts once, if it has the figure.

    images: their sum. miou: mean of the quoted ones. Figures that no data set has are NaN, depth
    is None.
    """

    images: int
    miou: float
    pixel_accuracy: float
    calibration_error: float
    depth: DepthScores | None


def means_of(group: Sequence[DatasetScores]) -> OriginMeans:
    """Return the means over data sets of one origin. Raise ValueError if they have several."""
    if len({one.origin for one in group}) != 1:
        raise ValueError(f"means over {[one.origin.value for one in group]}; expected one origin")
    depths = [one.scores.depth for one in group if one.scores.depth is not None]
    return OriginMeans(
        images=sum(one.scores.images for one in group),
        miou=_mean(one.miou for one in group),
        pixel_accuracy=_mean(one.scores.pixel_accuracy for one in group),
        calibration_error=_mean(one.scores.calibration_error for one in group),
        depth=DepthScores(
            images=sum(depth.images for depth in depths),
            abs_rel=_mean(depth.abs_rel for depth in depths),
            rmse_m=_mean(depth.rmse_m for depth in depths),
            delta1=_mean(depth.delta1 for depth in depths),
            coverage=_mean(depth.coverage for depth in depths),
        )
        if depths
        else None,
    )


def _mean(values: Iterable[float]) -> float:
    """Return the mean without NaN; NaN if nothing is left."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def write_report(report: Report, folder: Path) -> str:
    """Write report.json, report.md and report.png and return the Markdown. Raise OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(report)
    picture = io.BytesIO()
    draw_report(report.datasets).savefig(picture, format="png", dpi=100)
    contents = {
        "report.json": (json.dumps(as_json(report), indent=2) + "\n").encode(),
        "report.md": text.encode(),
        "report.png": picture.getvalue(),
    }
    for name, content in contents.items():
        partial = folder / f".{name}.{os.getpid()}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)
    return text


def as_json(report: Report) -> dict[str, Any]:
    """Return everything in the units of the metrics (shares 0..1, metres); null if undefined."""
    return {
        "variant": report.variant,
        "protocol": report.protocol.value,
        "code_version": report.version,
        "checkpoint_sha256": dict(report.sha256),
        "checkpoint": report.checkpoint,
        "backend": report.backend,
        "precision": report.precision,
        "device": report.device,
        "pipeline": dataclass_yaml.plain(report.settings),
        "origins": {
            origin.value: {
                "datasets": [one.name for one in group],
                **_finite(dataclass_yaml.plain(means_of(group))),
            }
            for origin, group in report.by_origin().items()
        },
        "datasets": [
            {
                "name": one.name,
                "origin": one.origin.value,
                "quoted_miou": _number(one.miou),
                "quoted_miou_is": "mean of conditions" if one.mean_of_conditions else "all pixels",
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
    """Return tables in per cent and metres."""
    settings = report.settings
    size = f"{settings.short_side_px} px" if settings.short_side_px else "the variant's crop"
    how = f"mode {settings.mode.value}, short side {size}"
    if report.protocol is Protocol.PAPER:
        how = "windows on images of the authors' sizes, ACDC as the mean of its conditions"
    sums = "; ".join(f"{name} SHA-256 {digest}" for name, digest in report.sha256.items())
    parts = [
        f"# Evaluation of `{report.variant}`",
        f"Protocol {report.protocol.value}: {how}. Code {report.version}. "
        f"{report.backend}, {report.precision}, {report.device}.",
        f"Weights: {report.checkpoint}. {sums}".strip(),
        "mIoU over the classes that occur; calibration: expected calibration error of the "
        "confidence, 15 bins; depth up to 80 m, mean over images.",
    ]
    for origin, group in report.by_origin().items():
        parts.append(f"## {HEADINGS[origin]}")
        rows = [[one.name, *_figures(one.scores, one.miou)] for one in group]
        if len(group) > 1:
            rows.append([f"mean of {len(group)} data sets", *_figures(means_of(group))])
        parts.append(_table(["data set", *FIGURES], rows))
    for one in report.datasets:
        parts.append(f"## {one.name} ({one.origin.value})")
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


HEADINGS = {
    Origin.REAL: "Real images",
    Origin.ALTERED: "Real images, altered by a program",
    Origin.RENDERED: "Rendered images",
}

FIGURES = (
    "images", "mIoU %", "pixel accuracy %", "calibration error %",
    "AbsRel", "RMSE m", "δ<1.25 %", "depth given %",
)  # fmt: skip


def _figures(scores: Scores | OriginMeans, miou: float | None = None) -> list[str]:
    """Return the cells of FIGURES. miou: to quote instead of the scores' own."""
    depth = scores.depth
    return [
        str(scores.images),
        _percent(scores.miou if miou is None else miou),
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


def draw_report(datasets: Sequence[DatasetScores]) -> Figure:
    """Return bars of mIoU by condition, and the reliability diagram of the confidence.

    Data sets are grouped by origin.
    """
    datasets = [one for origin in Origin for one in datasets if one.origin is origin]
    bars = [
        (
            f"{one.origin.value}, {one.name}: {condition} ({scores.images})",
            100 * miou,
            f"C{index % 10}",
        )
        for index, one in enumerate(datasets)
        for condition, scores, miou in [
            ("all", one.scores, one.miou),
            *((name, scores, scores.miou) for name, scores in one.conditions.items()),
        ]
    ]
    figure = Figure(figsize=(12, max(5.0, 0.3 * len(bars) + 1.5)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    names, values, colors = zip(*bars, strict=True)
    drawn = left.barh(range(len(bars)), [0 if math.isnan(v) else v for v in values], color=colors)
    left.bar_label(drawn, ["-" if math.isnan(v) else f"{v:.1f}" for v in values], padding=3)
    left.set(xlim=(0, 100), xlabel="mIoU, %", yticks=range(len(bars)), yticklabels=names)
    left.invert_yaxis()
    for index, one in enumerate(datasets):
        points = one.scores.reliability
        error = f"calibration error {100 * one.scores.calibration_error:.1f} %"
        label = f"{one.origin.value}, {one.name}: {error}"
        right.plot(points.confidence, points.accuracy, "s-", color=f"C{index % 10}", label=label)
    right.plot((0, 1), (0, 1), color="gray", linewidth=1)
    right.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", aspect="equal")
    right.legend(fontsize="small", loc="upper left")
    return figure
