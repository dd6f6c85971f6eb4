# SPDX-License-Identifier: Apache-2.0
"""Colours of built surfaces: reflectance, glow and mirror share at surface coordinates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .mesh import COLOUR, PARAMS, SEED, SIZE, Mat
from .noise import FBM, GRAIN, hash01, sample

Three = list[np.ndarray]


@dataclass
class Patch:
    """The pixels of one material.

    `u`, `v` are metres along the surface (for foliage: along the world), `rows` the attribute rows
    (float32), `step` the width of a pixel on the surface in metres, `side` the roundness
    coordinate. `glow` and `mirror` are outputs, zero unless a material sets them.
    """

    u: np.ndarray
    v: np.ndarray
    rows: np.ndarray
    step: np.ndarray
    side: np.ndarray
    glow: Three
    mirror: np.ndarray

    def colour(self) -> Three:
        """The primitive's own colour as three arrays."""
        return [self.rows[:, COLOUR.start + c] for c in range(3)]

    def param(self, i: int) -> np.ndarray:
        return self.rows[:, PARAMS.start + i]

    def shine(self, where: np.ndarray, rgb: Sequence[float], power: np.ndarray | float) -> None:
        """Add glow of colour `rgb` where a mask (or weight) says."""
        weight = where * power
        for c in range(3):
            self.glow[c] += weight * np.float32(rgb[c])


def times(colour: Three, tone: np.ndarray) -> Three:
    return [c * tone for c in colour]


def paint(base: Three, where: np.ndarray, rgb: Sequence[np.ndarray | float]) -> Three:
    """`base` with another colour laid over where a mask says."""
    return [np.where(where, top, low) for low, top in zip(base, rgb, strict=True)]


def masonry(p: Patch, texture: np.ndarray, colour: Three) -> Three:
    """Brick (0), plaster (1) or stone (2) relief on a wall colour, fading with distance."""
    seed = p.rows[:, SEED]
    fine = np.clip(1.4 - p.step * 22, 0.0, 1.0)
    tall = np.where(texture == 0, 0.075, 0.32).astype(np.float32)
    wide = np.where(texture == 0, 0.225, 0.62).astype(np.float32)
    row = np.floor(p.v / tall)
    along = p.u / wide + 0.5 * np.mod(row, 2.0)
    block = hash01(np.floor(along), row, seed) - 0.5
    joint = (np.mod(along, 1.0) < 0.012 / wide * 2) | (np.mod(p.v, tall) < 0.012)
    relief = np.where(texture == 1, 0.0, 0.45 * block * fine)
    relief = relief - np.where((texture != 1) & joint, 0.18 * fine, 0.0)
    grain = (sample(GRAIN, p.u * 30 + seed * 7, p.v * 30) - 0.5) * 0.22 * fine
    stain = sample(FBM, p.u * 5 + seed * 31, p.v * 3.2) - 0.5
    return times(colour, 1.0 + relief + grain + 0.30 * stain)


def facade(p: Patch) -> Three:
    seed, storey, bay = p.rows[:, SEED], p.param(0), p.param(1)
    style, ground = p.param(2), p.param(3)
    texture, window = np.mod(style, 4.0), np.floor(style / 4.0)
    column, level = np.floor(p.u / bay), np.floor(p.v / storey)
    fu, fv = p.u / bay - column, p.v / storey - level
    colour = masonry(p, texture, p.colour())
    trim = hash01(np.zeros_like(seed), np.ones_like(seed), seed)
    light_trim = [np.float32(c) * (0.35 + 0.65 * trim) for c in (0.62, 0.60, 0.56)]
    course = (fv < 0.07) & (texture > 0) & (trim > 0.4) & (level > 0)
    colour = paint(colour, course, light_trim)
    pick = hash01(column, level, seed)
    kind = window.astype(np.int64)
    left = np.array((0.27, 0.14, 0.03, 0.03), np.float32)[kind]
    low = np.array((0.26, 0.30, 0.36, 0.05), np.float32)[kind]
    top = np.array((0.80, 0.82, 0.84, 0.95), np.float32)[kind]
    across, above = np.abs(fu - 0.5), fv
    has = (level + 0.92) * storey < p.rows[:, SIZE.start + 1]
    has &= (ground != 2.0) | (pick < 0.35)
    street = level == 0
    shop = street & (ground == 1.0)
    left = np.where(shop, 0.05, left)
    low, top = np.where(shop, 0.15, low), np.where(shop, 0.74, top)
    door = street & (ground == 0.0) & (hash01(column, level, seed + 3) < 0.3) & (window < 3)
    inside = has & (across < 0.5 - left) & (above > low) & (above < top) & ~door
    rim_u, rim_v = 0.055 / bay, 0.06 / storey
    glass = inside & (across < 0.5 - left - rim_u) & (above > low + rim_v) & (above < top - rim_v)
    bars = (window == 0) & ~shop & (trim > 0.25)
    glass &= ~(bars & ((across < 0.02) | (np.abs(above - (low + top) / 2) < 0.014)))
    many = (window == 2) | (window == 3) | shop
    glass &= ~(many & (np.abs(np.mod(fu * 3 + 0.5, 1.0) - 0.5) < 0.025))
    dark_frame = hash01(np.ones_like(seed), np.ones_like(seed), seed + 1) < 0.35
    frame = [np.where(dark_frame | shop, 0.04, c) for c in light_trim]
    colour = paint(colour, inside, frame)
    sill = (
        has & ~shop & (window < 2) & (across < 0.53 - left) & (above <= low) & (above > low - 0.05)
    )
    colour = paint(colour, sill | (door & (across < 0.24) & (above < 0.78)), light_trim)
    doors = door & (across < 0.19) & (above < 0.70)
    tint = [hash01(column, np.full_like(column, c), seed + 5) ** 2 * 0.4 + 0.015 for c in (1, 2, 3)]
    colour = paint(colour, doors, tint)
    curtain = (hash01(column, level, seed + 9) < 0.4) & (above < low + (top - low) * pick) & ~shop
    pane = [np.where(curtain, c, 0.015 + 0.03 * pick) for c in (0.28, 0.27, 0.25)]
    goods = shop * 0.30 * (sample(FBM, p.u * 28, p.v * 28 + seed * 9) ** 2)
    colour = paint(
        colour, glass, [c + goods * k for c, k in zip(pane, (1, 0.9, 0.75), strict=True)]
    )
    fascia = shop & (above > 0.78) & (above < 0.97)
    banner = np.floor(p.u / np.maximum(bay * 3, 5.0))
    board = [hash01(banner, np.full_like(banner, c), seed + 7) ** 2 * 0.6 + 0.01 for c in (4, 5, 6)]
    letters = (above > 0.82) & (above < 0.93) & (sample(FBM, p.u * 45, np.floor(p.v * 5)) > 0.6)
    ink = 0.7 * (board[0] + board[1] < 0.6)
    colour = paint(colour, fascia, [np.where(letters, ink, c) for c in board])
    p.mirror += glass * np.where(curtain, 0.10, 0.22 + 0.25 * pick)
    lit = glass & (hash01(column, level, seed + 11) < np.where(shop, 0.7, 0.30))
    warmth = hash01(level, column, seed + 13)
    p.shine(lit, (1.0, 0.72, 0.42), (0.25 + 0.75 * warmth) * np.where(shop, 1.6, 0.9))
    p.shine(fascia & letters, (0.9, 0.8, 0.7), 0.7 * (hash01(banner, banner, seed) < 0.4))
    return colour


def roof(p: Patch) -> Three:
    course = np.floor(p.v / 0.28)
    tile = hash01(np.floor(p.u / 0.22 + 0.5 * np.mod(course, 2)), course, p.rows[:, SEED]) - 0.5
    fine = np.clip(1.3 - p.step * 8, 0.0, 1.0)
    edge = np.mod(p.v, 0.28) < 0.04
    stain = sample(FBM, p.u * 6, p.v * 6 + p.rows[:, SEED] * 11) - 0.5
    return times(p.colour(), 1.0 + fine * (0.4 * tile - 0.25 * edge) + 0.45 * stain)


def brick(p: Patch) -> Three:
    return masonry(p, p.param(0), p.colour())


def plain(p: Patch) -> Three:
    return times(p.colour(), 0.88 + 0.24 * sample(GRAIN, p.u * 20 + p.rows[:, SEED] * 5, p.v * 20))


def body(p: Patch) -> Three:
    p.mirror += 0.09
    return times(p.colour(), 0.97 + 0.06 * sample(FBM, p.u * 12, p.v * 12))


def glass(p: Patch) -> Three:
    """Car windows: pane 0 side, 1 windscreen, 2 rear window, 3 a van's side."""
    pane, wide, tall = p.param(0), p.rows[:, SIZE.start], p.rows[:, SIZE.start + 1]
    along = np.where(p.param(2) > 0.5, wide - p.u, p.u) / np.maximum(wide, 0.1)
    frame = (p.v < 0.04) | (p.v > tall - 0.05)
    side = pane == 0
    frame |= side & (np.abs(along - 0.52) < 0.025)
    frame |= side & (np.abs(along - 0.16) < 0.02)
    frame |= (pane == 3) & (along < 0.68)
    colour = [np.where(frame, c, 0.02) for c in p.colour()]
    p.mirror += np.where(frame, 0.08, 0.30)
    return colour


def front(p: Patch) -> Three:
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
    p.shine(lamp, (1.0, 0.95, 0.82), 26.0)
    p.mirror += np.where(lamp, 0.3, 0.07)
    return colour


def rear(p: Patch) -> Three:
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
    p.shine(lamp, (1.0, 0.06, 0.03), 2.6 * braking)
    p.mirror += 0.05
    return colour


def wheel(p: Patch) -> Three:
    radius = p.param(0)
    u = p.u - radius * np.float32(np.sin(np.pi / 12))
    v = p.v - radius * np.float32(np.cos(np.pi / 12))
    r = np.hypot(u, v) / radius
    spoke = np.cos(np.arctan2(v, u) * (5 + np.floor(np.mod(p.rows[:, SEED], 3)))) > -0.2
    rim = (r < 0.64) & (spoke | (r < 0.2) | (r > 0.55))
    return paint([np.where(r < 0.64, 0.03, c) for c in p.colour()], rim, (0.30, 0.30, 0.31))


def foliage(p: Patch) -> Three:
    seed = p.rows[:, SEED]
    clump = sample(FBM, p.u * 22 + seed * 41, p.v * 22)
    leaf = sample(GRAIN, p.u * 55 + seed * 13, p.v * 55)
    tone = (0.25 + 0.95 * clump) * (0.55 + 0.9 * leaf) * (0.85 + 0.35 * p.side)
    return [
        c * tone * (1.0 + k * (leaf - 0.5))
        for c, k in zip(p.colour(), (0.3, 0.0, -0.2), strict=True)
    ]


def bark(p: Patch) -> Three:
    return times(p.colour(), 0.6 + 0.8 * sample(GRAIN, p.u * 60, p.v * 12 + p.rows[:, SEED] * 3))


def cloth(p: Patch) -> Three:
    fold = sample(FBM, p.u * 60 + p.rows[:, SEED] * 17, p.v * 35)
    return times(p.colour(), 0.75 + 0.5 * fold)


def sign(p: Patch) -> Three:
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
    kind = p.param(0)
    p.shine(kind == 1, (1.0, 0.8, 0.5), 22.0)
    p.shine(kind == 2, (1.0, 0.05, 0.03), 4.0)
    p.shine(kind == 3, (1.0, 0.95, 0.85), 12.0)
    return p.colour()


def bus(p: Patch) -> Three:
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
    p.shine(window & side, (0.9, 0.9, 0.8), 0.6)
    p.shine(text, (1.0, 0.5, 0.05), 1.0)
    p.mirror += np.where(window, 0.25, 0.07)
    return colour


def panel(p: Patch) -> Three:
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
    board = hash01(np.floor(p.u / 0.14), np.zeros_like(p.u), p.rows[:, SEED])
    gap = np.mod(p.u, 0.14) < 0.012
    grain = sample(GRAIN, p.u * 90, p.v * 9)
    return times(p.colour(), (0.7 + 0.4 * board) * (0.8 + 0.4 * grain) * np.where(gap, 0.35, 1.0))


PAINTERS: dict[int, Callable[[Patch], Three]] = {
    Mat.PLAIN: plain, Mat.FACADE: facade, Mat.ROOF: roof, Mat.BODY: body, Mat.GLASS: glass,
    Mat.FRONT: front, Mat.REAR: rear, Mat.WHEEL: wheel, Mat.BRICK: brick, Mat.FOLIAGE: foliage,
    Mat.BARK: bark, Mat.SIGN: sign, Mat.SIGNAL: signal, Mat.LAMP: lamp, Mat.BUS: bus,
    Mat.PANEL: panel, Mat.FENCE: fence, Mat.CLOTH: cloth, Mat.BARE: bark,
}  # fmt: skip
