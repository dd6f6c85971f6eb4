# SPDX-License-Identifier: Apache-2.0
"""People, riders, bicycles and motorcycles as posed limbs; x forward, feet on z = 0."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .mesh import Mat, Mesh, MeshBuilder

PERSON, RIDER, MOTORCYCLE, BICYCLE = 11, 12, 17, 18
SKINS = ((0.55, 0.33, 0.24), (0.45, 0.26, 0.17), (0.28, 0.15, 0.09), (0.12, 0.06, 0.04))
RUBBER, METAL = (0.025, 0.025, 0.03), (0.25, 0.25, 0.27)


class Look:
    """Colours and build of one person, fixed for its life."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.height = float(np.clip(rng.normal(1.72, 0.1), 1.35, 1.95))
        self.bulk = float(rng.uniform(0.9, 1.2))
        self.skin = SKINS[int(rng.integers(len(SKINS)))]
        self.hair = tuple(rng.uniform(0.01, 0.12, 3) * (1.0, 0.75, 0.6))
        dark = rng.random() < 0.6
        bright = rng.uniform(0.02, 0.5) * rng.uniform(0.35, 1.0, 3)
        self.top = tuple(rng.uniform(0.01, 0.07, 3) if dark else bright)
        self.trousers = tuple(rng.uniform(0.01, 0.10, 3) * (0.8, 0.9, 1.2))
        self.coat = bool(rng.random() < 0.35)
        self.skirt = bool(rng.random() < 0.12)
        self.bag = int(rng.choice([0, 0, 0, 1, 2]))
        self.bag_colour = tuple(rng.uniform(0.02, 0.4, 3))
        self.helmet = bool(rng.random() < 0.5)
        self.seed = float(rng.uniform(0, 97))


def person(look: Look, phase: float, stride: float) -> Mesh:
    """A standing (`stride` 0) or walking person; `phase` in radians of the gait."""
    b, h = MeshBuilder(look.seed), look.height
    hip, shoulder, k = 0.50 * h, 0.82 * h, look.bulk
    swing = stride * np.sin(phase)
    for side in (-1, 1):
        y, s = side * 0.055 * h * k, side * swing
        lift = 0.09 * stride * max(0.0, side * np.cos(phase))
        knee = (0.16 * s * h, y, 0.27 * h + 0.4 * lift * h)
        foot = (0.24 * s * h - 0.3 * lift * h, y, 0.04 * h + lift * h)
        b.capsule((0, y, hip), knee, 0.058 * h * k, 0.042 * h * k, PERSON, Mat.CLOTH, look.trousers)
        b.capsule(knee, foot, 0.042 * h * k, 0.03 * h, PERSON, Mat.CLOTH, look.trousers)
        toe = (foot[0] + 0.09 * h, y, 0.025 * h + lift * h * 0.8)
        b.capsule(foot, toe, 0.028 * h, 0.022 * h, PERSON, Mat.CLOTH, (0.02, 0.02, 0.02))
        arm_y = side * 0.125 * h * k
        elbow = (-0.10 * s * h, arm_y * 1.08, 0.63 * h)
        hand = (-0.16 * s * h + 0.05 * h, arm_y * 1.05, 0.50 * h)
        b.capsule((0, arm_y * 0.85, shoulder * 0.985), elbow, 0.04 * h * k, 0.033 * h, PERSON,
                  Mat.CLOTH, look.top)  # fmt: skip
        b.capsule(elbow, hand, 0.033 * h, 0.022 * h, PERSON, Mat.CLOTH, look.top)
        b.capsule(hand, hand, 0.026 * h, 0.026 * h, PERSON, Mat.CLOTH, look.skin)
    low = 0.38 * h if look.coat else 0.50 * h
    wide = 0.072 * h * k
    for y in (-0.05 * h * k, 0.0, 0.05 * h * k):
        b.capsule((0, y, low), (0.01, y * 1.25, shoulder - 0.05 * h), wide * 1.02, wide, PERSON,
                  Mat.CLOTH, look.top)  # fmt: skip
    if look.skirt:
        b.capsule((0, 0, 0.30 * h), (0, 0, 0.52 * h), 0.125 * h, 0.08 * h, PERSON, Mat.CLOTH,
                  look.trousers)  # fmt: skip
    if look.bag == 1:
        b.capsule((-0.10 * h, 0, 0.58 * h), (-0.10 * h, 0, 0.72 * h), 0.085 * h, 0.075 * h,
                  PERSON, Mat.CLOTH, look.bag_colour)  # fmt: skip
    elif look.bag == 2:
        b.capsule((0, 0.2 * h * k, 0.40 * h), (0, 0.2 * h * k, 0.45 * h), 0.07 * h, 0.06 * h,
                  PERSON, Mat.CLOTH, look.bag_colour)  # fmt: skip
    _head(b, look, (0.015 * h, 0.0, 0.93 * h), PERSON, helmet=False)
    return b.build()


def _head(
    b: MeshBuilder, look: Look, at: tuple[float, float, float], label: int, *, helmet: bool
) -> None:
    h, (x, y, z) = look.height, at
    b.capsule((x, y, z - 0.10 * h), (x, y, z), 0.032 * h, 0.03 * h, label, Mat.CLOTH, look.skin)
    b.capsule((x + 0.01, y, z - 0.02 * h), (x + 0.01, y, z + 0.015 * h), 0.045 * h, 0.05 * h, label,
              Mat.CLOTH, look.skin)  # fmt: skip
    cap, size = (look.bag_colour, 0.063) if helmet else (look.hair, 0.053)
    b.capsule((x - 0.02 * h, y, z + 0.012 * h), (x - 0.012 * h, y, z + 0.028 * h), size * 0.9 * h,
              size * h, label, Mat.CLOTH, cap)  # fmt: skip


def bicycle(rng_colour: tuple[float, float, float], turn: float, seed: float) -> Mesh:
    """A bicycle without a rider; `turn` is the crank's angle in radians."""
    b, r = MeshBuilder(seed), 0.34
    rear, front, crank = (-0.52, 0.0, r), (0.53, 0.0, r), (-0.08, 0.0, 0.29)
    seat, bar = (-0.22, 0.0, 0.92), (0.36, 0.0, 0.98)
    for cx, _, cz in (rear, front):
        ring = [(cx + r * np.cos(a), 0.0, cz + r * np.sin(a)) for a in np.arange(13) * np.pi / 6]
        for p, q in pairwise(ring):
            b.capsule(p, q, 0.026, 0.026, BICYCLE, Mat.CLOTH, RUBBER)
    head = (0.38, 0.0, 0.80)
    joints = [(crank, seat), (crank, head), (seat, head), (crank, rear), (seat, rear), (bar, front)]
    for p, q in joints:
        b.capsule(p, q, 0.021, 0.021, BICYCLE, Mat.CLOTH, rng_colour)
    b.capsule((0.38, -0.26, 1.0), (0.38, 0.26, 1.0), 0.018, 0.018, BICYCLE, Mat.CLOTH, METAL)
    b.capsule((-0.34, 0.0, 0.95), (-0.12, 0.0, 0.95), 0.06, 0.035, BICYCLE, Mat.CLOTH, RUBBER)
    for side in (-1, 1):
        pedal = _pedal(crank, turn, side)
        b.capsule(crank, pedal, 0.018, 0.022, BICYCLE, Mat.CLOTH, METAL)
    lamp = (-0.30, 0.0, 0.78)
    b.capsule(lamp, lamp, 0.03, 0.03, BICYCLE, Mat.LAMP, (0.6, 0.02, 0.02), (2.0,))
    lamp = (0.44, 0.0, 0.95)
    b.capsule(lamp, lamp, 0.03, 0.03, BICYCLE, Mat.LAMP, (0.7, 0.7, 0.7), (3.0,))
    return b.build()


def _pedal(crank: tuple[float, float, float], turn: float, side: int) -> tuple[float, float, float]:
    angle = turn + (0.0 if side > 0 else np.pi)
    return (crank[0] + 0.16 * np.cos(angle), side * 0.1, crank[2] - 0.16 * np.sin(angle))


def motorcycle(colour: tuple[float, float, float], seed: float) -> Mesh:
    """A motorcycle or scooter without a rider."""
    b = MeshBuilder(seed)
    for cx in (-0.68, 0.70):
        for r in (0.27, 0.18):
            ring = [(cx + r * np.cos(a), 0.0, 0.31 + r * np.sin(a)) for a in np.arange(9) * 0.7854]
            for p, q in pairwise(ring):
                b.capsule(p, q, 0.06, 0.06, MOTORCYCLE, Mat.CLOTH, RUBBER)
    b.capsule((-0.2, 0, 0.42), (0.22, 0, 0.45), 0.19, 0.17, MOTORCYCLE, Mat.CLOTH, METAL)
    b.capsule((0.05, 0, 0.78), (0.32, 0, 0.80), 0.15, 0.16, MOTORCYCLE, Mat.CLOTH, colour)
    b.capsule((-0.62, 0, 0.84), (-0.1, 0, 0.76), 0.10, 0.13, MOTORCYCLE, Mat.CLOTH, RUBBER)
    b.capsule((-0.8, 0, 0.72), (-0.45, 0, 0.70), 0.09, 0.13, MOTORCYCLE, Mat.CLOTH, colour)
    for y in (-0.08, 0.08):
        b.capsule((0.70, y, 0.31), (0.45, y, 0.92), 0.03, 0.03, MOTORCYCLE, Mat.CLOTH, METAL)
    b.capsule((0.42, -0.34, 1.03), (0.42, 0.34, 1.03), 0.025, 0.025, MOTORCYCLE, Mat.CLOTH, RUBBER)
    b.capsule((0.55, 0, 0.85), (0.52, 0, 1.0), 0.13, 0.1, MOTORCYCLE, Mat.CLOTH, colour)
    b.capsule(
        (0.64, 0, 0.88), (0.64, 0, 0.88), 0.09, 0.09, MOTORCYCLE, Mat.LAMP, (0.7, 0.7, 0.7), (3.0,)
    )
    b.capsule(
        (-0.9, 0, 0.75),
        (-0.9, 0, 0.75),
        0.05,
        0.05,
        MOTORCYCLE,
        Mat.LAMP,
        (0.6, 0.02, 0.02),
        (2.0,),
    )
    return b.build()


def rider(look: Look, turn: float, *, motor: bool) -> Mesh:
    """Somebody on a bicycle (`motor` False) or motorcycle, without the machine."""
    b, h, k = MeshBuilder(look.seed), min(look.height, 1.8), look.bulk
    hip = (-0.30, 0.0, 0.86) if motor else (-0.24, 0.0, 1.0)
    lean = 0.18 if motor else 0.30
    shoulder = (hip[0] + lean, 0.0, hip[2] + 0.31 * h)
    hands = (0.38, 0.28, 1.05) if motor else (0.34, 0.22, 1.03)
    for y in (-0.05 * h * k, 0.0, 0.05 * h * k):
        b.capsule((hip[0], y, hip[2]), (shoulder[0], y * 1.4, shoulder[2]), 0.078 * h * k,
                  0.07 * h * k, RIDER, Mat.CLOTH, look.top)  # fmt: skip
    for side in (-1, 1):
        if motor:
            foot = (0.02, side * 0.2, 0.36)
            knee = (0.12, side * 0.24, 0.72)
        else:
            foot = _pedal((-0.08, 0.0, 0.29), turn, side)
            foot = (foot[0], foot[1], foot[2] + 0.05)
            middle = (0.5 * (foot[0] + hip[0]), 0.5 * (foot[2] + hip[2]))
            knee = (middle[0] + 0.26, side * 0.11, middle[1] + 0.06)
        b.capsule((hip[0], side * 0.08, hip[2]), knee, 0.062 * h * k, 0.045 * h, RIDER, Mat.CLOTH,
                  look.trousers)  # fmt: skip
        b.capsule(knee, foot, 0.045 * h, 0.03 * h, RIDER, Mat.CLOTH, look.trousers)
        b.capsule(foot, (foot[0] + 0.14, foot[1], foot[2] - 0.01), 0.035, 0.03, RIDER, Mat.CLOTH,
                  (0.02, 0.02, 0.02))  # fmt: skip
        arm = (shoulder[0], side * 0.125 * h * k, shoulder[2])
        elbow = (0.5 * (arm[0] + hands[0]), side * 0.27, 0.5 * (arm[2] + hands[2]) - 0.05)
        b.capsule(arm, elbow, 0.042 * h, 0.034 * h, RIDER, Mat.CLOTH, look.top)
        b.capsule(elbow, (hands[0], side * hands[1], hands[2]), 0.034 * h, 0.026 * h, RIDER,
                  Mat.CLOTH, look.top)  # fmt: skip
    if look.bag == 1:
        pack = (hip[0] + lean * 0.5 - 0.14 * h, 0.0, hip[2] + 0.17 * h)
        b.capsule(pack, (pack[0] + 0.05, 0.0, pack[2] + 0.12 * h), 0.08 * h, 0.075 * h, RIDER,
                  Mat.CLOTH, look.bag_colour)  # fmt: skip
    at = (shoulder[0] + 0.07, 0.0, shoulder[2] + 0.12 * h)
    _head(b, look, at, RIDER, helmet=motor or look.helmet)
    return b.build()
