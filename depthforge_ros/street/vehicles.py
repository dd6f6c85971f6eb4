# SPDX-License-Identifier: Apache-2.0
"""Vehicle meshes about their own origin: x forward, on the ground, centred between the axles."""

from __future__ import annotations

import numpy as np

from .mesh import Mat, Mesh, MeshBuilder

CAR, TRUCK, BUS, TRAIN = 13, 14, 15, 16
TYRE = (0.03, 0.03, 0.035)

CAR_COLOURS = (
    (0.02, 0.02, 0.025),
    (0.02, 0.02, 0.025),
    (0.06, 0.065, 0.07),
    (0.32, 0.33, 0.34),
    (0.45, 0.46, 0.47),
    (0.75, 0.75, 0.75),
    (0.8, 0.8, 0.78),
    (0.3, 0.02, 0.02),
    (0.02, 0.04, 0.16),
    (0.03, 0.08, 0.25),
    (0.02, 0.10, 0.05),
    (0.25, 0.20, 0.12),
    (0.55, 0.10, 0.01),
    (0.6, 0.42, 0.02),
)


def _wheels(
    b: MeshBuilder, label: int, axles: tuple[float, ...], half: float, radius: float
) -> None:
    for x in axles:
        for side in (-1, 1):
            y = side * (half + 0.012)
            b.disc((x, y, radius), radius, side, label, Mat.WHEEL, TYRE, (radius,))
            b.disc((x, side * (half + 0.004), radius), radius * 1.2, side, label, Mat.PLAIN, TYRE)
            inner = (min(y, y - side * 0.22), max(y, y - side * 0.22))
            low = (x - radius * 0.85, inner[0], 0.0)
            b.box(low, (x + radius * 0.85, inner[1], radius * 1.5), label, Mat.PLAIN, TYRE)


def car(rng: np.random.Generator, seed: float, parked: bool = False) -> tuple[Mesh, float]:
    """A hatchback, saloon, estate, off-roader or van; gives the mesh and its length in metres."""
    kind = int(rng.choice([0, 0, 0, 1, 1, 2, 3, 4]))
    length = (3.9, 4.6, 4.6, 4.5, 5.2)[kind] * rng.uniform(0.94, 1.06)
    half = (0.84, 0.88, 0.88, 0.92, 0.97)[kind] * rng.uniform(0.97, 1.03)
    height = (1.46, 1.42, 1.47, 1.72, 2.15)[kind] * rng.uniform(0.96, 1.06)
    belt = height * rng.uniform(0.60, 0.64) if kind != 4 else 1.15
    colour = CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))]
    if kind == 4 and rng.random() < 0.6:
        colour = (0.75, 0.75, 0.74)
    colour = tuple(np.clip(np.array(colour) * rng.uniform(0.8, 1.25), 0.01, 0.9))
    radius = (0.30, 0.32, 0.32, 0.37, 0.34)[kind]
    low, rear, front = 0.22 + (0.08 if kind == 3 else 0.0), -length / 2, length / 2
    hood = belt * rng.uniform(0.90, 0.97)
    b = MeshBuilder(seed)
    bonnet = front - rng.uniform(1.0, 1.25) if kind != 4 else front - 0.85
    boot_top = belt if kind in (1,) else belt * 1.0
    body = [
        (rear, half * 0.90, low + 0.12, boot_top * 0.86),
        (rear + 0.12, half * 0.97, low, boot_top),
        (rear + 0.9, half, low, belt),
        (bonnet, half, low, belt),
        (front - 0.30, half * 0.95, low, hood * 0.94),
        (front, half * 0.84, low + 0.08, hood * 0.84),
    ]
    b.loft(body, CAR, colour, (0.0, 0.0, 0.0, float(parked)), ends=(Mat.REAR, Mat.FRONT))
    b.box((rear + 0.3, -half * 0.8, 0.06), (front - 0.3, half * 0.8, low + 0.1), CAR, 0, TYRE)
    # Glasshouse: (x at belt, x at roof) of windscreen and rear window.
    screen_base, screen_top = bonnet + 0.12, bonnet - rng.uniform(0.55, 0.8)
    if kind == 1:
        back_base, back_top = rear + 0.75, rear + 1.35
    elif kind == 4:
        back_base, back_top = rear + 0.02, rear + 0.12
        screen_top = bonnet - 0.45
    else:
        back_base, back_top = rear + 0.10, rear + rng.uniform(0.35, 0.65)
    wide, narrow, top = half * 0.92, half * (0.76 if kind != 4 else 0.88), height
    base = {"fr": (screen_base, -wide), "fl": (screen_base, wide)}
    base |= {"rr": (back_base, -wide), "rl": (back_base, wide)}
    roof = {"fr": (screen_top, -narrow), "fl": (screen_top, narrow)}
    roof |= {"rr": (back_top, -narrow), "rl": (back_top, narrow)}
    for p, q, pane in (("rr", "fr", 0), ("fr", "fl", 1), ("fl", "rl", 0), ("rl", "rr", 2)):
        corners = [(*base[p], belt), (*base[q], belt), (*roof[q], top), (*roof[p], top)]
        van_side = 3 if kind == 4 and pane == 0 else pane
        mirrored = 1.0 if (p, q) == ("fl", "rl") else 0.0
        taper = (wide - narrow) / (top - belt) * 0.8
        b.face(corners, CAR, Mat.GLASS, colour, (van_side, kind, mirrored, taper))
    corners = [(*roof[c], top) for c in ("rr", "fr", "fl", "rl")]
    b.face(corners, CAR, Mat.BODY, colour)
    for side in (-1, 1):
        y = sorted((side * wide, side * (wide + 0.17)))
        x = screen_base - 0.35
        b.box((x, y[0], belt - 0.02), (x + 0.12, y[1], belt + 0.13), CAR, Mat.BODY, colour)
    axle = length * 0.29
    _wheels(b, CAR, (-axle, axle + 0.06), half, radius)
    return b.build(), length


def truck(rng: np.random.Generator, seed: float) -> tuple[Mesh, float]:
    """A box or flatbed lorry with a cab."""
    length, half = rng.uniform(6.0, 9.5), rng.uniform(1.1, 1.25)
    height, cab_h = rng.uniform(2.9, 3.7), rng.uniform(2.3, 2.8)
    colour = rng.uniform(0.05, 0.7, 3)
    box = np.array((0.7, 0.7, 0.68)) if rng.random() < 0.5 else rng.uniform(0.05, 0.7, 3)
    b = MeshBuilder(seed)
    front, rear = length / 2, -length / 2
    cab = front - 1.9
    loaded = rng.random() < 0.75
    low = (rear, -half, 0.85)
    if loaded:
        b.box(low, (cab - 0.15, half, height), TRUCK, Mat.PANEL, box, (0.0,), bottom=True)
    else:
        b.box(low, (cab - 0.15, half, 1.45), TRUCK, Mat.PANEL, box, (1.0,))
    sections = [
        (cab, half, 0.5, cab_h),
        (front - 0.35, half, 0.45, cab_h),
        (front, half * 0.96, 0.45, 1.35),
    ]
    b.loft(sections, TRUCK, colour, (2.0, 0.0, 0.0, 0.0), ends=(Mat.BODY, Mat.FRONT))
    pane = [(front - 0.02, -half * 0.93, 1.42), (front - 0.02, half * 0.93, 1.42)]
    pane += [(front - 0.33, half * 0.93, cab_h - 0.12), (front - 0.33, -half * 0.93, cab_h - 0.12)]
    lift = np.array((0.03, 0.0, 0.02))
    b.face((np.array(pane) + lift).tolist(), TRUCK, Mat.GLASS, colour, (1.0, 4.0))
    for side in (-1, 1):
        y = side * (half + 0.015)
        xs = (cab + 0.5, front - 0.5) if side < 0 else (front - 0.5, cab + 0.5)
        corners = [(xs[0], y, 1.4), (xs[1], y, 1.4), (xs[1], y, cab_h - 0.25)]
        b.face([*corners, (xs[0], y, cab_h - 0.25)], TRUCK, Mat.GLASS, colour, (1.0, 4.0))
    b.box((rear + 0.2, -half * 0.8, 0.5), (front - 0.3, half * 0.8, 0.9), TRUCK, 0, TYRE)
    rear_plate = [(rear - 0.02, half, 0.55), (rear - 0.02, -half, 0.55)]
    rear_plate += [(rear - 0.02, -half, 0.85), (rear - 0.02, half, 0.85)]
    b.face(rear_plate, TRUCK, Mat.REAR, (0.08, 0.08, 0.08), (0.0, 5.0))
    _wheels(b, TRUCK, (rear + 1.3, rear + 2.3, front - 1.2), half - 0.1, 0.47)
    return b.build(), length


def bus(rng: np.random.Generator, seed: float, label: int = BUS) -> tuple[Mesh, float]:
    """A single or double decker; with `label` TRAIN a tram on the street's rails."""
    tram = label == TRAIN
    length = rng.uniform(18.0, 26.0) if tram else rng.uniform(9.5, 12.0)
    double = not tram and rng.random() < 0.35
    height = 4.2 if double else (3.4 if tram else rng.uniform(2.9, 3.2))
    half = 1.25
    palette = ((0.55, 0.02, 0.02), (0.02, 0.12, 0.4), (0.7, 0.7, 0.7), (0.03, 0.3, 0.12))
    palette += ((0.7, 0.45, 0.02), (0.35, 0.05, 0.3), (0.6, 0.62, 0.55))
    colour = palette[int(rng.integers(len(palette)))]
    b = MeshBuilder(seed)
    x0, x1 = -length / 2, length / 2
    params = (1.0 if double else 0.0, 0.0, height)
    for side in (-1, 1):
        y = side * half
        xs = (x0, x1) if side < 0 else (x1, x0)
        corners = [(xs[0], y, 0.3), (xs[1], y, 0.3), (xs[1], y, height), (xs[0], y, height)]
        b.face(corners, label, Mat.BUS, colour, params)
    front = [(x1, -half, 0.3), (x1, half, 0.3), (x1 - 0.12, half, height)]
    b.face([*front, (x1 - 0.12, -half, height)], label, Mat.BUS, colour, (params[0], 1.0, height))
    rear = [(x0, half, 0.3), (x0, -half, 0.3), (x0, -half, height), (x0, half, height)]
    b.face(rear, label, Mat.BUS, colour, (params[0], 2.0, height))
    roof = [(x0, -half, height), (x1 - 0.12, -half, height), (x1 - 0.12, half, height)]
    b.face([*roof, (x0, half, height)], label, Mat.BODY, (0.5, 0.5, 0.5), (1.0,))
    b.box((x0 + 0.3, -half * 0.85, 0.1), (x1 - 0.3, half * 0.85, 0.35), label, 0, TYRE)
    if not tram:
        _wheels(b, label, (x0 + 2.6, x1 - 2.4), half - 0.02, 0.48)
    return b.build(), length


def tram(rng: np.random.Generator, seed: float) -> tuple[Mesh, float]:
    """An articulated tram of two to five cars: tapered noses, skirts, bellows, a pantograph."""
    cars, long = int(rng.integers(2, 6)), rng.uniform(5.5, 8.5)
    half, height, joint = rng.uniform(1.12, 1.33), rng.uniform(3.2, 3.6), 0.7
    colour = rng.uniform(0.02, 0.7) * rng.uniform(0.2, 1.0, 3)
    if rng.random() < 0.35:  # white, or the blue and white of many towns
        colour = np.array(((0.75, 0.75, 0.73), (0.02, 0.1, 0.42))[int(rng.integers(2))])
    nose_m = rng.uniform(0.6, 1.6)
    length = cars * long + (cars - 1) * joint + 2 * nose_m
    b = MeshBuilder(seed)
    params = (0.0, 0.0, height)
    for index in range(cars):
        x0 = -length / 2 + nose_m + index * (long + joint)
        x1 = x0 + long
        for side in (-1, 1):
            y = side * half
            xs = (x0, x1) if side < 0 else (x1, x0)
            corners = [(xs[0], y, 0.2), (xs[1], y, 0.2), (xs[1], y, height), (xs[0], y, height)]
            b.face(corners, TRAIN, Mat.BUS, colour, params)
        roof = [(x0, -half, height), (x1, -half, height), (x1, half, height), (x0, half, height)]
        b.face(roof, TRAIN, Mat.BODY, (0.4, 0.4, 0.4), (1.0,))
        low, high = (x0 + 0.8, -half * 0.7, height), (x1 - 0.8, half * 0.7, height + 0.35)
        b.box(low, high, TRAIN, Mat.BODY, (0.35, 0.35, 0.36))
        if index + 1 < cars:
            low, high = (x1, -half * 0.9, 0.3), (x1 + joint, half * 0.9, height - 0.1)
            b.box(low, high, TRAIN, Mat.PLAIN, (0.02, 0.02, 0.022))
    for end in (-1, 1):
        x0, x1 = end * (length / 2 - nose_m), end * length / 2
        sections = [(x0, half, 0.2, height), (x1, half * 0.8, 0.35, height * 0.55)]
        if end < 0:
            sections.reverse()
        b.loft(sections, TRAIN, colour, (2.0, 0.0, 0.0, 0.0), ends=(Mat.REAR, Mat.FRONT))
        # Its windscreen lies on the slope of the loft.
        foot, top, side = x1 - end * nose_m * 0.12, x0 + end * nose_m * 0.15, half * 0.74
        pane: list[tuple[float, float, float]] = [
            (foot, -side, height * 0.6),
            (foot, side, height * 0.6),
        ]
        pane += [(top, side * 1.1, height * 0.93), (top, -side * 1.1, height * 0.93)]
        lift = np.array((end * 0.06, 0.0, 0.06))
        b.face((np.array(pane) + lift).tolist(), TRAIN, Mat.GLASS, colour, (1.0, 4.0))
    knee = rng.uniform(-long / 3, long / 3)
    for x, z in ((knee - 0.8, height + 0.35), (knee + 0.1, height + 0.9)):
        b.box((x, -0.06, z), (x + 0.9, 0.06, z + 0.6), TRAIN, Mat.PLAIN, (0.1, 0.1, 0.1))
    b.box((knee, -0.8, height + 1.5), (knee + 0.1, 0.8, height + 1.56), TRAIN, 0, (0.1, 0.1, 0.1))
    b.box(
        (-length / 2 + 0.4, -half * 0.8, 0.05), (length / 2 - 0.4, half * 0.8, 0.3), TRAIN, 0, TYRE
    )
    return b.build(), length


def articulated_lorry(rng: np.random.Generator, seed: float) -> tuple[Mesh, float]:
    """A tractor with a high cab and a semi-trailer: a box, a curtain or a tank."""
    trailer, half = rng.uniform(9.0, 13.0), rng.uniform(1.2, 1.28)
    height, cab_h = rng.uniform(3.5, 4.0), rng.uniform(3.0, 3.8)
    colour, box = rng.uniform(0.05, 0.7, 3), rng.uniform(0.05, 0.75, 3)
    if rng.random() < 0.4:
        box = np.array((0.72, 0.72, 0.7))
    length = trailer + 2.6
    front, rear = length / 2, -length / 2
    b = MeshBuilder(seed)
    if rng.random() < 0.25:  # a tank
        middle, round_ = (1.1 + height) / 2, (height - 1.1) / 2
        b.loft(
            [(rear, half * 0.8, middle - round_ * 0.8, middle + round_ * 0.8),
             (rear + 0.5, half, 1.1, height), (rear + trailer - 0.5, half, 1.1, height),
             (rear + trailer, half * 0.8, middle - round_ * 0.8, middle + round_ * 0.8)],
            TRUCK, box, (2.0, 0.0, 0.0, 0.0), ends=(Mat.BODY, Mat.BODY),
        )  # fmt: skip
    else:
        high = (rear + trailer, half, height)
        b.box((rear, -half, 1.1), high, TRUCK, Mat.PANEL, box, (0.0,), bottom=True)
    cab = front - 2.1
    sections = [
        (cab, half, 0.5, cab_h),
        (front - 0.25, half, 0.45, cab_h * 0.97),
        (front, half * 0.97, 0.45, 1.75),
    ]
    b.loft(sections, TRUCK, colour, (2.0, 0.0, 0.0, 0.0), ends=(Mat.BODY, Mat.FRONT))
    pane = [(front, -half * 0.93, 1.75), (front, half * 0.93, 1.75)]
    pane += [(front - 0.2, half * 0.93, cab_h * 0.82), (front - 0.2, -half * 0.93, cab_h * 0.82)]
    lift = np.array((0.04, 0.0, 0.02))
    b.face((np.array(pane) + lift).tolist(), TRUCK, Mat.GLASS, colour, (1.0, 4.0))
    for side in (-1, 1):
        y = side * (half + 0.015)
        xs = (cab + 0.7, front - 0.4) if side < 0 else (front - 0.4, cab + 0.7)
        corners = [(xs[0], y, 1.7), (xs[1], y, 1.7), (xs[1], y, 2.5), (xs[0], y, 2.5)]
        b.face(corners, TRUCK, Mat.GLASS, colour, (1.0, 4.0))
    b.box((rear + 0.3, -half * 0.5, 0.6), (front - 0.3, half * 0.5, 1.1), TRUCK, 0, TYRE)
    bumper = [(rear - 0.02, half, 0.55), (rear - 0.02, -half, 0.55)]
    bumper += [(rear - 0.02, -half, 1.0), (rear - 0.02, half, 1.0)]
    b.face(bumper, TRUCK, Mat.REAR, (0.08, 0.08, 0.08), (0.0, 5.0))
    axles = (rear + 1.6, rear + 2.9, rear + 4.2, cab - 0.6, front - 1.3)
    _wheels(b, TRUCK, axles, half - 0.1, 0.5)
    return b.build(), length


def bonnet(rng: np.random.Generator) -> Mesh:
    """The ego vehicle's own bonnet, unlabelled, about the camera's foot."""
    colour = CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))]
    b = MeshBuilder(1.5)
    top = rng.uniform(0.58, 0.74)
    sections = [
        (0.5, 0.85, 0.3, top),
        (1.1, 0.80, 0.3, top - 0.03),
        (1.5, 0.72, 0.3, top - 0.09),
        (1.75, 0.55, 0.3, top - 0.2),
    ]
    b.loft(sections, 255, colour, (0.0,))
    return b.build()
