# SPDX-License-Identifier: Apache-2.0
"""Which light or weather a sample gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from depthforge_ros.learning.relight.night import night
from depthforge_ros.learning.relight.view import View
from depthforge_ros.learning.relight.weather import fog, rain, snow
from depthforge_ros.learning.samples import Sample

CHANGES: dict[str, Callable[[View, np.random.Generator], np.ndarray]] = {
    "night": night,
    "snow": snow,
    "rain": rain,
    "fog": fog,
}
SHARES = (0.5, 0.2, 0.15, 0.15)
"""How often each change is drawn: night is where cameras fail first."""
DAYLIGHT = ("clear", "dusk")
"""Conditions that weather may be put on; night falls on every other one too."""


def relight(sample: Sample, centre: tuple[float, float], rng: np.random.Generator) -> Sample | None:
    """The sample by night, in snow, in rain or in fog; its condition says which.

    centre: principal point (u, v) in pixels of the sample, which may be a crop. None where nothing
    fits: the sample has no depth or focal length, or is a night already.
    """
    if sample.depth_m is None or sample.focal_px is None or sample.condition == "night":
        return None
    name = list(CHANGES)[rng.choice(len(SHARES), p=SHARES)]
    if sample.condition not in DAYLIGHT:
        name = "night"
    rgb = CHANGES[name](View.of(sample, centre), rng)
    return replace(sample, rgb=rgb, condition=name)
