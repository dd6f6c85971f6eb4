# SPDX-License-Identifier: Apache-2.0
"""Houses, blocks and walls about their front's right-hand corner.

Local frame: x along the street, y away from it, z up; the front is the face y = 0, seen from
y < 0. `world.py` turns it to its side of the road.
"""

from __future__ import annotations

import numpy as np

from .mesh import BARS, Mat, Mesh, MeshBuilder

BUILDING, WALL, FENCE = 2, 3, 4

BRICKS = ((0.28, 0.10, 0.06), (0.36, 0.17, 0.09), (0.42, 0.30, 0.18), (0.22, 0.10, 0.08))
BRICKS += ((0.46, 0.38, 0.25), (0.30, 0.22, 0.16))
PLASTERS = ((0.75, 0.74, 0.70), (0.66, 0.60, 0.48), (0.60, 0.45, 0.33), (0.55, 0.58, 0.60))
PLASTERS += ((0.70, 0.55, 0.45), (0.42, 0.47, 0.38), (0.72, 0.66, 0.42), (0.48, 0.30, 0.24))
STONES = ((0.45, 0.42, 0.36), (0.30, 0.29, 0.27), (0.55, 0.50, 0.40), (0.20, 0.19, 0.18))
ROOFS = ((0.10, 0.10, 0.12), (0.16, 0.08, 0.06), (0.26, 0.11, 0.06), (0.13, 0.11, 0.10))

# Facade params: floor height, bay width, style code, ground floor kind.
# style = texture (0 brick, 1 plaster, 2 stone, 3 boards) + 4 * window, window being
# (0 sash, 1 wide, 2 ribbon, 3 glass).
HOUSE, SHOP, BLANK = 0.0, 1.0, 2.0


def wall_colour(rng: np.random.Generator, texture: int) -> tuple[float, float, float]:
    """A wall colour of the texture's palette, varied."""
    palette = (BRICKS, PLASTERS, STONES, PLASTERS)[texture]
    base = np.array(palette[int(rng.integers(len(palette)))])
    return tuple(np.clip(base * rng.uniform(0.22, 0.95) * rng.uniform(0.94, 1.06, 3), 0.02, 0.9))


def building(
    rng: np.random.Generator, width: float, depth: float, kind: str, ground: float
) -> Mesh:
    """A building of `kind` "terrace", "house", "block", "glass" or "hall"."""
    b = MeshBuilder(float(rng.uniform(0, 97)))
    texture = int(rng.choice([0, 0, 0, 1, 1, 1, 2, 2, 3])) if kind != "glass" else 2
    floors = {"terrace": (2, 5), "house": (2, 3), "block": (3, 8), "glass": (3, 9), "hall": (1, 3)}
    low, high = floors[kind]
    count = int(rng.integers(low, high))
    storey = rng.uniform(2.7, 3.5)
    window = {"glass": 3, "block": int(rng.choice([0, 1, 1, 2])), "hall": 2}.get(kind, 0)
    if kind in ("terrace", "house") and rng.random() < 0.25:
        window = 1
    bay = rng.uniform(1.7, 2.9) if window != 1 else rng.uniform(2.4, 3.8)
    bay = width / max(1, round(width / bay))
    height = storey * count + (rng.uniform(0.6, 1.0) if ground == SHOP else 0.3)
    colour = wall_colour(rng, texture)
    params = (storey, bay, texture + 4.0 * window, ground)
    roof = ROOFS[int(rng.integers(len(ROOFS)))]
    pitched = kind in ("terrace", "house") and rng.random() < 0.75
    ring = [(0.0, 0.0), (width, 0.0), (width, depth), (0.0, depth)]
    for i, (a, c) in enumerate(zip(ring, ring[1:] + ring[:1], strict=True)):
        corners = [(*a, 0.0), (*c, 0.0), (*c, height), (*a, height)]
        side = params if i == 0 else (storey, bay * 1.4, params[2], BLANK)
        b.face(corners, BUILDING, Mat.FACADE, colour, side)
    _extras(b, rng, kind, width, storey, count, bay, ground)
    if not pitched:
        rim = rng.uniform(0.05, 0.25)
        b.box((-rim, -rim, height), (width + rim, depth, height + rng.uniform(0.3, 0.9)),
              BUILDING, Mat.PLAIN, tuple(np.array(colour) * 0.85), top=Mat.ROOF,
              bottom=True)  # fmt: skip
        if kind == "block" and rng.random() < 0.5:
            x = rng.uniform(0.1, 0.6) * width
            b.box((x, 2.0, height), (x + 3.0, 5.0, height + 2.8), BUILDING, Mat.PLAIN, (0.3,) * 3)
        return b.build()
    eaves, rise, edge = 0.35, rng.uniform(0.30, 0.5) * depth, height
    if rng.random() < 0.8 or kind == "terrace":  # ridge along the street
        ridge, dip = edge + rise, eaves * 2 * rise / depth
        front = [(0, -eaves, edge - dip), (width, -eaves, edge - dip)]
        front += [(width, depth / 2, ridge), (0, depth / 2, ridge)]
        back = [(width, depth + eaves, edge - dip), (0, depth + eaves, edge - dip)]
        back += [(0, depth / 2, ridge), (width, depth / 2, ridge)]
        for plane in (front, back):
            b.face(plane, BUILDING, Mat.ROOF, roof)
        for gable in ([(width, 0, edge), (width, depth, edge), (width, depth / 2, ridge)],
                      [(0, depth, edge), (0, 0, edge), (0, depth / 2, ridge)]):  # fmt: skip
            b.face(gable, BUILDING, Mat.BRICK, colour, (float(texture),))
        low = edge - dip
        under = [(0, -eaves, low), (0, 0, low), (width, 0, low), (width, -eaves, low)]
        b.face(under, BUILDING, Mat.PLAIN, (0.5, 0.5, 0.5))
        gutter = (0, -0.12, low - 0.14), (width, 0.0, low)
        b.box(*gutter, BUILDING, Mat.PLAIN, (0.55, 0.55, 0.53))
    else:  # gable to the street
        ridge = edge + rise * width / depth
        near = [(0, 0, edge), (width, 0, edge), (width / 2, 0, ridge)]
        far = [(width, depth, edge), (0, depth, edge), (width / 2, depth, ridge)]
        for gable in (near, far):
            b.face(gable, BUILDING, Mat.BRICK, colour, (float(texture),))
        right = [(width, 0, edge), (width, depth, edge), (width / 2, depth, ridge)]
        left = [(0, depth, edge), (0, 0, edge), (width / 2, 0, ridge)]
        b.face([*right, (width / 2, 0, ridge)], BUILDING, Mat.ROOF, roof)
        b.face([*left, (width / 2, depth, ridge)], BUILDING, Mat.ROOF, roof)
    for x in rng.uniform(0.1, 0.9, int(rng.integers(0, 3))) * width:
        y = depth * rng.uniform(0.4, 0.6)
        top = edge + rise + rng.uniform(0.5, 1.3)
        b.box((x - 0.4, y - 0.35, edge), (x + 0.4, y + 0.35, top), BUILDING, Mat.BRICK, BRICKS[0])
    if kind == "house" and rng.random() < 0.6 and width > 6:
        x, wide = rng.uniform(0.6, width - 3.2), 2.6
        b.box((x, -0.8, 0.0), (x + wide, 0.05, storey * min(count, 2)), BUILDING, Mat.FACADE,
              colour, (storey, 1.3, params[2], HOUSE), top=Mat.ROOF)  # fmt: skip
    return b.build()


def _extras(
    b: MeshBuilder, rng: np.random.Generator, kind: str, width: float, storey: float, count: int,
    bay: float, ground: float,
) -> None:  # fmt: skip
    """What stands out from a front: balconies, awnings, drainpipes."""
    bays = max(1, round(width / bay))
    if kind == "block" and rng.random() < 0.4:
        colour = tuple(np.full(3, rng.uniform(0.1, 0.5)))
        out = rng.uniform(0.8, 1.4)
        columns = [i for i in range(bays) if rng.random() < 0.5]
        for level in range(1, count):
            z = level * storey
            for i in columns:
                x = i * bay
                b.box((x + 0.1, -out, z), (x + bay - 0.1, 0.0, z + 0.15), BUILDING, Mat.PLAIN,
                      colour, bottom=True)  # fmt: skip
                rail = [(x + 0.1, -out, z), (x + bay - 0.1, -out, z)]
                rail += [(x + bay - 0.1, -out, z + 1.0), (x + 0.1, -out, z + 1.0)]
                b.face(rail, BUILDING, Mat.PLAIN, (0.1, 0.1, 0.1), (0.13,), alpha=BARS,
                       two_sided=True)  # fmt: skip
    if ground == SHOP and rng.random() < 0.35:
        colour, out = tuple(rng.uniform(0.02, 0.5, 3)), rng.uniform(0.7, 1.5)
        low, top = 2.35, 2.35 + out * 0.45
        x0, x1 = 0.3, max(width - 0.3, 1.0)
        sheet = [(x0, -out, low), (x1, -out, low), (x1, 0.0, top), (x0, 0.0, top)]
        b.face(sheet, BUILDING, Mat.FENCE, colour, two_sided=True)
        hem = [(x0, -out, low - 0.25), (x1, -out, low - 0.25), (x1, -out, low), (x0, -out, low)]
        b.face(hem, BUILDING, Mat.PLAIN, colour, two_sided=True)
    if kind in ("terrace", "house") and rng.random() < 0.7:
        x = float(rng.choice([0.15, width - 0.15]))
        top = storey * count
        b.capsule((x, -0.06, 0), (x, -0.06, top), 0.05, 0.05, BUILDING, Mat.CLOTH, (0.03,) * 3)


def wall(rng: np.random.Generator, length: float) -> Mesh:
    """A free-standing garden wall or an iron railing on a plinth, or a board fence."""
    b = MeshBuilder(float(rng.uniform(0, 97)))
    kind = rng.random()
    if kind < 0.45:
        texture = int(rng.choice([0, 0, 1, 2]))
        height, colour = rng.uniform(0.6, 2.3), wall_colour(rng, texture)
        b.box((0, 0, 0), (length, 0.3, height), WALL, Mat.BRICK, colour, (float(texture),))
        b.box((-0.03, -0.04, height), (length + 0.03, 0.34, height + 0.07), WALL, Mat.PLAIN,
              (0.4, 0.39, 0.36), bottom=True)  # fmt: skip
        return b.build()
    if kind < 0.8:
        plinth = rng.uniform(0.0, 0.6) * (rng.random() < 0.5)
        if plinth > 0:
            b.box((0, 0, 0), (length, 0.3, plinth), WALL, Mat.BRICK, wall_colour(rng, 0), (0.0,))
        top = plinth + rng.uniform(0.9, 1.5)
        colour = (0.02, 0.02, 0.02) if rng.random() < 0.7 else (0.4, 0.41, 0.42)
        corners = [(0, 0.1, plinth), (length, 0.1, plinth), (length, 0.1, top), (0, 0.1, top)]
        pitch = rng.uniform(0.10, 0.16)
        b.face(corners, FENCE, Mat.PLAIN, colour, (pitch,), alpha=BARS, two_sided=True)
        return b.build()
    height = rng.uniform(1.1, 1.9)
    colour = np.array((0.22, 0.14, 0.08)) * rng.uniform(0.5, 1.6)
    b.box((0, 0, 0), (length, 0.06, height), FENCE, Mat.FENCE, tuple(colour))
    return b.build()
