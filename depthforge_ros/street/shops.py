# SPDX-License-Identifier: Apache-2.0
"""Shop displays, boards, posters and doorways on a front; all of them are building.

Local frame as in `buildings.py`: the front is y = 0, seen from y < 0.
"""

from __future__ import annotations

import numpy as np

from .mesh import MATERIAL, NORMAL, ORIGIN, PARAMS, SIZE, U_AXIS, Mat, Mesh, MeshBuilder

BUILDING = 2
SATURATED = ((0.55, 0.02, 0.03), (0.02, 0.10, 0.55), (0.02, 0.35, 0.08), (0.65, 0.42, 0.02))
SATURATED += ((0.60, 0.16, 0.02), (0.35, 0.02, 0.30), (0.02, 0.32, 0.42), (0.70, 0.70, 0.68))
SATURATED += ((0.02, 0.02, 0.02), (0.60, 0.02, 0.22), (0.01, 0.03, 0.18), (0.70, 0.60, 0.05))
LETTERS, RING, CROSS, STRIPES, PICTOGRAM = 0.0, 1.0, 2.0, 3.0, 4.0


def dress(rng: np.random.Generator, width: float, height: float) -> Mesh:
    """Displays for a front of `width` x `height` metres."""
    b = MeshBuilder(float(rng.uniform(0, 97)))
    top = min(rng.uniform(2.5, 3.4), max(height - 0.9, 1.8))
    open_late = rng.random() < 0.75
    power = float(np.exp(rng.uniform(np.log(0.2), np.log(3.5)))) if open_late else 0.0
    tone = float(rng.integers(3))
    back = np.array((0.8, 0.76, 0.68)) * rng.uniform(0.15, 1.0)
    if rng.random() < 0.25:
        back = np.array(_pick(rng)) * 0.8
    pillar = tuple(np.full(3, rng.uniform(0.02, 0.45)) * rng.uniform(0.9, 1.1, 3))
    _front(b, 0.0, width, 0.0, top + 0.05, -0.02, Mat.PLAIN, pillar)
    x = float(rng.uniform(0.1, 0.5))
    typical = rng.uniform(1.6, 5.0)
    while x < width - 0.9:
        b.seed = float(rng.uniform(0, 97))
        if rng.random() < 0.2:
            wide = min(float(rng.uniform(0.9, 1.8)), width - x - 0.1)
            _doorway(b, rng, x, wide, min(2.3, top - 0.1), power, tone)
        else:
            wide = min(float(typical * rng.uniform(0.7, 1.3)), width - x - 0.1)
            low = float(rng.choice([0.05, 0.3, 0.6]))
            own = power * rng.uniform(0.6, 1.2) if rng.random() < 0.9 else 0.0
            _front(b, x, x + wide, low, top, -0.04, Mat.DISPLAY, tuple(back), (own, tone, low))
        x += wide + float(rng.choice([0.12, 0.3, 0.7]))
    _boards(b, rng, width, height, top, open_late)
    _posters(b, rng, width, height, top)
    return b.build()


def spill(front: Mesh) -> list[tuple[float, float, float, float]]:
    """Light that lit displays throw on the pavement: x, y, height and strength of each."""
    lit = front.faces[
        (front.faces[:, MATERIAL] == Mat.DISPLAY) & (front.faces[:, PARAMS.start] > 0)
    ]
    wide = lit[:, SIZE.start, None]
    at = lit[:, ORIGIN] + lit[:, U_AXIS] * wide / 2 + lit[:, NORMAL] * 1.2  # [n, 3]
    strength = 0.5 * lit[:, PARAMS.start] * np.minimum(wide[:, 0] / 3, 1.5)
    return [(float(x), float(y), 2.0, float(k)) for (x, y, _), k in zip(at, strength, strict=True)]


def _pick(rng: np.random.Generator) -> tuple[float, float, float]:
    return SATURATED[int(rng.integers(len(SATURATED)))]


def _front(
    b: MeshBuilder, x0: float, x1: float, z0: float, z1: float, y: float, mat: Mat,
    colour: tuple[float, ...], params: tuple[float, ...] = (),
) -> None:  # fmt: skip
    corners = [(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)]
    b.face(corners, BUILDING, mat, colour, params)


def _doorway(
    b: MeshBuilder, rng: np.random.Generator, x: float, wide: float, top: float, power: float,
    tone: float,
) -> None:  # fmt: skip
    """An open door: dark inside, or the lit shop."""
    if rng.random() < 0.65:
        dark = tuple(np.full(3, rng.uniform(0.004, 0.03)))
        _front(b, x, x + wide, 0.0, top, -0.04, Mat.PLAIN, dark)
    else:
        _front(b, x, x + wide, 0.0, top, -0.04, Mat.DISPLAY, (0.4, 0.36, 0.3), (power, tone, 0.0))
    frame = tuple(np.full(3, rng.uniform(0.02, 0.5)))
    _front(b, x - 0.08, x, 0.0, top + 0.08, -0.06, Mat.PLAIN, frame)
    _front(b, x + wide, x + wide + 0.08, 0.0, top + 0.08, -0.06, Mat.PLAIN, frame)


def _boards(
    b: MeshBuilder, rng: np.random.Generator, width: float, height: float, top: float, late: bool
) -> None:  # fmt: skip
    """The fascia above the windows, a canopy, and blade signs that stick out."""
    b.seed = float(rng.uniform(0, 97))
    colour, tall = _pick(rng), float(rng.uniform(0.45, 0.9))
    glow = float(rng.uniform(0.3, 2.5)) if late and rng.random() < 0.7 else 0.0
    whole = float(rng.random() < 0.4)
    if rng.random() < 0.85 and top + tall < height:
        x0 = 0.05 if rng.random() < 0.6 else float(rng.uniform(0.05, 0.4) * width)
        b.box((x0, -0.18, top + 0.06), (width - 0.05, 0.0, top + 0.06 + tall), BUILDING,
              Mat.BOARD, colour, (glow, LETTERS, whole), bottom=True)  # fmt: skip
    if rng.random() < 0.2:
        out, low = rng.uniform(0.9, 1.8), top + 0.02
        b.box((0.0, -out, low), (width, 0.0, low + 0.22), BUILDING, Mat.PLAIN,
              tuple(np.full(3, rng.uniform(0.03, 0.5))), bottom=True)  # fmt: skip
    for _ in range(int(rng.choice([0, 1, 1, 2, 3]))):
        b.seed = float(rng.uniform(0, 97))
        colour, kind = _pick(rng), float(rng.choice([LETTERS, RING, CROSS, STRIPES, PICTOGRAM]))
        if kind == CROSS:
            colour = (0.01, 0.30, 0.05) if rng.random() < 0.7 else (0.6, 0.02, 0.02)
        x, z = rng.uniform(0.3, max(width - 0.3, 0.4)), rng.uniform(2.6, 4.4)
        wide = float(rng.uniform(0.45, 1.0))
        tall = wide * float(rng.choice([0.7, 1.0, 1.0, 2.5, 4.0]) if kind != CROSS else 1.0)
        z = min(z, max(height - tall - 0.2, 2.2))
        glow = float(rng.uniform(0.4, 3.0)) if late and rng.random() < 0.75 else 0.0
        params = (glow, kind, float(rng.random() < 0.6))
        if kind == RING:
            _disc(b, float(x), -0.15 - wide / 2, float(z) + wide / 2, wide / 2, colour, params)
        else:
            b.box((x - 0.07, -0.15 - wide, z), (x + 0.07, -0.15, z + tall), BUILDING, Mat.BOARD,
                  colour, params, bottom=True)  # fmt: skip
        b.box((x - 0.03, -0.15, z + 0.2), (x + 0.03, 0.0, z + 0.26), BUILDING, Mat.PLAIN,
              (0.03,) * 3, bottom=True)  # fmt: skip


def _disc(
    b: MeshBuilder, x: float, y: float, z: float, radius: float,
    colour: tuple[float, ...], params: tuple[float, ...],
) -> None:  # fmt: skip
    """A round sign seen along the street from both ends."""
    angle = np.arange(14) * (2 * np.pi / 14) - np.pi / 2 - np.pi / 14
    for turn in (1, -1):
        ring = [
            (x + 0.05 * turn, y + turn * float(radius * np.cos(a)), z + float(radius * np.sin(a)))
            for a in angle
        ]
        b.face(ring, BUILDING, Mat.BOARD, colour, params)


def _posters(
    b: MeshBuilder, rng: np.random.Generator, width: float, height: float, top: float
) -> None:
    """Posters on piers and upper floors, and banners across the pavement."""
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        b.seed = float(rng.uniform(0, 97))
        wide = float(rng.uniform(0.8, 3.2))
        tall = wide * float(rng.choice([0.6, 1.4, 2.2]))
        low = float(rng.uniform(top + 1.0, max(height - tall, top + 1.1)))
        if wide > width - 0.6 or low + tall > height:
            continue
        x = float(rng.uniform(0.2, width - wide - 0.2))
        glow = float(rng.uniform(0.3, 1.8)) if rng.random() < 0.4 else 0.0
        _front(b, x, x + wide, low, low + tall, -0.08, Mat.POSTER, _pick(rng), (glow,))
    for _ in range(int(rng.choice([0, 1, 2]))):
        b.seed = float(rng.uniform(0, 97))
        x, low = float(rng.uniform(0.1, max(width - 1.2, 0.2))), float(rng.uniform(0.5, 1.1))
        glow = float(rng.uniform(0.3, 1.5)) if rng.random() < 0.4 else 0.0
        tall = float(rng.uniform(0.8, 1.7))
        _front(b, x, x + tall * 0.68, low, low + tall, -0.07, Mat.POSTER, _pick(rng), (glow,))
    if rng.random() < 0.2 and height > top + 3.0:
        b.seed = float(rng.uniform(0, 97))
        wide, tall = float(rng.uniform(0.7, 1.2)), float(rng.uniform(1.2, 3.0))
        x, low = float(rng.uniform(0.3, width - 0.3)), top + 1.0
        sheet = [(x, -0.1 - wide, low), (x, -0.1, low), (x, -0.1, low + tall)]
        sheet.append((x, -0.1 - wide, low + tall))
        b.face(sheet, BUILDING, Mat.POSTER, _pick(rng), two_sided=True)
