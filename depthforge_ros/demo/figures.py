# SPDX-License-Identifier: Apache-2.0
"""The figures of every image of a drive, as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from depthforge_ros.demo.drives import Drive, fingerprint
from depthforge_ros.frame import UNLABELLED, DepthKind
from depthforge_ros.learning.metrics import Confusion, DepthErrors
from depthforge_ros.ros.harness.read_recording import Seen
from depthforge_ros.variant import LabelSet

CLASSES_SHOWN = 4
COLUMNS = (
    "image",
    "answered",
    "classes",
    "unlabelled_percent",
    "depth_near",
    "depth_median",
    "depth_unit",
    "pixel_accuracy",
    "mean_iou",
    "mean_iou_of_truth",
    "abs_rel",
)
"""answered: yes, or no for a dropped image. classes: the most frequent with their share of pixels.
depth_near: 5th percentile of known depth (95th of relative inverse depth). The last four where the
truth is known, see report.py."""


class Figures:
    """Collects one row an image of a drive and writes them into a file."""

    def __init__(self, drive: Drive, labels: LabelSet, kind: DepthKind) -> None:
        self._drive, self._labels, self._kind = drive, labels, kind
        self._rows: list[Mapping[str, str]] = []

    def add(self, seen: Seen) -> None:
        """Add one image."""
        mark = fingerprint(seen.rgb)
        number = f"image {len(self._rows) + 1}"
        row = {"image": self._drive.names.get(mark, number), "answered": "no"}
        if seen.labels is not None:
            row |= {"answered": "yes", **self._classes(seen.labels), **self._depth(seen.depth)}
            row |= self._errors(mark, seen)
        self._rows.append(row)

    def write(self, path: Path) -> None:
        """Write all rows. Raise OSError."""
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, restval="")
            table.writeheader()
            table.writerows(self._rows)

    def _classes(self, labels: np.ndarray) -> dict[str, str]:
        percent = 100 * np.bincount(labels.ravel(), minlength=256) / labels.size  # [256]
        known = percent[: len(self._labels)]
        order = np.argsort(-known, kind="stable")[:CLASSES_SHOWN]
        texts = [f"{self._labels.classes[i].name} {known[i]:.1f} %" for i in order if known[i] > 0]
        unlabelled = f"{percent[UNLABELLED]:.1f}"
        return {"classes": ", ".join(texts), "unlabelled_percent": unlabelled}

    def _depth(self, depth: np.ndarray | None) -> dict[str, str]:
        known = np.empty(0) if depth is None else depth[np.isfinite(depth)]  # [n]
        if not known.size:
            return {}
        metric = self._kind is DepthKind.METRIC
        near, median = np.percentile(known, (5 if metric else 95, 50))
        unit = "m" if metric else "relative inverse"
        return {"depth_near": f"{near:.2f}", "depth_median": f"{median:.2f}", "depth_unit": unit}

    def _errors(self, mark: str, seen: Seen) -> dict[str, str]:
        truth = self._drive.truth.get(mark)
        if truth is None or seen.labels is None:
            return {}
        confusion, errors = Confusion(len(self._labels)), DepthErrors()
        confusion.add(truth.labels, seen.labels)
        row = {
            "pixel_accuracy": f"{confusion.pixel_accuracy():.4f}",
            "mean_iou": f"{confusion.mean_iou():.4f}",
            "mean_iou_of_truth": f"{confusion.mean_iou_of_truth():.4f}",
        }
        if seen.depth is not None:
            errors.add(truth.depth_m, seen.depth, self._kind)
            scores = errors.scores()
            row |= {} if scores is None else {"abs_rel": f"{scores.abs_rel:.4f}"}
        return row
