# SPDX-License-Identifier: Apache-2.0
"""Layout of one street: lots, buildings, trees and furniture on both sides, drawn from a seed.

Each side and each topic has its own random stream, consumed outward from the start, so a longer
drive extends a street without changing its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import buildings, fixtures
from .figures import bicycle
from .ground import ZONE_STEP_M, GroundLook
from .mesh import Mesh
from .road import KERB_M, Road, random_road
from .vehicles import car

X0_M = -30.0  # the street begins behind the camera
LOT_KINDS = ("terrace", "house", "block", "glass", "hall", "park", "gap")
# How likely each lot is in each district: centre, residential, suburb, avenue, industrial.
DISTRICTS = (
    (0.52, 0.02, 0.16, 0.12, 0.08, 0.04, 0.06),
    (0.40, 0.34, 0.08, 0.00, 0.02, 0.08, 0.08),
    (0.06, 0.52, 0.04, 0.02, 0.04, 0.20, 0.12),
    (0.18, 0.14, 0.24, 0.10, 0.04, 0.24, 0.06),
    (0.06, 0.06, 0.18, 0.18, 0.26, 0.08, 0.18),
)


@dataclass
class Layout:
    """What is collected while a street is laid out."""

    meshes: list[Mesh] = field(default_factory=list)
    blocks: list[tuple[float, ...]] = field(default_factory=list)
    crowns: list[tuple[float, ...]] = field(default_factory=list)
    lamps: list[tuple[float, ...]] = field(default_factory=list)
    parked: list[tuple[float, float, float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class World:
    """A street that does not move.

    Attributes:
        road: plan and cross-section.
        look: ground colours.
        mesh: every static primitive.
        blocks: `[n, 6]` x, y of the centre, yaw, half length, half depth, height.
        crowns: `[n, 4]` x, y, radius, height of tree crowns.
        lamps: `[n, 3]` positions of the street lamps' heads.
        parked: footprints of parked cars: x, y, yaw, half length, half width.
        x_end: where the street is closed.
    """

    road: Road
    look: GroundLook
    mesh: Mesh
    blocks: np.ndarray
    crowns: np.ndarray
    lamps: np.ndarray
    parked: tuple[tuple[float, float, float, float, float], ...]
    x_end: float


def stream(seed: int, topic: int) -> np.random.Generator:
    """The random stream of one topic of one world."""
    return np.random.default_rng((seed, topic))


def build_world(seed: int, length: float) -> World:
    """The street of `seed`, from behind the camera to `length` metres ahead of the start."""
    road = random_road(stream(seed, 0))
    rng = stream(seed, 1)
    out = Layout()
    x_end = float(length)
    cells = int((x_end + 60 - X0_M) / ZONE_STEP_M) + 1
    zones = (np.zeros(cells, bool), np.zeros(cells, bool))
    grey = rng.uniform(0.03, 0.10)
    tint = rng.uniform(0.94, 1.06, 3)
    pave = np.array((0.20, 0.19, 0.18)) * rng.uniform(0.5, 1.5) * rng.uniform(0.92, 1.1, 3)
    if rng.random() < 0.2:
        pave = np.array((0.26, 0.15, 0.11)) * rng.uniform(0.7, 1.2)
    look = GroundLook(
        asphalt=tuple(grey * tint),
        paving=tuple(pave),
        kerb=tuple(np.array((0.26, 0.26, 0.25)) * rng.uniform(0.6, 1.3)),
        grass=tuple(
            np.array((0.07, 0.11, 0.03)) * rng.uniform(0.6, 1.5) * rng.uniform(0.8, 1.2, 3)
        ),
        slab=float(rng.choice([0.4, 0.6, 0.9])),
        yellow=bool(rng.random() < 0.2),
        zones=zones,
        zone_x0=X0_M,
    )
    district = int(rng.integers(len(DISTRICTS)))
    bare = rng.random() < 0.35
    greenery = rng.choice([0.0, 0.3, 0.7, 1.0]) * rng.uniform(0.5, 1.2)
    for side in (0, 1):
        _line_side(road, side, district, bare, stream(seed, 10 + side), out, zones[side], x_end)
        _furnish(road, side, greenery, bare, stream(seed, 20 + side), out, x_end)
        _park_cars(road, side, district, stream(seed, 30 + side), out, x_end)
    for index, at in enumerate(road.crossings):
        if at < x_end:
            _cross_street(road, at, bare, stream(seed, 1000 + index), out)
    _close(road, x_end, bare, stream(seed, 2), out)
    return World(
        road=road,
        look=look,
        mesh=Mesh.joined(out.meshes),
        blocks=np.array(out.blocks).reshape(-1, 6),
        crowns=np.array(out.crowns).reshape(-1, 4),
        lamps=np.array(out.lamps).reshape(-1, 3),
        parked=tuple(out.parked),
        x_end=x_end,
    )


def front_of(road: Road, side: int) -> float:
    """Distance from the centre line to the back of the pavement."""
    return road.half_width + road.verge[side] + road.sidewalk[side]


def blocked(road: Road, low: float, high: float, margin: float) -> float | None:
    """End of the crossing street that a stretch of the street would build over, if any."""
    for c in road.crossings:
        if low < c + road.crossing_half + margin and high > c - road.crossing_half - margin:
            return c + road.crossing_half + margin
    return None


def _put(
    out: Layout, road: Road, mesh: Mesh, s: float, v: float, side: int, length: float = 0.0
) -> None:
    """Place a mesh that begins at `s` along the road, its back away from the road."""
    yaw = road.heading(s + length / 2)
    x, y = road.place(s if side else s + length, v)
    out.meshes.append(mesh.placed(x, y, KERB_M, yaw if side else yaw + np.pi))


def _line_side(
    road: Road, side: int, district: int, bare: bool, rng: np.random.Generator, out: Layout,
    zone: np.ndarray, x_end: float,
) -> None:  # fmt: skip
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
        _lot(road, side, name, s, length, v0, setback, ground, bare, lot, out)
        grassy = name == "park" or (setback > 2 and lot.random() < 0.6)
        if grassy:
            first = int((s - X0_M) / ZONE_STEP_M)
            zone[first : first + int(length / ZONE_STEP_M) + 1] = True
        s += length
        if lot.random() < 0.3:
            _behind(road, s, sign * (v0 + lot.uniform(24, 45)), bare, lot, out)


def _lot(
    road: Road, side: int, name: str, s: float, length: float, v0: float, setback: float,
    ground: float, bare: bool, rng: np.random.Generator, out: Layout,
) -> None:  # fmt: skip
    sign = 1 if side else -1
    if setback > 1 or name in ("park", "gap"):
        if rng.random() < (0.75 if name != "gap" else 0.6):
            if rng.random() < 0.3:
                fence = fixtures.hedge(rng, length - 0.2)
            else:
                fence = buildings.wall(rng, length - 0.2)
            _put(out, road, fence, s, sign * v0, side, length)
    if name in ("park", "gap"):
        for _ in range(int(rng.integers(1, 6)) if name == "park" else int(rng.integers(0, 2))):
            at, v = s + rng.uniform(0, length), v0 + rng.uniform(1.5, 14)
            _plant(road, at, sign * v, bare and rng.random() < 0.9, rng, out)
        for _ in range(int(rng.integers(0, 4))):
            _put(out, road, fixtures.bush(rng), s + rng.uniform(0, length),
                 sign * (v0 + rng.uniform(0.8, 6)), side)  # fmt: skip
        return
    gap = rng.uniform(1.0, 3.0) if name == "house" else 0.0
    depth = float(rng.uniform(8.0, 13.0))
    wide = max(length - gap, 4.0)
    mesh = buildings.building(rng, wide, depth, name, ground if setback < 2 else buildings.HOUSE)
    v = v0 + setback
    _put(out, road, mesh, s, sign * v, side, wide)
    x, y = road.place(s + wide / 2, sign * (v + depth / 2))
    height = float(mesh.verts[:, 2].max())
    out.blocks.append((x, y, road.heading(s + wide / 2), wide / 2, depth / 2, height * 0.92))
    if setback > 2:
        for _ in range(int(rng.integers(0, 3))):
            _put(out, road, fixtures.bush(rng), s + rng.uniform(0, length),
                 sign * (v0 + rng.uniform(0.8, setback - 0.8)), side)  # fmt: skip
    if ground == buildings.SHOP and setback < 1 and rng.random() < 0.4:
        board = fixtures.hanging_sign(rng, tuple(rng.uniform(0.02, 0.6, 3)))
        _put(out, road, board, s + rng.uniform(1, length - 1), sign * v, side)


def _behind(
    road: Road, s: float, v: float, bare: bool, rng: np.random.Generator, out: Layout
) -> None:
    """Something large in the second row, seen through gaps."""
    if rng.random() < 0.5:
        wide, deep = rng.uniform(12, 25), rng.uniform(8, 14)
        kind = str(rng.choice(["block", "terrace", "glass"]))
        mesh = buildings.building(rng, wide, deep, kind, buildings.HOUSE)
        _put(out, road, mesh, s, v, 1 if v > 0 else 0, wide)
    else:
        for _ in range(2):
            _plant(road, s + rng.uniform(-6, 6), v + rng.uniform(-4, 4), bare, rng, out)


def _plant(
    road: Road, s: float, v: float, bare: bool, rng: np.random.Generator, out: Layout
) -> None:
    mesh = fixtures.tree(rng, bare)
    x, y = road.place(s, v)
    out.meshes.append(mesh.placed(x, y, KERB_M, float(rng.uniform(0, 6.28))))
    high = float(mesh.ends[:, 5].max())
    if not bare:
        out.crowns.append((x, y, 0.28 * high, high * 0.9))


def _furnish(
    road: Road, side: int, greenery: float, bare: bool, rng: np.random.Generator, out: Layout,
    x_end: float,
) -> None:  # fmt: skip
    """Lamps, trees, signs, bollards, bins and parked bicycles along one pavement."""
    sign = 1 if side else -1
    kerb = road.half_width + 0.45
    back = front_of(road, side) - 0.35
    spacing, height = rng.uniform(18, 38), rng.uniform(4.5, 9.0)
    reach = rng.uniform(0.4, 1.8)
    has_lamps = side == 0 or rng.random() < 0.6
    bollards = rng.random() < 0.25
    tree_gap = rng.uniform(7, 18)
    every = {"lamp": spacing, "tree": tree_gap, "sign": rng.uniform(14, 45)}
    every |= {"bin": rng.uniform(25, 70), "bike": rng.uniform(18, 60), "bollard": 2.2}
    for kind, step in every.items():
        own = np.random.default_rng(rng.integers(2**63))
        s = X0_M + own.uniform(0, step)
        while s < x_end:
            here, pick = s, own.random()
            lot = np.random.default_rng(own.integers(2**63))
            s += step * (
                own.uniform(0.9, 1.1) if kind in ("lamp", "tree") else own.uniform(0.4, 1.7)
            )
            if blocked(road, here, here, 3.0) is not None:
                continue
            if kind == "lamp" and has_lamps:
                _put(out, road, fixtures.lamp(lot, height, reach), here, sign * kerb, side)
                x, y = road.place(here, sign * (kerb - reach))
                out.lamps.append((x, y, height))
            elif (
                kind == "tree" and pick < greenery and road.sidewalk[side] + road.verge[side] > 2.4
            ):
                _plant(road, here, sign * (kerb + 0.35), bare, lot, out)
            elif kind == "sign":
                x, y = road.place(here, sign * kerb)
                flip = np.pi if lot.random() < 0.3 else 0.0
                mesh = fixtures.sign(lot).placed(x, y, KERB_M, road.heading(here) + flip)
                out.meshes.append(mesh)
            elif kind == "bin" and pick < 0.7:
                _put(out, road, fixtures.bin_or_box(lot), here, sign * (back - 0.3), side)
            elif kind == "bike":
                for i in range(int(lot.integers(1, 5))):
                    colour = tuple(lot.uniform(0.02, 0.4, 3))
                    mesh = bicycle(colour, lot.uniform(0, 6), lot.uniform(0, 97))
                    x, y = road.place(here + i * 0.7, sign * (back - (0.6 if pick < 0.5 else 0.0)))
                    yaw = road.heading(here) + (1.3 if pick < 0.5 else 0.05)
                    out.meshes.append(mesh.placed(x, y, KERB_M, yaw))
                    if pick >= 0.5:
                        break
            elif kind == "bollard" and bollards and np.sin(here * 0.07) > 0:
                _put(out, road, fixtures.bollard(lot), here, sign * (kerb - 0.1), side)


def _park_cars(
    road: Road, side: int, district: int, rng: np.random.Generator, out: Layout, x_end: float
) -> None:
    sign = 1 if side else -1
    density = rng.uniform(0.5, 0.95)
    if not road.parking[side]:
        density = rng.uniform(0.0, 0.25) if road.half_width - road.lanes * road.lane > 1.2 else 0.0
    s = X0_M
    while s < x_end:
        lot = np.random.default_rng(rng.integers(2**63))
        mesh, length = car(lot, float(lot.uniform(0, 97)))
        step = length + lot.uniform(0.6, 1.8)
        middle = s + step / 2
        s += step
        clear = all(abs(middle - z) > 6.0 for z in road.zebras)
        if lot.random() > density or not clear or blocked(road, middle, middle, 8.0) is not None:
            continue
        x, y = road.place(middle, sign * (road.half_width - 1.05 + lot.uniform(-0.1, 0.1)))
        with_traffic = sign * road.traffic < 0
        yaw = road.heading(middle) + (0.0 if with_traffic else np.pi)
        out.meshes.append(mesh.placed(x, y, 0.0, yaw + lot.normal(0, 0.015)))
        out.parked.append((x, y, yaw, length / 2, 0.9))


def _cross_street(road: Road, at: float, bare: bool, rng: np.random.Generator, out: Layout) -> None:
    """Traffic lights on the corners and buildings along the crossing street."""
    lights = rng.random() < 0.65
    state = int(rng.choice([0, 2, 2]))
    for side in (0, 1):
        sign = 1 if side else -1
        if lights:
            s = at - road.crossing_half - 2.8
            x, y = road.place(s, sign * (road.half_width + 0.6))
            mesh = fixtures.signal(rng, state, sign).placed(x, y, KERB_M, road.heading(s))
            out.meshes.append(mesh)
            s = at + road.crossing_half + 2.8
            x, y = road.place(s, sign * (road.half_width + 0.6))
            mesh = fixtures.signal(rng, state, sign)
            turn = np.pi if rng.random() < 0.5 else 0.0
            out.meshes.append(mesh.placed(x, y, KERB_M, road.heading(s) + turn))
        for end in (-1, 1):
            v = front_of(road, side) + 15.0
            while v < 75.0:
                wide, deep = rng.uniform(6, 16), rng.uniform(8, 11)
                kind = str(rng.choice(["terrace", "terrace", "house", "block"]))
                mesh = buildings.building(rng, wide, deep, kind, buildings.HOUSE)
                x = at + end * (road.crossing_half + 2.6)
                y = road.place(at, sign * v)[1]
                # The front runs along y: its local x axis points so that its back is away.
                yaw = np.pi / 2 if end < 0 else -np.pi / 2
                start = min(y, y + sign * wide) if end < 0 else max(y, y + sign * wide)
                out.meshes.append(mesh.placed(x, start, KERB_M, yaw))
                v += wide + rng.uniform(0, 2)


def _close(road: Road, x_end: float, bare: bool, rng: np.random.Generator, out: Layout) -> None:
    """Buildings and trees across the end of the street, so that no view ends in nothing."""
    y = float(road.centre(x_end)) - 90.0
    stop = y + 180.0
    while y < stop:
        wide = float(rng.uniform(8, 20))
        mesh = buildings.building(rng, wide, 10.0, str(rng.choice(["terrace", "block"])), 0.0)
        x = x_end + rng.uniform(14, 30)
        out.meshes.append(mesh.placed(x, y + wide, KERB_M, -np.pi / 2))
        if rng.random() < 0.6:
            tree = fixtures.tree(rng, bare)
            out.meshes.append(tree.placed(x - 6, y + rng.uniform(0, wide), KERB_M, 0.0))
        y += wide
