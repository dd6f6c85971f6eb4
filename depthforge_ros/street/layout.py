# SPDX-License-Identifier: Apache-2.0
"""Layout of a street: the lots on both sides and what stands on them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import buildings, fixtures
from .ground import ZONE_STEP_M
from .mesh import SIZE, Mesh
from .noise import stream
from .road import KERB_M, Road
from .shops import dress, spill

X0_M = -30.0  # the street begins behind the camera


@dataclass
class Layout:
    """Meshes and metadata collected while a street is laid out."""

    meshes: list[Mesh] = field(default_factory=list)
    blocks: list[tuple[float, ...]] = field(default_factory=list)
    crowns: list[tuple[float, ...]] = field(default_factory=list)
    lamps: list[tuple[float, ...]] = field(default_factory=list)
    windows: list[tuple[float, ...]] = field(default_factory=list)
    parked: list[tuple[float, float, float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Shops:
    """Which buildings at the pavement of a varied street have shop displays: a `share` of them."""

    seed: int
    share: float

    def front(self, side: int, s: float, width: float, height: float) -> Mesh | None:
        """Displays before the front of the building at `s`, or None where it has none."""
        rng = stream(self.seed, 400_000 + 2 * int((s - X0_M) * 10) + side)
        return dress(rng, width, height) if rng.random() < self.share else None


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


LOT_KINDS = ("terrace", "house", "block", "glass", "hall", "park", "gap")
# How likely each lot is in each district: centre, residential, suburb, avenue, industrial.
DISTRICTS = (
    (0.52, 0.02, 0.16, 0.12, 0.08, 0.04, 0.06),
    (0.40, 0.34, 0.08, 0.00, 0.02, 0.08, 0.08),
    (0.06, 0.52, 0.04, 0.02, 0.04, 0.20, 0.12),
    (0.18, 0.14, 0.24, 0.10, 0.04, 0.24, 0.06),
    (0.06, 0.06, 0.18, 0.18, 0.26, 0.08, 0.18),
)


def line_side(
    road: Road, side: int, district: int, bare: bool, rng: np.random.Generator, out: Layout,
    zone: np.ndarray, x_end: float, shops: Shops | None = None,
) -> None:  # fmt: skip
    """Fill one side with lots; writes which have grass into `zone`."""
    sign = 1 if side else -1
    s, v0 = X0_M, front_of(road, side) + 0.05
    chance = np.array(DISTRICTS[district])
    ground = buildings.SHOP if rng.random() < (0.8, 0.15, 0.05, 0.4, 0.1)[district] else 0.0
    last, setback = 0, 0.0
    while s < x_end:
        if rng.random() < 0.55:
            kind = last
        else:
            kind = last = int(rng.choice(len(LOT_KINDS), p=chance / chance.sum()))
            setback = float(rng.choice([0.0, 0.0, 1.5, 4.0])) if kind < 5 else 0.0
            setback = float(rng.uniform(3.0, 7.0)) if kind == 1 else setback
        name = LOT_KINDS[kind]
        width = {"terrace": (5.0, 9.0), "house": (8.0, 12.0), "block": (12.0, 26.0)}
        width |= {"glass": (14.0, 30.0), "hall": (14.0, 30.0), "park": (12.0, 24.0)}
        length = float(rng.uniform(*width.get(name, (5.0, 9.0))))
        lot = np.random.default_rng(rng.integers(2**63))
        after = blocked(road, s, s + length, 2.5)
        if after is not None:
            middle = next(c for c in road.crossings if c + road.crossing_half + 2.5 == after)
            room = middle - road.crossing_half - 2.5 - s
            if room < 4.5:
                s = after
                continue
            length = room
        _lot(road, side, name, s, length, v0, setback, ground, bare, lot, out, shops)
        grassy = name == "park" or (setback > 2 and lot.random() < 0.6)
        if grassy:
            first = int((s - X0_M) / ZONE_STEP_M)
            zone[first : first + int(length / ZONE_STEP_M) + 1] = True
        s += length
        if lot.random() < 0.3:
            _behind(road, s, sign * (v0 + lot.uniform(24, 45)), bare, lot, out)


def _lot(
    road: Road, side: int, name: str, s: float, length: float, v0: float, setback: float,
    ground: float, bare: bool, rng: np.random.Generator, out: Layout, shops: Shops | None,
) -> None:  # fmt: skip
    sign = 1 if side else -1
    is_open = name in ("park", "gap")
    if (setback > 1 or is_open) and rng.random() < 0.7:
        border = fixtures.hedge if rng.random() < 0.3 else buildings.wall
        put(out, road, border(rng, length - 0.2), s, sign * v0, side, length)
    if is_open:
        for _ in range(int(rng.integers(1, 6)) if name == "park" else int(rng.integers(0, 2))):
            at, v = s + rng.uniform(0, length), v0 + rng.uniform(1.5, 14)
            plant(road, at, sign * v, bare and rng.random() < 0.9, rng, out)
        for _ in range(int(rng.integers(0, 4))):
            put(out, road, fixtures.bush(rng), s + rng.uniform(0, length),
                 sign * (v0 + rng.uniform(0.8, 6)), side)  # fmt: skip
        return
    gap = rng.uniform(1.0, 3.0) if name == "house" else 0.0
    depth = float(rng.uniform(8.0, 13.0))
    wide = max(length - gap, 4.0)
    mesh = buildings.building(rng, wide, depth, name, ground if setback < 2 else buildings.HOUSE)
    v = v0 + setback
    put(out, road, mesh, s, sign * v, side, wide)
    if shops is not None and setback < 2 and name != "house":
        front = shops.front(side, s, wide, float(mesh.faces[0, SIZE.start + 1]))
        if front is not None:
            put(out, road, front, s, sign * v, side, wide)
            out.windows.extend(spill(out.meshes[-1]))
    x, y = road.place(s + wide / 2, sign * (v + depth / 2))
    height = float(mesh.verts[:, 2].max())
    out.blocks.append((x, y, road.heading(s + wide / 2), wide / 2, depth / 2, height * 0.92))
    if setback > 2:
        for _ in range(int(rng.integers(0, 3))):
            put(out, road, fixtures.bush(rng), s + rng.uniform(0, length),
                 sign * (v0 + rng.uniform(0.8, setback - 0.8)), side)  # fmt: skip
    if ground == buildings.SHOP and setback < 1 and rng.random() < 0.4:
        board = fixtures.hanging_sign(rng, tuple(rng.uniform(0.02, 0.6, 3)))
        put(out, road, board, s + rng.uniform(1, length - 1), sign * v, side)


def _behind(
    road: Road, s: float, v: float, bare: bool, rng: np.random.Generator, out: Layout
) -> None:
    """Something large in the second row, seen through gaps."""
    if rng.random() < 0.5:
        wide, deep = rng.uniform(12, 25), rng.uniform(8, 14)
        kind = str(rng.choice(["block", "terrace", "glass"]))
        mesh = buildings.building(rng, wide, deep, kind, buildings.HOUSE)
        put(out, road, mesh, s, v, 1 if v > 0 else 0, wide)
    else:
        for _ in range(2):
            plant(road, s + rng.uniform(-6, 6), v + rng.uniform(-4, 4), bare, rng, out)
