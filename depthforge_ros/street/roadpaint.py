# SPDX-License-Identifier: Apache-2.0
"""Tram tracks, lane arrows and wait lines on the carriageway, in road coordinates (x, v)."""

from __future__ import annotations

import numpy as np

from .ground import GOLD, WHITE, line
from .noise import FBM, sample
from .road import Road, from_nearest
from .variety import Variety

STEEL = (0.016, 0.015, 0.014)


def add_to_road(
    colour: list[np.ndarray], road: Road, variety: Variety, x: np.ndarray, v: np.ndarray,
    footprint: np.ndarray,
) -> tuple[list[np.ndarray], np.ndarray]:  # fmt: skip
    """Lay the additions over the reflectance of the carriageway.

    `footprint` is the width of a pixel on the ground in metres. Gives three arrays of
    reflectance and one of the mirror share.
    """
    blur = np.maximum(footprint * 1.5, 0.02)
    wear = np.clip(1.3 - 1.1 * sample(FBM, x * 14, v * 14), 0.15, 1.0)
    white, yellow = _paint(road, variety, x, v, blur)
    mirror = np.zeros_like(x)
    for paint, ink in ((white, WHITE), (yellow, GOLD)):
        share = 0.85 * wear * paint
        colour = [base * (1 - share) + c * share for base, c in zip(colour, ink, strict=True)]
    if variety.tracks:
        colour, mirror = _rails(colour, road, variety, x, v, blur)
    return colour, mirror


def _rails(
    colour: list[np.ndarray], road: Road, variety: Variety, x: np.ndarray, v: np.ndarray,
    blur: np.ndarray,
) -> tuple[list[np.ndarray], np.ndarray]:  # fmt: skip
    """Grooves of dark steel 7 cm wide with a shiny edge, in a strip of its own tone."""
    on_road = np.abs(v) < np.float32(road.half_width)
    groove, edge, seam = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    half = np.float32(variety.gauge / 2)
    for middle in variety.tracks:
        d = np.abs(v - np.float32(middle))
        groove = np.maximum(groove, line(d - half, 0.035, blur))
        edge = np.maximum(edge, line(d - half - np.float32(0.046), 0.013, blur))
        if variety.bed != 1.0:
            seam = np.maximum(seam, np.clip((half + 0.30 - d) / blur + 0.5, 0, 1))
    groove, edge = groove * on_road, edge * on_road
    tone = 1.0 + (np.float32(variety.bed) - 1.0) * seam * on_road
    polish = np.float32(variety.shine) * (0.5 + sample(FBM, x * 3, v))
    laid = [
        (base * tone * (1 - groove) + c * groove) * (1 - edge) + polish * edge
        for base, c in zip(colour, STEEL, strict=True)
    ]
    return laid, np.float32(variety.shine) * edge


def _paint(
    road: Road, variety: Variety, x: np.ndarray, v: np.ndarray, blur: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of white and of yellow paint."""
    white, yellow = np.zeros_like(x), np.zeros_like(x)
    clear = (np.abs(road.from_crossing(x)) > road.crossing_half + 2.5) & (
        np.abs(road.from_zebra(x)) > 2.4
    )
    if variety.arrows:
        along = -from_nearest(variety.arrows, x)  # metres behind the tip
        mark = np.zeros_like(x)
        for lane in range(road.lanes):
            for direction in (1, -1):
                d = v - np.float32(road.lane_centre(lane, direction))
                back = along if direction > 0 else -along
                mark = np.maximum(mark, _arrow(back, d, blur, lane + road.style))
        mark = mark * clear
        white, yellow = (white, mark) if variety.yellow_arrows else (mark, yellow)
    if variety.teeth is not None:
        back = x - np.float32(variety.teeth)
        side = (v * road.traffic < 0) & (np.abs(v) < road.half_width - max(road.parking))
        half = np.clip(0.26 * (1 - back / 0.7), 0, 1)
        tooth = np.clip((half - np.abs(np.mod(v, 0.75) - 0.375)) / blur + 0.5, 0, 1)
        white = np.maximum(white, tooth * ((back > 0) & (back < 0.7) & side & clear))
    if variety.yellow_edge:
        dash = np.mod(x, 2.0) < 1.0
        d = np.abs(v) - np.float32(road.half_width - max(road.parking) - 1.35)
        yellow = np.maximum(yellow, line(d, 0.055, blur) * dash * clear)
    return white, yellow


def _arrow(back: np.ndarray, d: np.ndarray, blur: np.ndarray, style: int) -> np.ndarray:
    """Coverage of a lane arrow; `back` metres behind its tip, `d` metres left of its middle."""
    soft = blur * 2
    head = (0.5 * np.clip(back / 1.4, 0, 1) - np.abs(d)) / soft + 0.5
    head = np.clip(head, 0, 1) * (back > 0) * (back < 1.4)
    shaft = np.clip((0.09 - np.abs(d)) / soft + 0.5, 0, 1) * (back >= 1.4) * (back < 5.0)
    mark = np.maximum(head, shaft)
    if style % 3 == 1:  # with a branch to one side
        turn = 1 if style % 2 else -1
        a = d * turn
        arm = np.clip((0.16 - np.abs(back - 3.6 + 1.2 * a)) / soft + 0.5, 0, 1)
        arm = arm * (a > 0) * (a < 0.7)
        wing = np.clip((0.8 * (1.15 - a) - np.abs(back - 2.8)) / soft + 0.5, 0, 1)
        mark = np.maximum(mark, np.maximum(arm, wing * (a >= 0.65) * (a < 1.15)))
    return mark
