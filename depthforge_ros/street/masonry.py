# SPDX-License-Identifier: Apache-2.0
"""Facades, roofs and brickwork."""

from __future__ import annotations

import numpy as np

from .mesh import SEED, SIZE
from .noise import FBM, GRAIN, hash01, sample
from .patch import Patch, Three, paint, times


def masonry(p: Patch, texture: np.ndarray, colour: Three) -> Three:
    """Brick (0), plaster (1), stone (2) or board (3) relief on a wall, fading with distance."""
    seed = p.rows[:, SEED]
    fine = np.clip(1.4 - p.step * 22, 0.0, 1.0)
    which = texture.astype(np.int64)
    tall = np.array((0.075, 0.32, 0.32, 0.17), np.float32)[which]
    wide = np.array((0.225, 0.62, 0.62, 2.9), np.float32)[which]
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
    """A wall with windows, doors and shop fronts; params as in `buildings.py`."""
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
    room = 0.25 + 0.75 * sample(FBM, p.u * 19 + seed * 5, p.v * 19)
    power = (0.05 + 0.6 * warmth**2) * np.where(shop, 1.5, 1.0) * room
    p.shine(lit & (warmth > 0.3), (1.0, 0.70, 0.40), power)
    p.shine(lit & (warmth <= 0.3), (0.75, 0.9, 1.0), power)
    p.shine(fascia & letters, (0.9, 0.8, 0.7), 0.7 * (hash01(banner, banner, seed) < 0.4))
    return colour


def roof(p: Patch) -> Three:
    """Tiles or slates in courses."""
    course = np.floor(p.v / 0.28)
    tile = hash01(np.floor(p.u / 0.22 + 0.5 * np.mod(course, 2)), course, p.rows[:, SEED]) - 0.5
    fine = np.clip(1.3 - p.step * 8, 0.0, 1.0)
    edge = np.mod(p.v, 0.28) < 0.04
    stain = sample(FBM, p.u * 6, p.v * 6 + p.rows[:, SEED] * 11) - 0.5
    return times(p.colour(), 1.0 + fine * (0.4 * tile - 0.25 * edge) + 0.45 * stain)


def brick(p: Patch) -> Three:
    """Plain masonry; param 0 is the texture."""
    return masonry(p, p.param(0), p.colour())
