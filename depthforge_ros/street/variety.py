# SPDX-License-Identifier: Apache-2.0
"""What some real streets have and the usual ones here lack: which of it a varied street gets."""

from __future__ import annotations

from dataclasses import dataclass

from .noise import stream
from .road import Road


@dataclass(frozen=True)
class Variety:
    """Additions to one street, each in a random share of the varied streets.

    Attributes:
        tracks: v of the middle of each tram track, metres; empty where there is none.
        gauge: distance of the two rails of a track, metres.
        shine: reflectance and mirror share of the rails' edge.
        bed: reflectance of the strip of a track relative to the carriageway.
        wires: contact wires and span wires hang over the carriageway.
        on_walls: span wires are fixed to walls where there are any, else to masts.
        yellow_zebras: pedestrian crossings are yellow.
        zebra: x of an additional pedestrian crossing, or None.
        arrows: x of the tip of the lane arrows; yellow_arrows: they are yellow.
        teeth: x of a wait line of triangles, or None.
        yellow_edge: yellow dashes mark a cycle lane.
        shops: share of the buildings at the pavement that get shop displays.
    """

    tracks: tuple[float, ...]
    gauge: float
    shine: float
    bed: float
    wires: bool
    on_walls: bool
    yellow_zebras: bool
    zebra: float | None
    arrows: tuple[float, ...]
    yellow_arrows: bool
    teeth: float | None
    yellow_edge: bool
    shops: float


def make_variety(seed: int, road: Road) -> Variety:
    """Draw the additions of the street of `seed`."""
    rng = stream(seed, 300)
    has_tracks = rng.random() < 0.5
    middle = rng.uniform(-0.25, 0.25) if rng.random() < 0.5 else 0.0
    half = max(road.lane / 2, 1.4)
    gauge = float(rng.choice([1.0, 1.435]))
    shine = float(rng.uniform(0.06, 0.35))
    bed = float(rng.choice([1.0, 1.0, 1.25, 0.8, 1.6]))
    wires = rng.random() < (0.9 if has_tracks else 0.3)
    on_walls = rng.random() < 0.55
    yellow = rng.random() < 0.6
    zebra = float(rng.uniform(8, 45)) if not road.zebras and rng.random() < 0.5 else None
    if zebra is not None and any(abs(zebra - c) < road.crossing_half + 8 for c in road.crossings):
        zebra = None
    first, step = rng.uniform(6, 40), rng.uniform(30, 90)
    marked = rng.random() < 0.5
    yellow_arrows = rng.random() < 0.4
    teeth = float(rng.uniform(8, 40)) if rng.random() < 0.25 else None
    return Variety(
        tracks=(middle - half, middle + half) if has_tracks else (),
        gauge=gauge,
        shine=shine,
        bed=bed,
        wires=bool(wires),
        on_walls=bool(on_walls),
        yellow_zebras=bool(yellow),
        zebra=zebra,
        arrows=tuple(float(first + i * step) for i in range(8)) if marked else (),
        yellow_arrows=bool(yellow_arrows),
        teeth=teeth,
        yellow_edge=bool(rng.random() < 0.3),
        shops=float(rng.choice([0.0, 0.3, 0.75, 1.0], p=[0.15, 0.15, 0.35, 0.35])),
    )
