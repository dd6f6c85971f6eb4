# SPDX-License-Identifier: Apache-2.0
"""Street lamps of varied streets: sodium, mercury, or two kinds in one street."""

from __future__ import annotations

import numpy as np

from .lighting import Lighting
from .noise import stream

SODIUM = (1.0, 0.45, 0.07)  # high-pressure sodium after the camera's partial white balance
MERCURY = (0.72, 1.0, 0.80)
LED = (0.90, 0.97, 1.0)


def lamp_light(seed: int, light: Lighting) -> dict[str, np.ndarray]:
    """Fields of `light` that other lamps change: sodium, mercury, or two kinds in one street.

    Empty where the lamps stay as they are or are not lit.
    """
    rng = stream(seed, 301)
    strength, pick, haze = float(light.lamp.max()), rng.random(), rng.uniform(0, 0.012)
    if strength == 0 or pick > 0.65:
        return {}
    colour = np.array(SODIUM if pick < 0.35 or pick > 0.5 else MERCURY)
    changed = {"lamp": colour * strength, "bulb": colour}
    if pick > 0.5:
        changed["other_lamp"] = np.array(LED) * strength * rng.uniform(0.5, 1.2)
    if light.sun_rgb.max() == 0 and light.horizon.max() < 0.1:
        changed["horizon"] = light.horizon + colour * haze
    return changed
