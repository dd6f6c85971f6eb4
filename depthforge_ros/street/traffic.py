# SPDX-License-Identifier: Apache-2.0
"""Moving actors: the ego vehicle, other vehicles, riders and pedestrians, as functions of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .figures import Look, bicycle, motorcycle, person, rider
from .layout import X0_M
from .mesh import Mesh
from .noise import stream
from .road import KERB_M, Road
from .vehicles import TRAIN, articulated_lorry, bus, car, tram, truck

USUAL, HEAVY = (0.12, 0.22, 0.235), (0.3, 0.5, 0.75)
"""Cumulative shares of trucks, buses and trams among vehicles."""
VIEW_M = 150.0  # people and two-wheelers farther than this are not drawn


@dataclass(frozen=True)
class Ego:
    """The camera's way along the road: speed in m/s with a slow swing, lateral place, wobble."""

    speed: float
    swing: float
    rate: float
    phase: float
    v: float

    def travelled(self, t: float) -> float:
        """Metres along the road after `t` seconds."""
        wave = np.cos(self.phase) - np.cos(self.rate * t + self.phase)
        return float(self.speed * (t + self.swing / self.rate * wave))


@dataclass(frozen=True)
class Mover:
    """One actor. `kind` is "vehicle", "cycle", "motorcycle" or "person".

    A positive `follow` keeps it that far ahead of the ego vehicle, instead of `speed`.
    """

    kind: str
    s: float
    v: float
    speed: float
    heading: float
    sway: float
    phase: float
    follow: float
    mesh: Mesh | None
    look: Look | None
    colour: tuple[float, float, float]
    crossing: bool


def make_ego(seed: int, road: Road) -> Ego:
    """How the camera drives the road of `seed`."""
    rng = stream(seed, 3)
    lane = int(rng.integers(road.lanes))
    return Ego(
        speed=float(rng.uniform(3.0, 12.0)),
        swing=float(rng.uniform(0.0, 0.3)),
        rate=float(rng.uniform(0.1, 0.5)),
        phase=float(rng.uniform(0, 6.28)),
        v=road.lane_centre(lane, 1) + float(rng.normal(0, 0.15)),
    )


def make_movers(seed: int, road: Road, x_end: float, heavy: bool = False) -> list[Mover]:
    """Every actor of the street; vehicles first. heavy: most of them are lorries, buses, trams."""
    movers: list[Mover] = []
    _vehicles(stream(seed, 4), road, x_end, movers, heavy)
    _riders(stream(seed, 5), road, x_end, movers)
    for side in (0, 1):
        _pedestrians(stream(seed, 6 + side), road, side, x_end, movers)
    return movers


def _vehicle(rng: np.random.Generator, heavy: bool) -> tuple[Mesh, float]:
    """A vehicle and its length; what is no truck, bus or tram is a car."""
    seed, pick = float(rng.uniform(0, 97)), rng.random()
    trucks, buses, trams = HEAVY if heavy else USUAL
    if pick < trucks:
        return articulated_lorry(rng, seed) if heavy and rng.random() < 0.5 else truck(rng, seed)
    if pick < buses:
        return bus(rng, seed)
    if pick < trams:
        return tram(rng, seed) if heavy else bus(rng, seed, TRAIN)
    return car(rng, seed)


def _vehicles(
    rng: np.random.Generator,
    road: Road,
    x_end: float,
    out: list[Mover],
    heavy: bool,
) -> None:
    for direction in (1, -1):
        for lane in range(road.lanes):
            gap = rng.uniform(9.0, 45.0)
            spacing = rng.uniform(10.0, 60.0)
            pace = rng.uniform(5.0, 13.0)
            s = gap + 3.0 if direction > 0 else rng.uniform(6.0, 40.0)
            limit = 90.0 if direction > 0 else x_end + 400.0
            phase = rng.uniform(0, 6.28)
            while s < limit:
                lot = np.random.default_rng(rng.integers(2**63))
                mesh, length = _vehicle(lot, heavy)
                s += length / 2
                heading = 0.0 if direction > 0 else np.pi
                v = road.lane_centre(lane, direction) + lot.normal(0, 0.1)
                if direction < 0 or lot.random() < 0.8:
                    speed = -pace if direction < 0 else 0.0
                    follow = s if direction > 0 else 0.0
                    out.append(Mover("vehicle", s, v, speed, heading, min(gap * 0.3, 5.0), phase,
                                     follow, mesh, None, (0, 0, 0), False))  # fmt: skip
                s += length / 2 + spacing * lot.uniform(0.5, 1.6)
    for at in road.crossings:  # waiting or passing on the crossing street
        lot = np.random.default_rng(rng.integers(2**63))
        mesh, length = _vehicle(lot, heavy)
        sign = int(lot.choice([-1, 1]))
        if lot.random() < 0.6:
            v = sign * (road.half_width + 2.5 + length / 2)
            s = at + sign * road.traffic * road.crossing_half / 2
            out.append(Mover("vehicle", s, v, 0.0, -sign * np.pi / 2, 0.0, 0.0, 0.0, mesh, None,
                             (0, 0, 0), True))  # fmt: skip


def _riders(rng: np.random.Generator, road: Road, x_end: float, out: list[Mover]) -> None:
    count = int(rng.choice([0, 1, 2, 3, 5]))
    stretches = max(1, int((x_end - 20.0) // 250.0))
    for index in range((count + 4) * stretches):
        base = 250.0 * (index // (count + 4))
        lot = np.random.default_rng(rng.integers(2**63))
        direction = 1 if lot.random() < 0.6 else -1
        motor = lot.random() < 0.25
        edge = road.half_width - max(road.parking)
        aside = max(edge - lot.uniform(0.35, 0.7), road.lane * (road.lanes - 0.5) + 1.15)
        v = -road.traffic * direction * aside  # cars pass it in their lane
        s = base + lot.uniform(7.0, 60.0) if direction > 0 else base + lot.uniform(15.0, 260.0)
        speed = direction * (lot.uniform(6.0, 11.0) if motor else lot.uniform(3.0, 6.5))
        colour = tuple(lot.uniform(0.02, 0.3) * lot.uniform(0.3, 1.0, 3))
        heading = 0.0 if direction > 0 else np.pi
        kind = "motorcycle" if motor else "cycle"
        if count == 0 and not motor:
            continue
        out.append(Mover(kind, s, v, speed, heading, 0.1, lot.uniform(0, 6.28), 0.0, None,
                         Look(lot), colour, False))  # fmt: skip


def _pedestrians(
    rng: np.random.Generator, road: Road, side: int, x_end: float, out: list[Mover]
) -> None:
    sign = 1 if side else -1
    spacing = float(rng.choice([3.0, 6.0, 10.0, 18.0, 35.0]))
    s = X0_M
    low = road.half_width + road.verge[side] + 0.5
    while s < x_end:
        lot = np.random.default_rng(rng.integers(2**63))
        s += spacing * lot.uniform(0.3, 1.7)
        group = int(lot.choice([1, 1, 1, 2, 3]))
        walk = 0.0 if lot.random() < 0.22 else float(lot.uniform(0.8, 1.7) * lot.choice([-1, 1]))
        for i in range(group):
            v = sign * (low + lot.uniform(0.0, max(road.sidewalk[side] - 0.8, 0.3)))
            heading = (0.0 if walk > 0 else np.pi) if walk else float(lot.uniform(0, 6.28))
            out.append(Mover("person", s + 0.5 * i, v, walk, heading, 0.15, lot.uniform(0, 6.28),
                             0.0, None, Look(lot), (0, 0, 0), False))  # fmt: skip
    for at in road.zebras:
        for _ in range(int(rng.integers(0, 3))):
            lot = np.random.default_rng(rng.integers(2**63))
            v = sign * lot.uniform(0.5, road.half_width + 2.0)
            s = at + lot.uniform(-1.2, 1.2)
            out.append(Mover("person", s, v, 1.3, -sign * np.pi / 2, 0.0, lot.uniform(0, 6.28),
                             0.0, None, Look(lot), (0, 0, 0), True))  # fmt: skip


def pose(mover: Mover, road: Road, ego: Ego, t: float) -> tuple[float, float, float]:
    """Road position `(s, v)` and heading relative to the road at time `t`."""
    wave = mover.sway * np.sin(0.6 * t + mover.phase)
    if mover.follow > 0:
        return ego.travelled(t) + mover.follow + wave, mover.v, mover.heading
    if mover.crossing:
        return mover.s, mover.v + np.sin(mover.heading) * mover.speed * t, mover.heading
    if mover.kind == "person":
        return mover.s + mover.speed * t, mover.v + wave, mover.heading
    side = wave if mover.kind == "cycle" else 0.0
    return mover.s + mover.speed * t, mover.v + side, mover.heading


def moving_mesh(
    movers: list[Mover], road: Road, ego: Ego, t: float
) -> tuple[Mesh, list[tuple[float, float, float, float, float]]]:
    """All actors at time `t`, and the ground footprints `(x, y, yaw, half length, half width)`."""
    here = ego.travelled(t)
    meshes, prints = [], []
    for mover in movers:
        s, v, turn = pose(mover, road, ego, t)
        ahead = s - here
        small = mover.kind != "vehicle"
        if ahead < -18 or ahead > (VIEW_M if small else 400.0):
            continue
        x, y = road.place(s, v)
        yaw = road.heading(s) + turn
        z = KERB_M if float(road.beyond_kerb(np.float64(x), np.float64(abs(v)))) > 0 else 0.0
        if mover.mesh is not None:
            meshes.append(mover.mesh.placed(x, y, 0.0, yaw))
            half = np.abs(mover.mesh.verts[:, :2]).max(axis=0)
            prints.append((x, y, yaw, float(half[0]), float(half[1])))
            continue
        assert mover.look is not None
        if mover.kind == "person":
            walking = mover.speed != 0
            gait = mover.phase + 5.6 * t * (1.0 if walking else 0.0)
            stride = 0.9 if walking else 0.12
            meshes.append(person(mover.look, gait, stride).placed(x, y, z, yaw))
            prints.append((x, y, yaw, 0.25, 0.25))
            continue
        motor = mover.kind == "motorcycle"
        crank = mover.phase + 0.75 * mover.speed * t * (1 if mover.speed > 0 else -1)
        seed = mover.look.seed
        machine = motorcycle(mover.colour, seed) if motor else bicycle(mover.colour, crank, seed)
        both = Mesh.joined([machine, rider(mover.look, crank, motor=motor)])
        meshes.append(both.placed(x, y, z, yaw))
        prints.append((x, y, yaw, 0.8, 0.2))
    return Mesh.joined(meshes), prints
