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
