# SPDX-License-Identifier: Apache-2.0
"""The numbers of a demo: counted, compared with the truth, printed, and put beside the pictures."""

from __future__ import annotations

import html
from dataclasses import dataclass

import numpy as np

from depthforge_ros.demo.drives import Drive, fingerprint
from depthforge_ros.frame import DepthKind
from depthforge_ros.learning.metrics import Confusion, DepthErrors
from depthforge_ros.ros.recorder import Recorded, Seen

UNTRAINED_WARNING = (
    "The weights are UNTRAINED: random numbers. Masks and depth below mean nothing; only the way "
    "of the frames through the graph is real."
)


@dataclass(frozen=True)
class Row:
    """One drive in the table.

    played: images sent; frames_in: those that reached the node, whose subscription keeps the
    newest image only. drops: by cause, from the node's own diagnostics.
    """

    name: str
    played: int
    frames_in: int
    frames_out: int
    drops: dict[str, int]
    latency_p50_ms: float
    latency_p99_ms: float
    mean_iou: float | None
    pixel_accuracy: float | None
    abs_rel: float | None


class Score:
    """Compares what was seen with the truth of its drive, where the drive has one."""

    def __init__(self, drive: Drive, classes: int, kind: DepthKind) -> None:
        self._truth, self._kind = drive.truth, kind
        self._confusion, self._depth = Confusion(classes), DepthErrors()

    def add(self, seen: Seen) -> None:
        """Add one frame; one that is not of the drive is left out."""
        truth = self._truth.get(fingerprint(seen.rgb))
        if truth is not None:
            self._confusion.add(truth.labels, seen.labels)
            self._depth.add(truth.depth_m, seen.depth, self._kind)

    def results(self) -> tuple[float | None, float | None, float | None]:
        """mIoU, pixel accuracy, AbsRel; None where the truth is not known."""
        depth = self._depth.scores()
        if not self._truth:
            return None, None, None
        return (
            self._confusion.mean_iou(),
            self._confusion.pixel_accuracy(),
            None if depth is None else depth.abs_rel,
        )


def row(drive: Drive, recorded: Recorded, semantic_topic: str, score: Score) -> Row:
    """The figures of a drive from what was recorded and what the node said last."""
    said = recorded.diagnostics
    delays_ms = recorded.delays_ms[semantic_topic]
    p50, p99 = np.percentile(delays_ms, (50, 99)) if delays_ms else (np.nan, np.nan)
    prefix = "dropped: "
    drops = {k.removeprefix(prefix): int(v) for k, v in said.items() if k.startswith(prefix)}
    mean_iou, accuracy, abs_rel = score.results()
    return Row(
        drive.name,
        drive.frames,
        int(said.get("frames in", 0)),
        recorded.counts[semantic_topic],
        drops,
        float(p50),
        float(p99),
        mean_iou,
        accuracy,
        abs_rel,
    )


HEADINGS = (
    "drive",
    "played",
    "frames in",
    "frames out",
    "dropped",
    "latency p50",
    "latency p99",
    "mIoU",
    "pixel acc.",
    "AbsRel",
)


def cells(row: Row) -> list[str]:
    """The row as text, in the order of HEADINGS."""

    def share(value: float | None, text: str) -> str:
        return "-" if value is None else text.format(value)

    drops = ", ".join(f"{count} {cause}" for cause, count in sorted(row.drops.items())) or "0"
    return [
        row.name,
        str(row.played),
        str(row.frames_in),
        str(row.frames_out),
        drops,
        f"{row.latency_p50_ms:.0f} ms",
        f"{row.latency_p99_ms:.0f} ms",
        share(None if row.mean_iou is None else 100 * row.mean_iou, "{:.1f} %"),
        share(None if row.pixel_accuracy is None else 100 * row.pixel_accuracy, "{:.1f} %"),
        share(row.abs_rel, "{:.3f}"),
    ]


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    lines = [list(HEADINGS), *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>depthforge_ros demo</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto;
        padding: 0 1rem; color: #1c2024; background: #fff }}
 table {{ border-collapse: collapse; width: 100% }}
 th, td {{ text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #d9dde1 }}
 img, video {{ width: 100%; border-radius: 6px }}
 .warning {{ background: #fff3cd; padding: .8rem 1rem; border-radius: 6px }}
 .quiet {{ color: #5f6b76 }}
</style>
<h1>What depthforge_ros saw</h1>
{warning}
<p class="quiet">{settings}</p>
<table><tr>{headings}</tr>{rows}</table>
<p class="quiet">Latency is from the stamp of the image to the arrival of its mask in another
process. Truth is exact: the streets are rendered.</p>
{drives}
</html>
"""


def page(rows: list[Row], settings: str, untrained: bool) -> str:
    """The report as one HTML page; pictures and films are expected beside it."""
    names = [html.escape(row.name) for row in rows]
    return PAGE.format(
        warning=f'<p class="warning">{UNTRAINED_WARNING}</p>' if untrained else "",
        settings=html.escape(settings),
        headings="".join(f"<th>{heading}</th>" for heading in HEADINGS),
        rows="".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(row)) + "</tr>"
            for row in rows
        ),
        drives="".join(
            f'<h2>{name}</h2><video src="{name}.mp4" controls loop muted></video>'
            f'<p><img src="{name}.png" alt="image, mask and depth of the drive {name}"></p>'
            for name in names
        ),
    )
