# SPDX-License-Identifier: Apache-2.0
"""The condition of frames: exact on made images, in order on streets, judged in diagnostics."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from depthforge_ros.condition import (
    WRONG_AT_NO_DOUBT,
    WRONG_PER_DOUBT,
    Condition,
    condition_of,
)
from depthforge_ros.ros.node.diagnostics import NodeStatus, status
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.ros.node.statistics import Statistics
from depthforge_ros.street import HELD_OUT_SEEDS, StreetDrive

SURE = np.full((48, 64), 255, np.uint8)
GOOD = Condition(0.45, 0.8, 0.05, 0.005, 0.25, 0.0)


def gray(plane: np.ndarray) -> np.ndarray:
    return np.repeat(plane.astype(np.uint8)[..., None], 3, 2)


def test_numbers_of_made_images() -> None:
    half = gray(np.where(np.arange(64) < 32, 51, 204) * np.ones((48, 1)))
    seen = condition_of(half, np.full((48, 64), 51, np.uint8))
    assert seen.brightness == pytest.approx(0.5)
    assert seen.contrast == pytest.approx(0.6)
    assert (seen.saturated, seen.noise) == (0.0, 0.0)
    assert seen.doubt == pytest.approx(0.8)
    white = condition_of(gray(np.full((48, 64), 255)), SURE)
    assert (white.saturated, white.contrast, white.doubt) == (1.0, 0.0, 0.0)
    steep = gray(np.where(np.arange(64) % 8 < 4, 0, 102) * np.ones((48, 1)))
    assert condition_of(steep, SURE).sharpness == pytest.approx(0.4)


@pytest.mark.parametrize("sigma", [4.0, 12.0])
def test_noise_is_estimated_beside_edges(sigma: float) -> None:
    x = np.mgrid[:256, :320][1]
    plane = np.where((x // 80) % 2, 80, 160) + np.random.default_rng(1).normal(0, sigma, x.shape)
    assert condition_of(gray(plane.round()), SURE).noise * 255 == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize(
    "change",
    [
        {"brightness": 0.1},
        {"contrast": 0.2},
        {"saturated": 0.6},
        {"noise": 0.05},
        {"sharpness": 0.03},
    ],
)
def test_what_an_image_lacks_degrades_it_but_says_nothing_of_the_mask(
    change: dict[str, float],
) -> None:
    worse = dataclasses.replace(GOOD, **change)
    assert GOOD.image_degradation == 0
    assert worse.image_degradation > 0.3
    assert worse.degradation == GOOD.degradation


def test_degradation_is_the_line_of_doubt_within_0_and_1() -> None:
    for doubt in (0.0, 0.1, 0.3, 1.0):
        line = WRONG_AT_NO_DOUBT + WRONG_PER_DOUBT * doubt
        seen = dataclasses.replace(GOOD, doubt=doubt).degradation
        assert seen == pytest.approx(min(1.0, max(0.0, line)))


def test_night_and_fog_are_told_from_clear_streets() -> None:
    median = {}
    for name in ("clear", "snow", "night", "fog"):
        frames = [StreetDrive(seed, name, 320, 192, frames=1)[0] for seed in HELD_OUT_SEEDS[:3]]
        scores = [condition_of(f.rgb, SURE).image_degradation for f in frames]
        median[name] = float(np.median(scores))
    assert median["clear"] < 0.1
    assert all(median[name] > 0.3 for name in ("night", "fog"))
    assert all(median[name] < 0.3 for name in ("clear", "snow"))


@pytest.mark.parametrize(
    ("wrong", "limits", "level", "said"),
    [
        (0.15, {}, DiagnosticStatus.OK, "0.0 frames/s"),
        (0.3, {}, DiagnosticStatus.WARN, "degraded: 30% of the pixels expected wrong (doubt "),
        (0.6, {}, DiagnosticStatus.ERROR, "degraded: 60% of the pixels expected wrong (doubt "),
        (0.6, {"degradation_error": 0.0}, DiagnosticStatus.WARN, "degraded: 60%"),
        (
            0.6,
            {"degradation_error": 0.0, "degradation_warn": 0.0},
            DiagnosticStatus.OK,
            "0.0 frames/s",
        ),
        (0.2, {"degradation_warn": 0.1}, DiagnosticStatus.WARN, "degraded: 20%"),
    ],
)
def test_diagnostics_judge_by_the_parameters(
    wrong: float, limits: dict[str, float], level: bytes, said: str
) -> None:
    statistics = Statistics()
    statistics.open_input()
    doubt = (wrong - WRONG_AT_NO_DOUBT) / WRONG_PER_DOUBT
    statistics.note(condition=dataclasses.replace(GOOD, doubt=doubt))
    active = NodeStatus("active", checkpoint="trained.safetensors")
    report = status("depthforge", active, statistics.snapshot(), Parameters(**limits))
    assert report.level == level
    assert report.message.startswith(said)
    values = {entry.key: entry.value for entry in report.values}
    assert values["degradation"] == f"{wrong:.3f}"
    assert values["doubt"] == f"{doubt:.3f}"
    assert values["brightness"] == "0.450"


def test_masks_that_mean_nothing_are_not_judged_by_their_doubt() -> None:
    statistics = Statistics()
    statistics.open_input()
    statistics.note(condition=dataclasses.replace(GOOD, doubt=1.0))
    active = NodeStatus("active", checkpoint="untrained")
    report = status("depthforge", active, statistics.snapshot(), Parameters())
    assert report.message == "checkpoint 'untrained': masks mean nothing"
