# SPDX-License-Identifier: Apache-2.0
"""The road's plan: a winding centre line, its cross-section, and crossing streets.

Positions along the road are `(s, v)`: s is the world's x, v the distance left of the centre line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KERB_M = 0.12  # height of everything beside the carriageway


@dataclass(frozen=True)
class Road:
    """Plan and cross-section, metres; sides are indexed 0 = right (v < 0), 1 = left.

    Attributes:
        waves: `(amplitude, wave number, phase)` of the sines that make the centre line.
        half_width: centre line to kerb.
        parking: width of the parking strip at each kerb, 0 where none.
        lane: width of a driving lane; lanes: how many each way.
        verge, sidewalk: widths beside the kerb on each side.
        crossings: x of the crossing streets; crossing_half: their half width.
        traffic: -1 where traffic keeps left (ego at v > 0), +1 where it keeps right.
        zebras: x of the pedestrian crossings.
        style: small integer choosing marking colours and edge lines.
        yellow_zebras: pedestrian crossings are yellow, not white.
    """

    waves: tuple[tuple[float, float, float], ...]
    half_width: float
    parking: tuple[float, float]
    lane: float
    lanes: int
    verge: tuple[float, float]
    sidewalk: tuple[float, float]
    crossings: tuple[float, ...]
    crossing_half: float
    traffic: int
    zebras: tuple[float, ...]
    style: int
    yellow_zebras: bool = False

    def centre(self, x: np.ndarray | float) -> np.ndarray | float:
        """y of the centre line at x; 0 at x = 0."""
        y = x * 0
        for amplitude, number, phase in self.waves:
            y = y + amplitude * (np.sin(number * x + phase) - np.sin(phase))
        return y

    def slope(self, x: np.ndarray | float) -> np.ndarray | float:
        """dy/dx of the centre line."""
        slope = x * 0
        for amplitude, number, phase in self.waves:
            slope = slope + amplitude * number * np.cos(number * x + phase)
        return slope

    def heading(self, x: float) -> float:
        """Yaw of the centre line, radians."""
        return float(np.arctan(self.slope(x)))

    def place(self, s: float, v: float) -> tuple[float, float]:
        """World x, y of a road position."""
        return s, float(self.centre(s)) + v * float(np.hypot(1.0, self.slope(s)))

    def across(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """v of world points of any shape."""
        if not self.waves:
            return y
        slope = self.slope(x)
        return (y - self.centre(x)) / np.sqrt(1.0 + slope * slope)

    def beyond_kerb(self, x: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Distance outside the carriageway (negative on it), crossing streets included."""
        main = np.abs(v) - np.float32(self.half_width)
        if not self.crossings:
            return main
        radius = np.float32(5.0)
        cross = np.abs(self.from_crossing(x)) - np.float32(self.crossing_half)
        union = np.minimum(main, cross)
        near = (main > 0) & (cross > 0) & (main < radius) & (cross < radius)
        corner = radius - np.sqrt((radius - main) ** 2 + (radius - cross) ** 2)
        return np.where(near, np.minimum(corner, union), union)

    def from_crossing(self, x: np.ndarray) -> np.ndarray:
        """Signed distance along x to the nearest crossing street, 1e6 where there is none."""
        return from_nearest(self.crossings, x)

    def from_zebra(self, x: np.ndarray) -> np.ndarray:
        """Signed distance along x to the nearest pedestrian crossing, 1e6 where there is none."""
        return from_nearest(self.zebras, x)

    def lane_centre(self, index: int, direction: int) -> float:
        """v of lane `index` (0 = innermost); direction +1 with ego, -1 against it."""
        return -self.traffic * direction * self.lane * (index + 0.5)


def from_nearest(places: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """Signed distance along x to the nearest of the rising places, 1e6 where there is none.

    Streets cross at least 60 m apart, so only the nearest one shapes a point.
    """
    if not places:
        return np.full_like(x, 1e6)
    at = np.array(places, np.float32)
    return x - at[np.searchsorted((at[1:] + at[:-1]) / 2, x)]


def random_road(rng: np.random.Generator) -> Road:
    """A road drawn from the range of ordinary streets; always draws the same count of numbers."""
    bend = rng.random()
    amplitude, period, phase = rng.uniform(4, 14), rng.uniform(150, 320), rng.uniform(0, 2 * np.pi)
    wiggle, wiggle_phase = rng.uniform(0.3, 1.5), rng.uniform(0, 2 * np.pi)
    waves: tuple[tuple[float, float, float], ...] = ()
    if bend > 0.4:
        waves = ((amplitude, 2 * np.pi / period, phase), (wiggle, 2 * np.pi / 75.0, wiggle_phase))
    lanes = int(rng.choice([1, 1, 1, 2]))
    lane = rng.uniform(2.6, 3.4)
    strip = rng.random(2) < (0.42 if lanes == 1 else 0.25)
    parking = tuple(2.1 if p else 0.0 for p in strip)
    widest = max(parking)
    extra = rng.choice([0.1, 0.2, 0.4, 1.3])
    verge = rng.uniform(1.0, 3.0, 2) * (rng.random(2) < 0.22)
    sidewalk = rng.uniform(1.7, 5.5, 2)
    first = rng.uniform(28, 75)
    gaps = np.cumsum(rng.uniform(70, 160, 40))
    crossings = (first, *(first + gaps)) if rng.random() < 0.6 else ()
    crossing_half = rng.uniform(3.0, 4.5)
    zebra = tuple(float(c - crossing_half - 4.5) for c in crossings) if rng.random() < 0.5 else ()
    if not crossings and rng.random() < 0.4:
        zebra = (float(rng.uniform(15, 45)),)
    return Road(
        waves=waves,
        half_width=lanes * lane + widest + extra,
        parking=(widest if strip[0] else 0.0, widest if strip[1] else 0.0),
        lane=lane,
        lanes=lanes,
        verge=(float(verge[0]), float(verge[1])),
        sidewalk=(float(sidewalk[0]), float(sidewalk[1])),
        crossings=tuple(float(c) for c in crossings),
        crossing_half=float(crossing_half),
        traffic=int(rng.choice([-1, 1])),
        zebras=zebra,
        style=int(rng.integers(0, 64)),
    )
