# SPDX-License-Identifier: Apache-2.0
"""Accuracy of masks, of their confidence and of depth, accumulated image by image in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from depthforge_ros.frame import UNLABELLED, DepthKind

CALIBRATION_BINS = 15


class Confusion:
    """Counts of pixels by true and predicted class.

    counts: [K, K + 1] int64; the last column is "predicted nothing" (255), which is a miss for
    the true class and a false alarm for none. Pixels without a true class are left out.
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes + 1), np.int64)

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Add one image; both [H, W] uint8 class ids. Raise ValueError for ids beyond K."""
        K = len(self.counts)
        if truth.shape != predicted.shape:
            raise ValueError(f"truth is {list(truth.shape)}, prediction {list(predicted.shape)}")
        labelled = truth != UNLABELLED
        true = truth[labelled].astype(np.int64)  # [n]
        guess = predicted[labelled].astype(np.int64)  # [n]
        for name, ids in (("truth", true), ("prediction", guess[guess != UNLABELLED])):
            if ids.size and ids.max() >= K:
                raise ValueError(f"{name} holds class {ids.max()}; allowed: 0..{K - 1} and 255")
        guess[guess == UNLABELLED] = K
        counts = np.bincount(true * (K + 1) + guess, minlength=K * (K + 1))
        self.counts += counts.reshape(K, K + 1)

    def iou(self) -> np.ndarray:
        """Return TP / (TP + FP + FN) of every class: [K] float64, NaN if it does not occur."""
        hits = np.diagonal(self.counts).astype(np.float64)  # [K]
        union = self.counts.sum(1) + self.counts[:, :-1].sum(0) - hits
        return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)

    def mean_iou(self) -> float:
        """Return the mean over classes that occur in truth or prediction; NaN if none does."""
        iou = self.iou()
        present = iou[~np.isnan(iou)]
        return float(present.mean()) if present.size else float("nan")

    def mean_iou_of_truth(self) -> float:
        """Return the mean over classes that occur in the truth; NaN if none does.

        `mean_iou` counts a class that occurs only in the prediction as 0; this mean leaves it out.
        """
        present = self.counts.sum(1) > 0  # [K]
        return float(self.iou()[present].mean()) if present.any() else float("nan")

    def pixel_accuracy(self) -> float:
        """Return the share of labelled pixels whose class is correct."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")


class Calibration:
    """Expected calibration error of the confidence (Guo et al., ICML 2017).

    Confidences are the published bytes, so all of them are counted exactly: totals and hits [256].
    """

    def __init__(self) -> None:
        self.totals = np.zeros(256, np.int64)
        self.hits = np.zeros(256, np.int64)

    def add(self, truth: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> None:
        """Add one image: class ids and confidence, all [H, W] uint8. Only pixels with a true and a
        predicted class count.
        """
        counted = (truth != UNLABELLED) & (predicted != UNLABELLED)
        values = confidence[counted]
        right = truth[counted] == predicted[counted]
        self.totals += np.bincount(values, minlength=256)
        self.hits += np.bincount(values[right], minlength=256)

    def bins(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return pixels, mean confidence and accuracy of 15 bins: [15] each, NaN if empty."""
        confidence = np.arange(256) / 255
        index = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
        pixels = np.bincount(index, self.totals, CALIBRATION_BINS)
        empty = np.full(CALIBRATION_BINS, np.nan)
        means = [
            np.divide(
                np.bincount(index, sums, CALIBRATION_BINS),
                pixels,
                out=empty.copy(),
                where=pixels > 0,
            )
            for sums in (self.totals * confidence, self.hits)
        ]
        return pixels, means[0], means[1]

    def error(self) -> float:
        """Return Σ over bins of share · |accuracy - mean confidence|; NaN if nothing was added."""
        pixels, confidence, accuracy = self.bins()
        if not pixels.sum():
            return float("nan")
        return float(np.nansum(pixels * np.abs(accuracy - confidence)) / pixels.sum())


@dataclass(frozen=True)
class DepthScores:
    """Means over images. abs_rel: |d - d*| / d*. rmse_m: metres. delta1: share of pixels with
    max(d / d*, d* / d) < 1.25. coverage: share of the pixels with truth that were predicted.
    """

    images: int
    abs_rel: float
    rmse_m: float
    delta1: float
    coverage: float


class DepthErrors:
    """Errors of depth where the truth is known: finite, positive and at most `cap_m`.

    Computed for every image and averaged over images, as is the custom (Eigen et al., NeurIPS
    2014). Predictions are clipped to cap_m; NaN counts against coverage alone.
    """

    def __init__(self, cap_m: float = 80.0) -> None:
        self.cap_m = cap_m
        self._rows: list[tuple[float, float, float, float]] = []

    def add(self, truth_m: np.ndarray, predicted: np.ndarray, kind: DepthKind) -> None:
        """Add one image, both [H, W] float32. Relative inverse depth is first fitted to the truth.

        An image without a single pixel to compare is left out.
        """
        known = np.isfinite(truth_m) & (truth_m > 0) & (truth_m <= self.cap_m)
        if not known.any():
            return
        truth = truth_m[known].astype(np.float64)  # [n]
        depth = predicted[known].astype(np.float64)  # [n]
        if kind is DepthKind.RELATIVE:
            depth = metric_from_relative(depth, truth)
        given = ~np.isnan(depth)
        if not given.any():
            self._rows.append((np.nan, np.nan, np.nan, 0.0))
            return
        truth, depth = truth[given], depth[given].clip(1e-3, self.cap_m)
        ratio = np.maximum(depth / truth, truth / depth)
        self._rows.append(
            (
                float(np.mean(np.abs(depth - truth) / truth)),
                float(np.sqrt(np.mean(np.square(depth - truth)))),
                float(np.mean(ratio < 1.25)),
                float(given.mean()),
            )
        )

    def scores(self) -> DepthScores | None:
        """Return the means, None if no image had depth to compare."""
        if not self._rows:
            return None
        rows = np.array(self._rows)  # [images, 4]
        compared = rows[~np.isnan(rows[:, 0]), :3]
        means = compared.mean(0) if len(compared) else np.full(3, np.nan)
        abs_rel, rmse, delta = map(float, means)
        return DepthScores(len(rows), abs_rel, rmse, delta, float(rows[:, 3].mean()))


def metric_from_relative(inverse: np.ndarray, truth_m: np.ndarray) -> np.ndarray:
    """Return metres from affine-invariant inverse depth [n]; +Inf where it is not positive.

    Scale and shift are fitted to 1 / truth_m [n] by least squares (Ranftl et al., TPAMI 2022).
    """
    given = np.isfinite(inverse)
    if given.sum() < 2:
        return np.full_like(truth_m, np.nan)
    design = np.stack([inverse[given], np.ones(given.sum())], axis=1)  # [n, 2]
    (scale, shift), *_ = np.linalg.lstsq(design, 1 / truth_m[given], rcond=None)
    fitted = scale * inverse + shift
    metres = np.divide(1, fitted, out=np.full_like(fitted, np.inf), where=fitted > 0)
    return np.where(given, metres, np.nan)
