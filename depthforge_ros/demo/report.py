# SPDX-License-Identifier: Apache-2.0
"""The figures of drives as a printed table and as an HTML page with the pictures."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from depthforge_ros.demo.drives import Drive, Truth, fingerprint
from depthforge_ros.demo.output import GENERATOR
from depthforge_ros.engine import INSTANT, UNTRAINED
from depthforge_ros.frame import DepthKind
from depthforge_ros.learning.metrics import Confusion, DepthErrors
from depthforge_ros.ros.harness.graph import SEMANTIC, Driven
from depthforge_ros.ros.harness.read_recording import Seen

NOTICES = {
    UNTRAINED: "UNTRAINED weights, random numbers: classes and depth mean nothing.",
    INSTANT: "NO NETWORK ran, every answer is the same: classes and depth mean nothing.",
}
"""Warnings that stand wherever results of such a checkpoint are shown."""


@dataclass(frozen=True)
class Row:
    """One drive in the table.

    played: images sent, at rate_hz; frames_in: those that reached the node, whose subscription
    keeps the newest image only. drops: by cause, from the node's own diagnostics. foreign_headers:
    outputs whose stamp and frame no image had. mean_iou: over classes in truth or masks, truth_iou:
    over those in the truth. Scores are None where the truth is not known.
    """

    name: str
    rate_hz: float
    played: int
    frames_in: int
    masks: int
    drops: Mapping[str, int]
    foreign_headers: int
    latency_p50_ms: float
    latency_p99_ms: float
    mean_iou: float | None
    truth_iou: float | None
    pixel_accuracy: float | None
    abs_rel: float | None
    film: bool
    notes: tuple[str, ...]


class Score:
    """Compares the answers of a drive with the truth, where it is known."""

    def __init__(self, truth: Mapping[str, Truth], classes: int, kind: DepthKind) -> None:
        self._truth, self._kind = truth, kind
        self._confusion, self._depth = Confusion(classes), DepthErrors()

    def add(self, seen: Seen) -> None:
        """Add one frame; without an answer it is left out."""
        if not self._truth or seen.labels is None:
            return
        truth = self._truth[fingerprint(seen.rgb)]
        self._confusion.add(truth.labels, seen.labels)
        if seen.depth is not None:
            self._depth.add(truth.depth_m, seen.depth, self._kind)

    def results(self) -> dict[str, float | None]:
        """Return the scores of a Row by name; None if there was nothing to compare."""
        if not self._confusion.counts.any():
            return dict.fromkeys(("mean_iou", "truth_iou", "pixel_accuracy", "abs_rel"))
        depth = self._depth.scores()
        return {
            "mean_iou": self._confusion.mean_iou(),
            "truth_iou": self._confusion.mean_iou_of_truth(),
            "pixel_accuracy": self._confusion.pixel_accuracy(),
            "abs_rel": None if depth is None else depth.abs_rel,
        }

    def class_counts(self) -> str:
        """Return how many classes each mIoU is over; "" if there was nothing to compare."""
        counts = self._confusion.counts  # [K, K + 1]
        if not counts.any():
            return ""
        truth, masks = counts.sum(1) > 0, counts[:, :-1].sum(0) > 0  # [K]
        return (
            f"mIoU is over {(truth | masks).sum()} classes, {(masks & ~truth).sum()} of them in "
            f"masks only (IoU 0); mIoU (truth) is over {truth.sum()}"
        )


def row(
    drive: Drive, rate_hz: float, driven: Driven, depth_topic: str, score: Score, film: bool
) -> Row:
    """Return the figures of a drive, from its recording and the node's diagnostics."""
    masks = driven.count(SEMANTIC)
    p50, p99 = driven.recorded.delay_percentiles_ms(SEMANTIC, 50, 99)
    notes = [*drive.notes, *filter(None, [score.class_counts()])]
    if without_depth := masks - driven.count(depth_topic):
        notes.append(
            f"{without_depth} masks came without depth; without a camera_info that fitted: "
            f"{driven.counters.without_camera_info}"
        )
    if not film:
        notes.append("no film: OpenCV has no VP9 encoder here")
    return Row(
        name=drive.name,
        rate_hz=rate_hz,
        played=drive.frames,
        frames_in=driven.counters.frames_in,
        masks=masks,
        drops=driven.counters.drops,
        foreign_headers=driven.foreign_headers(),
        latency_p50_ms=p50,
        latency_p99_ms=p99,
        **score.results(),
        film=film,
        notes=tuple(notes),
    )


HEADINGS = (
    "drive",
    "Hz",
    "played",
    "frames in",
    "masks",
    "dropped",
    "wrong headers",
    "latency p50",
    "latency p99",
    "mIoU",
    "mIoU (truth)",
    "pixel acc.",
    "AbsRel",
)


def cells(row: Row) -> list[str]:
    """Return the row as text, in the order of HEADINGS."""

    def given(value: float | None, text: str) -> str:
        return "-" if value is None or math.isnan(value) else text.format(value)

    return [
        row.name,
        f"{row.rate_hz:.3g}",
        str(row.played),
        str(row.frames_in),
        str(row.masks),
        ", ".join(f"{count} {cause}" for cause, count in sorted(row.drops.items())) or "0",
        str(row.foreign_headers),
        given(row.latency_p50_ms, "{:.0f} ms"),
        given(row.latency_p99_ms, "{:.0f} ms"),
        given(row.mean_iou, "{:.1%}"),
        given(row.truth_iou, "{:.1%}"),
        given(row.pixel_accuracy, "{:.1%}"),
        given(row.abs_rel, "{:.3f}"),
    ]


SCORES = (
    "Streets are rendered, so the truth is exact. A drive is one street with few classes, and a "
    "class of few pixels counts as much as the road. mIoU is over the classes that occur in truth "
    "or masks: a class in masks only counts 0, however few its pixels. mIoU (truth) leaves such "
    "classes out. The model card's figures are over many streets."
)
"""Why the scores of a drive differ from those of `depthforge evaluate`."""


def text(rows: list[Row], notice: str) -> str:
    """Return notice, aligned table, notes and, where the truth is known, SCORES."""
    lines = [list(HEADINGS), *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    notes = [f"{row.name}: {note}" for row in rows for note in row.notes]
    return "\n".join(
        [*([notice] if notice else []), *table, *notes, *([SCORES] if _known(rows) else [])]
    )


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">{generator}<title>depthforge_ros demo</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto;
        padding: 0 1rem; color: #1c2024; background: #fff }}
 table {{ border-collapse: collapse; width: 100% }}
 th, td {{ text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #d9dde1 }}
 img, video {{ width: 100%; border-radius: 6px }}
 .warning {{ background: #fff3cd; padding: .8rem 1rem; border-radius: 6px }}
 .quiet {{ color: #5f6b76 }}
</style>
<h1>Results of depthforge_ros</h1>
{warning}
<p class="quiet">{settings}</p>
<table><tr>{headings}</tr>{rows}</table>
<p class="quiet">Latency is from the stamp of the image to the arrival of its mask in another
process. Wrong headers counts outputs whose stamp or frame no image had. {truth}</p>
{drives}
</html>
"""


def page(rows: list[Row], settings: str, notice: str) -> str:
    """Return the report as an HTML page, which links the pictures and films beside it."""
    return PAGE.format(
        generator=GENERATOR,
        warning=f'<p class="warning">{notice}</p>' if notice else "",
        settings=html.escape(settings),
        headings="".join(f"<th>{heading}</th>" for heading in HEADINGS),
        rows="".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(row)) + "</tr>"
            for row in rows
        ),
        truth=SCORES if _known(rows) else "",
        drives="".join(_section(row) for row in rows),
    )


def _known(rows: list[Row]) -> bool:
    return any(row.mean_iou is not None for row in rows)


def _section(row: Row) -> str:
    name, file = html.escape(row.name), quote(row.name)
    film = f'<video src="{file}.mp4" controls loop muted></video>' if row.film else ""
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in row.notes)
    return (
        f'<h2>{name}</h2><ul class="quiet">{notes}</ul>{film}'
        f'<p><img src="{file}.png" alt="image, classes and depth of the drive {name}"></p>'
        f'<p><a href="{file}.csv">Figures of every image</a></p>'
    )
