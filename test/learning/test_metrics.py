# SPDX-License-Identifier: Apache-2.0
"""Metrics against scikit-learn and hand-computed cases."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from depthforge_ros.frame import DepthKind
from depthforge_ros.learning.metrics import (
    Calibration,
    Confusion,
    DepthErrors,
    metric_from_relative,
)


def random_labels(seed: int, classes: int = 19) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (60, 80)).astype(np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, classes, (60, 80)))
    truth[rng.random(truth.shape) < 0.1] = 255
    return truth, predicted.astype(np.uint8)


@pytest.mark.parametrize("absent", [[], [3, 16]])
def test_iou_agrees_with_scikit_learn(absent):
    confusion = Confusion(19)
    truths, guesses = [], []
    for seed in range(4):
        truth, predicted = random_labels(seed)
        for class_id in absent:
            truth[truth == class_id] = 255
            predicted[predicted == class_id] = 0
        confusion.add(truth, predicted)
        truths.append(truth[truth != 255])
        guesses.append(predicted[truth != 255])
    true, guess = np.concatenate(truths), np.concatenate(guesses)
    present = [k for k in range(19) if k not in absent]
    expected = jaccard_score(true, guess, labels=present, average=None)
    np.testing.assert_allclose(confusion.iou()[present], expected, atol=1e-12, rtol=0)
    assert np.isnan(confusion.iou()[absent]).all()
    assert abs(confusion.mean_iou() - expected.mean()) < 1e-12
    assert abs(confusion.pixel_accuracy() - accuracy_score(true, guess)) < 1e-12
    np.testing.assert_array_equal(
        confusion.counts[:, :19], confusion_matrix(true, guess, labels=range(19))
    )


def test_a_pixel_without_prediction_is_a_miss_but_no_false_alarm():
    confusion = Confusion(2)
    confusion.add(np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 255, 1, 0]], np.uint8))
    assert confusion.iou().tolist() == [0.5, 1.0]
    assert confusion.pixel_accuracy() == pytest.approx(2 / 3)


def test_a_class_in_the_prediction_only_counts_zero_or_is_left_out():
    confusion = Confusion(4)
    confusion.add(np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 0, 2, 1]], np.uint8))
    assert confusion.mean_iou() == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert confusion.mean_iou_of_truth() == pytest.approx((2 / 3 + 1) / 2)
    assert np.isnan(Confusion(3).mean_iou_of_truth())


def test_ids_beyond_the_classes_are_refused():
    ok, bad = np.array([[0, 1]], np.uint8), np.array([[0, 2]], np.uint8)
    with pytest.raises(ValueError, match=r"truth holds class 2; allowed: 0\.\.1 and 255"):
        Confusion(2).add(bad, ok)
    with pytest.raises(ValueError, match="prediction holds class 2"):
        Confusion(2).add(ok, bad)
    with pytest.raises(ValueError, match=r"truth is \[1, 2\], prediction \[2, 1\]"):
        Confusion(2).add(ok, ok.T)


def test_nothing_to_compare_is_not_a_number():
    assert np.isnan(Confusion(3).mean_iou())
    assert np.isnan(Confusion(3).pixel_accuracy())
    assert np.isnan(Calibration().error())
    assert DepthErrors().scores() is None


def test_calibration_error_by_hand():
    calibration = Calibration()
    truth = np.zeros((1, 10), np.uint8)
    predicted = np.array([[0] * 5 + [1] * 3 + [0, 0]], np.uint8)
    confidence = np.array([[204] * 8 + [102] * 2], np.uint8)  # 0.8 eight times, 0.4 twice
    calibration.add(truth, predicted, confidence)
    # Bin of 0.8: accuracy 5/8; bin of 0.4: accuracy 1.
    assert calibration.error() == pytest.approx(0.8 * (0.8 - 0.625) + 0.2 * (1 - 0.4), abs=1e-12)
    truth[:] = 255
    calibration.add(truth, predicted, confidence)
    assert calibration.totals.sum() == 10


def test_calibration_bins_agree_with_plain_loops():
    rng = np.random.default_rng(0)
    truth, predicted = random_labels(1)
    confidence = rng.integers(0, 256, truth.shape).astype(np.uint8)
    calibration = Calibration()
    calibration.add(truth, predicted, confidence)
    bins = [[] for _ in range(15)]
    for t, p, c in zip(truth.flat, predicted.flat, confidence.flat, strict=True):
        if t != 255:
            bins[min(int(int(c) * 15 / 255), 14)].append((c / 255, t == p))
    total = sum(map(len, bins))
    expected = sum(
        len(rows) / total * abs(np.mean([r for _, r in rows]) - np.mean([c for c, _ in rows]))
        for rows in bins
        if rows
    )
    assert abs(calibration.error() - expected) < 1e-9


def test_depth_errors_by_hand():
    errors = DepthErrors(cap_m=50.0)
    truth = np.array([[10.0, 20.0, 40.0, 60.0, np.inf, np.nan, 0.0, 8.0]], np.float32)
    predicted = np.array([[11.0, 26.0, np.inf, 1.0, 1.0, 1.0, 1.0, np.nan]], np.float32)
    errors.add(truth, predicted, DepthKind.METRIC)
    scores = errors.scores()
    # Compared: 10 with 11, 20 with 26, 40 with Inf clipped to 50. 8 was not predicted.
    assert scores.abs_rel == pytest.approx((0.1 + 0.3 + 0.25) / 3)
    assert scores.rmse_m == pytest.approx(np.sqrt((1 + 36 + 100) / 3))
    assert scores.delta1 == pytest.approx(1 / 3)  # 1.1; 1.3 and 1.25 are not below 1.25
    assert scores.coverage == pytest.approx(3 / 4)


def test_depth_errors_are_means_over_images():
    errors = DepthErrors()
    errors.add(np.full((1, 1), 10.0), np.full((1, 1), 12.0), DepthKind.METRIC)
    errors.add(np.full((9, 9), 10.0), np.full((9, 9), 10.0), DepthKind.METRIC)
    errors.add(np.full((2, 2), np.inf), np.full((2, 2), 10.0), DepthKind.METRIC)
    errors.add(np.full((2, 2), 10.0), np.full((2, 2), np.nan), DepthKind.METRIC)
    scores = errors.scores()
    assert scores.images == 3
    assert scores.abs_rel == pytest.approx(0.1)
    assert scores.rmse_m == pytest.approx(1.0)
    assert scores.delta1 == 1.0
    assert scores.coverage == pytest.approx(2 / 3)


def test_relative_depth_is_judged_up_to_scale_and_shift():
    rng = np.random.default_rng(0)
    truth = rng.uniform(2, 60, (20, 30))
    errors = DepthErrors()
    errors.add(truth, 7 / truth + 3, DepthKind.RELATIVE)
    scores = errors.scores()
    assert scores.abs_rel < 1e-9
    assert scores.delta1 == 1.0
    metres = metric_from_relative(np.array([0.5, 0.25, -9.0, np.nan]), np.array([2.0, 4, 4, 4]))
    assert np.isnan(metres[3])
    assert (metres[:3] > 0).all()
