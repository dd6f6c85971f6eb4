# SPDX-License-Identifier: Apache-2.0
"""Colours of built surfaces: reflectance, glow and mirror share at surface coordinates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .displays import board, display, poster
from .masonry import brick, facade, roof
from .mesh import SEED, SIZE, Mat
from .noise import FBM, GRAIN, hash01, sample
from .patch import Patch, Three, paint, times


def plain(p: Patch) -> Three:
    """Paint with a little grain."""
    return times(p.colour(), 0.88 + 0.24 * sample(GRAIN, p.u * 20 + p.rows[:, SEED] * 5, p.v * 20))


def body(p: Patch) -> Three:
    """Bodywork; on a side, params 1 and 2 are where along the car it starts and which way."""
    p.mirror += 0.06
    x = p.param(1) + p.u * p.param(2)
    side = p.param(2) != 0
    seam = (np.abs(x + 0.95) < 0.012) | (np.abs(x - 0.05) < 0.012) | (np.abs(x - 1.0) < 0.012)
    handle = (np.abs(np.mod(x + 0.78, 0.98)) < 0.13) & (np.abs(p.v - 0.52) < 0.02)
    sill = side & (p.v < 0.07)
    dark = side & (seam | (handle & (np.abs(x) < 1.1)))
    return times(p.colour(), np.where(sill | dark, 0.35, 0.97) + 0.06 * sample(FBM, p.u * 12, p.v))


def glass(p: Patch) -> Three:
    """Car windows: pane 0 side, 1 windscreen, 2 rear window, 3 a van's side."""
    pane, wide, tall = p.param(0), p.rows[:, SIZE.start], p.rows[:, SIZE.start + 1]
    along = np.where(p.param(2) > 0.5, wide - p.u, p.u) / np.maximum(wide, 0.1)
    frame = (p.v < 0.04) | (p.v > tall - 0.05)
    side = pane == 0
    frame |= side & (np.abs(along - 0.52) < 0.025)
    frame |= side & (np.abs(along - 0.16) < 0.02)
    frame |= (pane == 3) & (along < 0.68)
    edge = np.minimum(p.u, wide - p.u) - p.param(3) * p.v
    frame |= ((pane == 1) | (pane == 2)) & (edge < 0.055)
    colour = [np.where(frame, c, 0.02) for c in p.colour()]
    p.mirror += np.where(frame, 0.06, 0.13)
    return colour


def front(p: Patch) -> Three:
    """A vehicle's front: headlights, grill, plate; param 0 > 1.5 is a lorry, 3 unlit."""
    fu = np.abs(p.u / p.rows[:, SIZE.start] - 0.5)
    fv = p.v / p.rows[:, SIZE.start + 1]
    lorry = p.param(0) > 1.5
    lamp = (
        (fu > 0.29)
        & (fu < 0.48)
        & np.where(lorry, (fv > 0.1) & (fv < 0.38), (fv > 0.55) & (fv < 0.93))
    )
    grill = (fu < 0.26) & (fv > 0.55) & (fv < 0.9) | (fu < 0.36) & (fv > 0.08) & (fv < 0.26)
    plate = (fu < 0.17) & (fv > 0.30) & (fv < 0.48)
    colour = paint(p.colour(), grill, (0.02, 0.02, 0.02))
    colour = paint(colour, plate, (0.6, 0.6, 0.58))
    colour = paint(colour, lamp, (0.5, 0.5, 0.5))
    p.shine(lamp, (1.0, 0.95, 0.82), 20.0 * (1.0 - p.param(3)))
    p.mirror += np.where(lamp, 0.3, 0.07)
    return colour


def rear(p: Patch) -> Three:
    """A vehicle's rear: tail lights, plate, bumper; param 3 is unlit."""
    fu = np.abs(p.u / p.rows[:, SIZE.start] - 0.5)
    fv = p.v / p.rows[:, SIZE.start + 1]
    lamp = (fu > 0.36) & (fv > 0.52) & (fv < 0.95)
    plate = (fu < 0.16) & (fv > 0.42) & (fv < 0.60)
    bumper = fv < 0.22
    colour = paint(p.colour(), bumper, (0.04, 0.04, 0.04))
    yellow = np.mod(p.rows[:, SEED], 2.0) < 1.0
    colour = paint(colour, plate, (0.6, np.where(yellow, 0.45, 0.6), np.where(yellow, 0.05, 0.58)))
    seam = np.abs(fv - 0.36) < 0.015
    colour = paint(colour, seam, (0.02, 0.02, 0.02))
    colour = paint(colour, lamp, (0.35, 0.02, 0.02))
    braking = np.where(np.mod(p.rows[:, SEED] * 3, 1.0) < 0.3, 3.0, 1.0)
    p.shine(lamp, (1.0, 0.06, 0.03), 2.6 * braking * (1.0 - p.param(3)))
    p.mirror += 0.05
    return colour


def wheel(p: Patch) -> Three:
    """Tyre and spoked rim; param 0 is the radius."""
    radius = p.param(0)
    u = p.u - radius * np.float32(np.sin(np.pi / 12))
    v = p.v - radius * np.float32(np.cos(np.pi / 12))
    r = np.hypot(u, v) / radius
    spoke = np.cos(np.arctan2(v, u) * (5 + np.floor(np.mod(p.rows[:, SEED], 3)))) > -0.2
    rim = (r < 0.64) & (spoke | (r < 0.2) | (r > 0.55))
    return paint([np.where(r < 0.64, 0.03, c) for c in p.colour()], rim, (0.30, 0.30, 0.31))


def foliage(p: Patch) -> Three:
    """Leaves in clumps, lighter towards the top of each ball."""
    seed = p.rows[:, SEED]
    clump = sample(FBM, p.u * 22 + seed * 41, p.v * 22)
    leaf = sample(GRAIN, p.u * 55 + seed * 13, p.v * 55)
    tone = (0.25 + 0.95 * clump) * (0.55 + 0.9 * leaf) * (0.85 + 0.35 * p.side)
    return [
        c * tone * (1.0 + k * (leaf - 0.5))
        for c, k in zip(p.colour(), (0.3, 0.0, -0.2), strict=True)
    ]


def bark(p: Patch) -> Three:
    """Bark with upright furrows."""
    return times(p.colour(), 0.6 + 0.8 * sample(GRAIN, p.u * 60, p.v * 12 + p.rows[:, SEED] * 3))


def cloth(p: Patch) -> Three:
    """Cloth, skin and painted tubes."""
    fold = sample(FBM, p.u * 60 + p.rows[:, SEED] * 17, p.v * 35)
    return times(p.colour(), 0.75 + 0.5 * fold)


def sign(p: Patch) -> Three:
    """A traffic sign: 0 ring, 1 triangle, 2 and 4 blue, 3 direction board."""
    kind, size = np.round(p.param(0)), p.param(1)
    u = np.where(kind == 1, p.u - 0.866 * size, p.u - size * np.sin(np.pi / 14))
    v = np.where(kind == 1, p.v - 0.5 * size, p.v - size * np.cos(np.pi / 14))
    board = (kind == 2) | (kind == 3)
    wide, tall = p.rows[:, SIZE.start], p.rows[:, SIZE.start + 1]
    u, v = np.where(board, p.u - wide / 2, u) / size, np.where(board, p.v - tall / 2, v) / size
    r = np.hypot(u, v)
    inset = np.minimum(np.minimum(v + 0.5, 0.5 - 0.5 * v - 0.866 * u), 0.5 - 0.5 * v + 0.866 * u)
    edge = np.where(kind == 1, inset < 0.13, r > 0.78)
    glyph = sample(FBM, u * 9 + p.rows[:, SEED] * 29, v * 9) > 0.62
    seed = np.mod(p.rows[:, SEED] * 7, 1.0)
    white = [np.full_like(u, 0.7) for _ in range(3)]
    ring = paint(white, edge, (0.5, 0.02, 0.02))
    ring = paint(ring, glyph & ~edge & (r < 0.55), (0.02, 0.02, 0.02))
    stop = [np.where(glyph & (np.abs(v) < 0.25), 0.7, c) for c in (0.5, 0.02, 0.02)]
    colour = [np.where((kind == 0) & (seed < 0.25), s, c) for s, c in zip(stop, ring, strict=True)]
    blue = [np.where(glyph & (r < 0.7), 0.75, c) for c in (0.01, 0.06, 0.35)]
    colour = paint(colour, (kind == 4) | (kind == 2), blue)
    text = glyph & (np.mod(v * 4, 1.0) < 0.6) & (np.abs(u) < 0.85)
    back = [np.where(seed < 0.4, a, np.where(seed < 0.7, b, 0.7)) for a, b in
            ((0.01, 0.0), (0.05, 0.14), (0.3, 0.06))]  # fmt: skip
    ink = np.where(seed < 0.7, 0.75, 0.02)
    colour = paint(colour, kind == 3, [np.where(text, ink, c) for c in back])
    p.mirror += 0.02
    return colour


def signal(p: Patch) -> Three:
    """Three lenses, one lit; param 0 is 0 red, 1 amber, 2 green."""
    tall = p.rows[:, SIZE.start + 1]
    third = np.floor(np.clip(p.v / tall, 0, 0.999) * 3)
    u = p.u - p.rows[:, SIZE.start] / 2
    v = p.v - (third + 0.5) * tall / 3
    lens = np.hypot(u, v) < 0.125
    on = lens & (third == 2.0 - p.param(0))
    colour = paint(p.colour(), lens, (0.05, 0.05, 0.05))
    for level, rgb in ((0, (0.08, 1.0, 0.5)), (1, (1.0, 0.55, 0.05)), (2, (1.0, 0.07, 0.04))):
        colour = paint(colour, on & (third == level), rgb)
        p.shine(on & (third == level), rgb, 5.0)
    return colour


def lamp(p: Patch) -> Three:
    """Light sources: param 0 is 1 street lamp, 2 tail light, 3 headlight."""
    kind = p.param(0)
    p.shine(kind == 1, (1.0, 0.8, 0.5), 22.0)
    p.shine(kind == 2, (1.0, 0.05, 0.03), 4.0)
    p.shine(kind == 3, (1.0, 0.95, 0.85), 12.0)
    return p.colour()


def bus(p: Patch) -> Three:
    """Bus and tram bodies: window bands, doors, route board, lights."""
    double, face, tall = p.param(0) > 0.5, np.round(p.param(1)), p.param(2) - 0.3
    wide = p.rows[:, SIZE.start]
    side, nose = face == 0, face == 1
    low = (p.v > np.where(nose, 0.6, 0.85)) & (p.v < np.where(double, 1.85, tall - 0.55))
    high = double & (p.v > tall - 1.35) & (p.v < tall - 0.4)
    margin = np.minimum(p.u, wide - p.u)
    pillar = side & (np.mod(p.u, 1.45) < 0.10)
    window = (low | high) & (margin > 0.12) & ~pillar & ((face != 2) | (p.v > tall * 0.5))
    door = side & (np.mod(p.u, 6.5) > 5.2) & (p.v > 0.1) & (p.v < 2.0)
    pane = np.where(np.mod(p.u, 0.65) < 0.07, 0.05, 0.02)
    stripe = side & (p.v < 0.5) & (np.mod(p.rows[:, SEED], 3.0) < 1.5)
    colour = paint(p.colour(), stripe, (0.6, 0.6, 0.58))
    colour = paint(colour, window | door, (pane, pane, pane))
    route = (nose | (face == 2)) & (p.v > tall - 0.38) & (p.v < tall - 0.1) & (margin > 0.4)
    text = route & (sample(FBM, p.u * 40, np.floor(p.v * 8)) > 0.55)
    colour = paint(colour, route, (np.where(text, 0.7, 0.01), np.where(text, 0.4, 0.01), 0.01))
    lamps = (face > 0) & (margin < 0.42) & (margin > 0.1) & (p.v > 0.18) & (p.v < 0.42)
    colour = paint(
        colour,
        lamps,
        (np.where(nose, 0.6, 0.4), np.where(nose, 0.6, 0.02), np.where(nose, 0.6, 0.02)),
    )
    p.shine(lamps & nose, (1.0, 0.95, 0.8), 22.0)
    p.shine(lamps & (face == 2), (1.0, 0.06, 0.03), 3.0)
    inside = 0.35 + 0.65 * sample(FBM, p.u * 25 + p.rows[:, SEED] * 3, p.v * 25)
    p.shine(window & side, (0.9, 0.88, 0.78), 0.12 * inside)
    p.shine(text, (1.0, 0.5, 0.05), 1.0)
    p.mirror += np.where(window, 0.25, 0.07)
    return colour


def panel(p: Patch) -> Three:
    """A lorry's box or a shop's board with pseudo lettering."""
    seed, tall = p.rows[:, SEED], np.maximum(p.rows[:, SIZE.start + 1], 0.1)
    ink = [hash01(seed * 0, seed * 0 + c, seed) * 0.6 for c in (1, 2, 3)]
    fv = p.v / tall
    letters = (
        (fv > 0.4) & (fv < 0.75) & (sample(FBM, p.u * 14 + seed * 9, np.floor(p.v * 2)) > 0.55)
    )
    band = (fv < 0.2) & (np.mod(seed, 2.0) < 1.0)
    ribs = 1.0 - 0.08 * (np.mod(p.u, 0.5) < 0.04)
    return times(
        paint(p.colour(), letters | band, ink), ribs * (0.9 + 0.2 * sample(FBM, p.u * 9, p.v * 9))
    )


def fence(p: Patch) -> Three:
    """Upright wooden boards."""
    board = hash01(np.floor(p.u / 0.14), np.zeros_like(p.u), p.rows[:, SEED])
    gap = np.mod(p.u, 0.14) < 0.012
    grain = sample(GRAIN, p.u * 90, p.v * 9)
    return times(p.colour(), (0.7 + 0.4 * board) * (0.8 + 0.4 * grain) * np.where(gap, 0.35, 1.0))


PAINTERS: dict[int, Callable[[Patch], Three]] = {
    Mat.PLAIN: plain, Mat.FACADE: facade, Mat.ROOF: roof, Mat.BODY: body, Mat.GLASS: glass,
    Mat.FRONT: front, Mat.REAR: rear, Mat.WHEEL: wheel, Mat.BRICK: brick, Mat.FOLIAGE: foliage,
    Mat.BARK: bark, Mat.SIGN: sign, Mat.SIGNAL: signal, Mat.LAMP: lamp, Mat.BUS: bus,
    Mat.PANEL: panel, Mat.FENCE: fence, Mat.CLOTH: cloth, Mat.BARE: bark,
    Mat.DISPLAY: display, Mat.BOARD: board, Mat.POSTER: poster,
}  # fmt: skip
