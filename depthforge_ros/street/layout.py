# SPDX-License-Identifier: Apache-2.0
"""What is collected while a street is laid out, and how things are put beside a road."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import fixtures
from .mesh import Mesh
from .road import KERB_M, Road

X0_M = -30.0  # the street begins behind the camera


@dataclass
class Layout:
    """What is collected while a street is laid out."""

    meshes: list[Mesh] = field(default_factory=list)
    blocks: list[tuple[float, ...]] = field(default_factory=list)
    crowns: list[tuple[float, ...]] = field(default_factory=list)
    lamps: list[tuple[float, ...]] = field(default_factory=list)
    parked: list[tuple[float, float, float, float, float]] = field(default_factory=list)


def front_of(road: Road, side: int) -> float:
    """Distance from the centre line to the back of the pavement."""
    return road.half_width + road.verge[side] + road.sidewalk[side]


def blocked(road: Road, low: float, high: float, margin: float) -> float | None:
    """End of the crossing street that a stretch of the street would build over, if any."""
    for c in road.crossings:
        if low < c + road.crossing_half + margin and high > c - road.crossing_half - margin:
            return c + road.crossing_half + margin
    return None


def put(
    out: Layout, road: Road, mesh: Mesh, s: float, v: float, side: int, length: float = 0.0
) -> None:
    """Place a mesh that begins at `s` along the road, its back away from the road."""
    yaw = road.heading(s + length / 2)
    x, y = road.place(s if side else s + length, v)
    out.meshes.append(mesh.placed(x, y, KERB_M, yaw if side else yaw + np.pi))


def plant(
    road: Road, s: float, v: float, bare: bool, rng: np.random.Generator, out: Layout
) -> None:
    """A tree at a road position, with its crown noted for shadows."""
    mesh = fixtures.tree(rng, bare)
    x, y = road.place(s, v)
    out.meshes.append(mesh.placed(x, y, KERB_M, float(rng.uniform(0, 6.28))))
    high = float(mesh.ends[:, 5].max())
    if not bare:
        out.crowns.append((x, y, 0.28 * high, high * 0.9))
