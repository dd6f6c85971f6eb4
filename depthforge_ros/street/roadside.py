# SPDX-License-Identifier: Apache-2.0
"""Furniture, parked vehicles, crossing streets and the end of a street."""

from __future__ import annotations

import numpy as np

from . import buildings, fixtures
from .figures import bicycle
from .layout import X0_M, Layout, blocked, front_of, plant, put
from .road import KERB_M, Road
from .vehicles import car


def furnish(
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
    bollards, rails = rng.random() < 0.25, rng.random() < 0.3
    tree_gap = rng.uniform(7, 18)
    every = {"lamp": spacing, "tree": tree_gap, "sign": rng.uniform(8, 32)}
    every |= {
        "bin": rng.uniform(25, 70),
        "bike": rng.uniform(18, 60),
        "bollard": 2.2,
        "post": rng.uniform(12, 50),
        "rail": 2.0,
        "shelter": rng.uniform(50, 160),
    }
    for kind, step in every.items():
        own = np.random.default_rng(rng.integers(2**63))
        s = X0_M + own.uniform(0, step)
        while s < x_end:
            here, pick = s, own.random()
            lot = np.random.default_rng(own.integers(2**63))
            s += step * (
                own.uniform(0.9, 1.1) if kind in ("lamp", "tree", "rail") else own.uniform(0.4, 1.7)
            )
            if blocked(road, here, here, 3.0) is not None:
                continue
            if kind == "lamp" and has_lamps:
                put(out, road, fixtures.lamp(lot, height, reach), here, sign * kerb, side)
                x, y = road.place(here, sign * (kerb - reach))
                out.lamps.append((x, y, height))
            elif (
                kind == "tree" and pick < greenery and road.sidewalk[side] + road.verge[side] > 2.4
            ):
                plant(road, here, sign * (kerb + 0.35), bare, lot, out)
            elif kind == "sign":
                x, y = road.place(here, sign * kerb)
                flip = np.pi if lot.random() < 0.3 else 0.0
                mesh = fixtures.sign(lot).placed(x, y, KERB_M, road.heading(here) + flip)
                out.meshes.append(mesh)
            elif kind == "bin" and pick < 0.7:
                put(out, road, fixtures.bin_or_box(lot), here, sign * (back - 0.3), side)
            elif kind == "bike":
                for i in range(int(lot.integers(1, 5))):
                    colour = tuple(lot.uniform(0.02, 0.4, 3))
                    mesh = bicycle(colour, lot.uniform(0, 6), lot.uniform(0, 97))
                    x, y = road.place(here + i * 0.7, sign * (back - (0.6 if pick < 0.5 else 0.0)))
                    yaw = road.heading(here) + (1.3 if pick < 0.5 else 0.05)
                    out.meshes.append(mesh.placed(x, y, KERB_M, yaw))
                    if pick >= 0.5:
                        break
            elif kind == "shelter" and road.sidewalk[side] > 2.6:
                put(out, road, fixtures.shelter(lot), here, sign * (kerb + 0.6), side, 3.6)
            elif kind == "post":
                put(
                    out, road, fixtures.post(lot), here, sign * (back if pick < 0.4 else kerb), side
                )
            elif kind == "rail" and rails and np.sin(here * 0.045 + 2.0 * side) > 0.2:
                put(out, road, fixtures.railing(), here, sign * (kerb - 0.15), side, 2.0)
            elif kind == "bollard" and bollards and np.sin(here * 0.07) > 0:
                put(out, road, fixtures.bollard(lot), here, sign * (kerb - 0.1), side)


def park_cars(road: Road, side: int, rng: np.random.Generator, out: Layout, x_end: float) -> None:
    """Cars along the kerb, where there is room for them."""
    sign = 1 if side else -1
    density = rng.uniform(0.5, 0.95)
    if not road.parking[side]:
        room = road.half_width - road.lanes * road.lane
        density = rng.uniform(0.0, 0.25) if room > 1.9 else 0.0
    s = X0_M
    while s < x_end:
        lot = np.random.default_rng(rng.integers(2**63))
        mesh, length = car(lot, float(lot.uniform(0, 97)), parked=lot.random() < 0.93)
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


def cross_street(road: Road, at: float, rng: np.random.Generator, out: Layout) -> None:
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


def close_street(
    road: Road, x_end: float, bare: bool, rng: np.random.Generator, out: Layout
) -> None:
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
