# SPDX-License-Identifier: Apache-2.0
"""Colours of shop windows, boards and posters; parameters as `shops.py` gives them."""

from __future__ import annotations

import numpy as np

from .mesh import SEED, SIZE
from .noise import FBM, hash01, sample
from .patch import Patch, Three, paint

TONES = np.array(((1.0, 0.74, 0.42), (1.0, 0.93, 0.80), (0.80, 0.93, 1.0)), np.float32)


def _colours(i: np.ndarray, j: np.ndarray, seed: np.ndarray) -> Three:
    """A colour for each cell: a third dull, the others saturated."""
    dull = hash01(i, j, seed + 40) < 0.35
    grey = hash01(i, j, seed + 41) ** 2 * 0.7 + 0.01
    return [np.where(dull, grey, hash01(i, j, seed + c) ** 2.5 * 0.8 + 0.01) for c in (42, 43, 44)]


def display(p: Patch) -> Three:
    """A shop window: power, tone and height of its lower edge; goods, posters and mannequins."""
    seed, wide, tall = p.rows[:, SEED], p.rows[:, SIZE.start], p.rows[:, SIZE.start + 1]
    power, tone, up = p.param(0), p.param(1).astype(np.int64), p.v + p.param(2)
    veil = sample(FBM, p.u * 11 + seed * 5, p.v * 11)
    shade = 0.35 + 0.5 * p.v / tall + 0.35 * veil
    colour = [c * shade for c in p.colour()]
    crowd = 0.25 + 0.6 * hash01(seed * 0, seed * 0, seed + 2)
    for layer, (cell_u, cell_v) in enumerate(((1.7, 1.15), (0.8, 0.75), (0.36, 0.42))):
        own = seed + 7 * layer
        i, j = np.floor(p.u / cell_u), np.floor(p.v / cell_v)
        du = np.abs(p.u / cell_u - i - 0.5) + 0.12 * hash01(i, j, own + 3)
        dv = np.abs(p.v / cell_v - j - 0.5) + 0.12 * hash01(j, i, own + 4)
        half = 0.18 + 0.3 * hash01(i, j, own + 5)
        has = (hash01(i, j, own + 6) < crowd * (0.6, 0.7, 0.8)[layer]) & (up < 2.4)
        box = has & (du < half) & (dv < half)
        border = box & ((du > half - 0.07) | (dv > half - 0.07)) & (hash01(j, i, own) < 0.4)
        colour = paint(colour, box, _colours(i, j, own))
        colour = paint(colour, border, (0.75, 0.75, 0.72))
    i = np.floor(p.u / 1.9)  # racks of clothes
    strip = np.floor(p.u / 0.09)
    rack = (hash01(i, i, seed + 30) < 0.4 * crowd + 0.1) & (up > 0.55) & (up < 1.35)
    rack &= np.abs(p.u / 1.9 - i - 0.5) < 0.42
    colour = paint(colour, rack, _colours(strip, i, seed + 8))
    clutter = sample(FBM, p.u * 30 + seed * 3, p.v * 30)  # small things below eye height
    heap = (clutter > 0.56) & (up < 0.5 + 1.3 * crowd * hash01(i, i, seed + 31))
    few = np.floor(clutter * 11)
    colour = paint(colour, heap, _colours(few, np.floor(p.u / 0.5), seed + 9))
    colour = _mannequins(p, colour, up, seed)
    pitch = 1.3 + 1.8 * hash01(seed * 0, seed * 0, seed + 9)
    frame = (np.minimum(p.u, wide - p.u) < 0.06) | (np.minimum(p.v, tall - p.v) < 0.06)
    frame |= np.abs(p.u - pitch * np.round(p.u / pitch)) < 0.025
    spot = np.hypot(np.mod(p.u, 0.8) - 0.4, (tall - p.v) - 0.22) < 0.06
    fall = np.clip(0.5 + 0.65 * np.mod(p.u + seed, 1.6) * (1.6 - np.mod(p.u + seed, 1.6)), 0.4, 1.2)
    for c in range(3):
        lit = TONES[tone, c] * power * (1.9 * colour[c] * fall + 6.0 * spot)
        p.glow[c] += np.where(frame, 0.0, lit)
    p.mirror += np.where(frame, 0.05, 0.06 + 0.16 * np.mod(seed, 1.0))
    colour = [c * 0.55 for c in colour]  # behind glass, without its own light
    return paint(colour, frame, (0.05, 0.05, 0.05))


def _mannequins(p: Patch, colour: Three, up: np.ndarray, seed: np.ndarray) -> Three:
    """Dressed upright figures about 1.7 m tall on a low stand."""
    i = np.floor(p.u / 0.95)
    many = 0.5 * hash01(seed * 0, seed * 0 + 1, seed + 10)
    has = hash01(i, i, seed + 11) < many
    tall = 1.6 + 0.25 * hash01(i, i, seed + 12)
    d = np.abs((p.u / 0.95 - i - 0.5) * 0.95 - 0.2 * (hash01(i, i, seed + 13) - 0.5))
    z = (up - 0.25) / tall
    head = (d / 0.085) ** 2 + ((z - 0.93) * tall / 0.12) ** 2 < 1
    head |= (d < 0.04) & (z > 0.82) & (z < 0.9)
    torso = (z > 0.46) & (z < 0.84) & (d < 0.13 + 0.28 * np.abs(z - 0.58))
    skirt = hash01(i, i, seed + 14) < 0.35
    legs = (z > 0.0) & (z <= 0.47) & (np.abs(d - 0.085) < 0.065)
    legs |= skirt & (z > 0.25) & (z <= 0.47) & (d < 0.28 - 0.3 * (z - 0.25))
    dark = hash01(i, i, seed + 15) < 0.5
    top, low = _colours(i, i + 5, seed + 16), _colours(i, i + 9, seed + 17)
    colour = paint(colour, has & torso, [np.where(dark, 0.015, c) for c in top])
    colour = paint(colour, has & legs, [np.where(dark, 0.02, c) for c in low])
    skin = np.where(hash01(i, i, seed + 18) < 0.5, 0.6, 0.05)
    return paint(colour, has & head, (skin, skin * 0.9, skin * 0.8))


def _letters(u: np.ndarray, v: np.ndarray, tall: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Pseudo letters of height `tall` on the line v = 0: cells of 3 x 5 blocks."""
    cell = u / (0.72 * tall)
    i = np.floor(cell)
    column, row = np.floor((cell - i) * 4), np.floor(v / tall * 5)
    block = hash01(i * 5 + column, row, seed + 1) > 0.38
    stem = (column == 0) & (hash01(i, i, seed + 3) < 0.7)
    inside = (column < 3) & (row >= 0) & (row < 5) & (hash01(i, i, seed + 2) < 0.88)
    return inside & (block | stem)


def board(p: Patch) -> Three:
    """A fascia or blade sign: power; 0 letters, 1 ring, 2 cross, 3 stripes, 4 pictogram; whole."""
    seed, wide, tall = p.rows[:, SEED], p.rows[:, SIZE.start], p.rows[:, SIZE.start + 1]
    power, kind, whole = p.param(0), np.round(p.param(1)), p.param(2) > 0.5
    ground = p.colour()
    pale = ground[0] + ground[1] + ground[2] > 1.6
    ink = [np.where(pale, c, 0.75) for c in (0.5, 0.02, 0.05)]
    # A disc's first edge lies at its foot, so its middle is half an edge further on.
    u = np.where(kind == 1, p.u - tall / 2 * np.sin(np.pi / 14), p.u - wide / 2)
    v = p.v - tall / 2
    small = np.minimum(wide, tall)
    r = np.hypot(u, v) / (small / 2)
    upright = tall > 1.8 * wide
    line_tall = np.where(upright, 0.62 * wide, np.minimum(0.52 * tall, 0.55))
    line = np.where(upright, np.floor(p.v / (line_tall * 1.3)), 0.0)
    base = np.where(upright, p.v - line * line_tall * 1.3 - 0.1, v + line_tall / 2)
    span = np.where(upright, 0.36 * wide, (0.2 + 0.28 * np.mod(seed, 1.0)) * wide)
    along = np.where(upright, u + 0.25 * wide + line * line_tall * 7.2, p.u)
    text = _letters(along, base, line_tall, seed) & (np.abs(u) < span)
    figure = (kind == 0) & text
    name = (np.abs(v) < 0.26 * tall) & (r < 0.62)
    name &= _letters(p.u, v + 0.2 * tall, 0.4 * tall, seed)
    figure |= (kind == 1) & ((r > 0.78) | name)
    arm = np.minimum(np.abs(u), np.abs(v)) < 0.15 * small
    cross = arm & (np.maximum(np.abs(u), np.abs(v)) < 0.45 * small)
    stripes = np.mod((u + v * (np.mod(seed, 2.0) < 1)) / small * 2.5, 1.0) < 0.45
    figure |= (kind == 3) & stripes
    glyph = sample(FBM, u / small * 12 + seed * 29, v / small * 12) > 0.55
    figure |= (kind == 4) & (glyph & (r < 0.75) | ((r > 0.8) & (r < 0.92)))
    colour = paint(ground, figure, ink)
    colour = paint(colour, (kind == 2) & ~cross, (0.02, 0.02, 0.02))
    shining = np.where(kind == 2, cross, whole | figure) & (power > 0)
    for c in range(3):
        p.glow[c] += np.where(shining, power * (colour[c] * 1.3 + 0.02), 0.0)
    for c in range(3):  # a lit cross is of one colour
        p.glow[c] += np.where((kind == 2) & cross, power * ground[c] * 3.0, 0.0)
    p.mirror += 0.05
    return colour


def poster(p: Patch) -> Three:
    """A printed picture with a border, shapes and lines of text; power of its lighting."""
    seed, wide, tall = p.rows[:, SEED], p.rows[:, SIZE.start], p.rows[:, SIZE.start + 1]
    fu, fv, power = p.u / wide, p.v / tall, p.param(0)
    other = [hash01(seed * 0, seed * 0 + c, seed + 21) ** 2 * 0.8 for c in (1, 2, 3)]
    mix = np.clip(sample(FBM, fu * 90 + seed * 13, fv * 90) * 2 - 0.6 + 0.5 * (fv - 0.5), 0, 1)
    colour = [a + (b - a) * mix for a, b in zip(p.colour(), other, strict=True)]
    at = 0.3 + 0.4 * np.mod(seed, 1.0)
    ball = np.hypot((fu - at) * wide, (fv - 0.62) * tall) < 0.2 * np.minimum(wide, tall)
    body = (np.abs(fu - at) < 0.16 + 0.2 * (0.5 - fv)) & (fv < 0.52) & (fv > 0.12)
    third = _colours(np.floor(seed), np.floor(seed * 3), seed)
    shown = np.mod(seed * 7, 1.0) < 0.7
    colour = paint(colour, shown & body, third)
    colour = paint(colour, shown & ball, (0.5, 0.32, 0.24))
    size = 0.09 * tall
    row = np.floor(p.v / (size * 1.6))
    text = _letters(p.u + row * 3, p.v - row * size * 1.6, size, seed) & (np.abs(fu - 0.5) < 0.38)
    text &= (fv < 0.3) | (fv > 0.82)
    ink = np.where(np.mod(seed * 3, 1.0) < 0.6, 0.75, 0.02)
    colour = paint(colour, text, (ink, ink, ink))
    edge = np.minimum(np.minimum(p.u, wide - p.u), np.minimum(p.v, tall - p.v)) < 0.05 * wide
    rim = np.where(np.mod(seed * 5, 1.0) < 0.5, 0.7, 0.03)
    colour = paint(colour, edge, (rim, rim, rim))
    for c in range(3):
        p.glow[c] += power * colour[c] * 1.4
    return colour
