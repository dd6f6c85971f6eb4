# SPDX-License-Identifier: Apache-2.0
"""One picture of an evaluation: mIoU by condition, and how far the confidence can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from depthforge_ros.learning.evaluation import DatasetScores

INK, GRID, PAPER = (40, 40, 40), (222, 222, 222), (255, 255, 255)
COLORS = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (148, 103, 189), (140, 86, 75), (23, 190, 207),
)  # fmt: skip
"""[r, g, b] of the data sets, in turn."""

FINER = 2  # drawn so much larger, then reduced: smooth letters and lines
ROW, BAR, LEFT, TOP = 26, 18, 150, 56
PANEL, SQUARE, MARGIN = 620, 400, 70


class _Canvas:
    """Drawing in pixels of the finished picture."""

    def __init__(self, height: int, width: int) -> None:
        self.pixels = np.full((height * FINER, width * FINER, 3), PAPER, np.uint8)

    def text(self, text: str, x: float, y: float, size: float = 0.45, anchor: float = 0.0) -> None:
        """The baseline is at y; anchor 0: x is the left end, 0.5 the middle, 1 the right end."""
        font, scale = cv2.FONT_HERSHEY_SIMPLEX, size * FINER
        text = text.encode("ascii", "replace").decode()  # what the font has
        width = cv2.getTextSize(text, font, scale, FINER)[0][0]
        at = (round(x * FINER - anchor * width), round(y * FINER))
        cv2.putText(self.pixels, text, at, font, scale, INK, FINER, cv2.LINE_AA)

    def line(
        self, points: Sequence[tuple[float, float]], color: tuple[int, int, int], width: int = 1
    ) -> None:
        """A line through points (x, y)."""
        path = np.round(np.array(points) * FINER).astype(np.int32)
        cv2.polylines(self.pixels, [path], False, color, width * FINER, cv2.LINE_AA)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: tuple[int, int, int]) -> None:
        """A filled rectangle."""
        corners = [(round(x * FINER), round(y * FINER)) for x, y in ((x0, y0), (x1, y1))]
        cv2.rectangle(self.pixels, *corners, color, cv2.FILLED)

    def finished(self) -> np.ndarray:
        """[height, width, 3] uint8 RGB."""
        height, width = self.pixels.shape[:2]
        return cv2.resize(
            self.pixels, (width // FINER, height // FINER), interpolation=cv2.INTER_AREA
        )


def draw_report(datasets: Sequence[DatasetScores]) -> np.ndarray:
    """The picture, [H, W, 3] uint8 RGB: bars on the left, reliability diagram on the right."""
    rows = sum(len(one.conditions) + 2 for one in datasets)
    height = max(TOP + rows * ROW + 40, TOP + SQUARE + 60 + 20 * len(datasets))
    canvas = _Canvas(height, PANEL + MARGIN + SQUARE + 40)
    _bars(canvas, datasets)
    _reliability(canvas, datasets)
    return canvas.finished()


def _bars(canvas: _Canvas, datasets: Sequence[DatasetScores]) -> None:
    canvas.text("mIoU by condition, %", LEFT, 28, 0.6)
    full = PANEL - LEFT - 60
    rows = sum(len(one.conditions) + 2 for one in datasets)
    for percent in range(0, 101, 20):
        x = LEFT + full * percent / 100
        canvas.line([(x, TOP - 8), (x, TOP + rows * ROW)], GRID)
        canvas.text(str(percent), x, TOP + rows * ROW + 18, 0.4, 0.5)
    y = TOP
    for one, color in zip(datasets, _colors(datasets), strict=True):
        named = {"all": one.scores, **one.conditions}
        canvas.text(one.name, LEFT, y + BAR - 4, 0.45)
        for name, scores in named.items():
            y += ROW
            canvas.text(f"{name} ({scores.images})", LEFT - 8, y + BAR - 4, 0.42, 1.0)
            miou = 0.0 if math.isnan(scores.miou) else scores.miou
            shade = color if name == "all" else _lighter(color)
            canvas.box(LEFT, y, LEFT + full * miou, y + BAR, shade)
            shown = "-" if math.isnan(scores.miou) else f"{100 * miou:.1f}"
            canvas.text(shown, LEFT + full * miou + 6, y + BAR - 4, 0.42)
        y += ROW


def _reliability(canvas: _Canvas, datasets: Sequence[DatasetScores]) -> None:
    left, top, bottom = PANEL + MARGIN, TOP, TOP + SQUARE
    canvas.text("reliability of the confidence", left, 28, 0.6)
    for tenth in range(0, 11, 2):
        x, y = left + SQUARE * tenth / 10, bottom - SQUARE * tenth / 10
        canvas.line([(x, top), (x, bottom)], GRID)
        canvas.line([(left, y), (left + SQUARE, y)], GRID)
        canvas.text(f"{tenth / 10:g}", x, bottom + 18, 0.4, 0.5)
        canvas.text(f"{tenth / 10:g}", left - 8, y + 5, 0.4, 1.0)
    canvas.line([(left, bottom), (left + SQUARE, top)], INK)
    canvas.text("confidence", left + SQUARE / 2, bottom + 38, 0.42, 0.5)
    canvas.text("accuracy", left - 8, top - 10, 0.42, 1.0)
    for index, (one, color) in enumerate(zip(datasets, _colors(datasets), strict=True)):
        reliability = one.scores.reliability
        points = [
            (left + SQUARE * confidence, bottom - SQUARE * accuracy)
            for confidence, accuracy in zip(
                reliability.confidence, reliability.accuracy, strict=True
            )
            if not math.isnan(accuracy)
        ]
        if points:
            canvas.line(points, color, 2)
        for x, y in points:
            canvas.box(x - 3, y - 3, x + 3, y + 3, color)
        y = bottom + 60 + 20 * index
        canvas.box(left, y - 9, left + 18, y, color)
        error = one.scores.calibration_error
        canvas.text(f"{one.name}: calibration error {100 * error:.1f} %", left + 26, y, 0.42)


def _colors(datasets: Sequence[DatasetScores]) -> list[tuple[int, int, int]]:
    return [COLORS[index % len(COLORS)] for index in range(len(datasets))]


def _lighter(color: tuple[int, int, int]) -> tuple[int, int, int]:
    r, g, b = (round(0.55 * channel + 0.45 * 255) for channel in color)
    return r, g, b
