# SPDX-License-Identifier: Apache-2.0
"""Layout of one street: lots, buildings, trees and furniture on both sides, drawn from a seed.

Each side and each topic has its own random stream, consumed outward from the start, so a longer
drive extends a street without changing its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .ground import ZONE_STEP_M, GroundLook
from .layout import DISTRICTS, X0_M, Layout, Shops, line_side
from .mesh import Mesh
from .noise import stream
from .road import Road, random_road
from .roadside import close_street, cross_street, furnish, park_cars
from .variety import Variety, make_variety
from .wires import hang_wires

CHUNK_M, SIGHT_M = 100.0, 330.0


@dataclass(frozen=True)
class World:
    """A street that does not move.

    Attributes:
        road: plan and cross-section.
        look: ground colours.
        chunks: static primitives, by `CHUNK_M` of x from `X0_M` on.
        blocks: `[n, 6]` x, y of the centre, yaw, half length, half depth, height.
        crowns: `[n, 4]` x, y, radius, height of tree crowns.
        lamps: `[n, 3]` positions of the street lamps' heads.
        windows: `[n, 4]` x, y, height and strength of the light of shop displays.
        parked: footprints of parked cars: x, y, yaw, half length, half width.
        x_end: where the street is closed.
        variety: additions of a varied street, else None.
        wires: `[n, 7]` overhead wires: two ends (x, y, z) and the diameter, metres.
    """

    road: Road
    look: GroundLook
    chunks: tuple[Mesh, ...]
    blocks: np.ndarray
    crowns: np.ndarray
    lamps: np.ndarray
    windows: np.ndarray
    parked: tuple[tuple[float, float, float, float, float], ...]
    x_end: float
    variety: Variety | None
    wires: np.ndarray

    def near(self, x: float) -> list[Mesh]:
        """The static primitives that a camera at `x` can see."""
        first, last = (int((x + d - X0_M) // CHUNK_M) for d in (-60.0, SIGHT_M))
        return list(self.chunks[max(first, 0) : last + 1])


def build_world(seed: int, length: float, varied: bool = False) -> World:
    """The street of `seed`, from behind the camera to `length` metres ahead of the start."""
    road = random_road(stream(seed, 0))
    ahead = length + 250.0
    variety = make_variety(seed, road) if varied else None
    if variety is not None:
        zebras = road.zebras if variety.zebra is None else (variety.zebra,)
        road = replace(road, zebras=zebras, yellow_zebras=variety.yellow_zebras)
    road = replace(
        road,
        crossings=tuple(c for c in road.crossings if c < ahead),
        zebras=tuple(z for z in road.zebras if z < ahead),
    )
    rng = stream(seed, 1)
    out = Layout()
    x_end = float(length)
    cells = int((x_end + 60 - X0_M) / ZONE_STEP_M) + 1
    zones = (np.zeros(cells, bool), np.zeros(cells, bool))
    grey = rng.uniform(0.03, 0.10)
    tint = rng.uniform(0.94, 1.06, 3)
    pave = (
        np.array((1.0, 0.97, 0.92))
        * min(grey * rng.uniform(0.8, 2.6), 0.25)
        * rng.uniform(0.92, 1.1, 3)
    )
    if rng.random() < 0.2:
        pave = np.array((0.20, 0.11, 0.08)) * rng.uniform(0.5, 1.2)
    look = GroundLook(
        asphalt=tuple(grey * tint),
        paving=tuple(pave),
        kerb=tuple(pave.mean() * np.array((1.0, 1.0, 0.97)) * rng.uniform(0.8, 1.9)),
        grass=tuple(
            np.array((0.07, 0.11, 0.03)) * rng.uniform(0.6, 1.5) * rng.uniform(0.8, 1.2, 3)
        ),
        slab=float(rng.choice([0.4, 0.6, 0.9])),
        zones=zones,
        zone_x0=X0_M,
    )
    district = int(rng.integers(len(DISTRICTS)))
    if variety is not None and variety.shops > 0.5:
        district = 0  # shopping streets lie in the centre
    bare = rng.random() < 0.35
    greenery = rng.choice([0.0, 0.4, 0.8, 1.0]) * rng.uniform(0.6, 1.2)
    shops = Shops(seed, variety.shops) if variety is not None else None
    for side in (0, 1):
        line_side(
            road, side, district, bare, stream(seed, 10 + side), out, zones[side], x_end, shops
        )
        furnish(road, side, greenery, bare, stream(seed, 20 + side), out, x_end)
        park_cars(road, side, stream(seed, 30 + side), out, x_end)
    for index, at in enumerate(road.crossings):
        if at < x_end:
            cross_street(road, at, stream(seed, 1000 + index), out)
    close_street(road, x_end, bare, stream(seed, 2), out)
    wires = np.empty((0, 7))
    if variety is not None and variety.wires:
        wires = hang_wires(road, variety, stream(seed, 302), out, x_end)
    return World(
        road=road,
        look=look,
        chunks=_chunked(out.meshes),
        blocks=np.array(out.blocks).reshape(-1, 6),
        crowns=np.array(out.crowns).reshape(-1, 4),
        lamps=np.array(out.lamps).reshape(-1, 3),
        windows=np.array(out.windows).reshape(-1, 4),
        parked=tuple(out.parked),
        x_end=x_end,
        variety=variety,
        wires=wires,
    )


def _chunked(meshes: list[Mesh]) -> tuple[Mesh, ...]:
    """Meshes joined by where along x they begin."""
    groups: dict[int, list[Mesh]] = {}
    for mesh in meshes:
        ends = mesh.ends[:, 0]
        x = mesh.verts[:, 0].min() if len(mesh.verts) else ends.min()
        groups.setdefault(max(int((x - X0_M) // CHUNK_M), 0), []).append(mesh)
    return tuple(Mesh.joined(groups.get(i, [])) for i in range(max(groups, default=-1) + 1))
