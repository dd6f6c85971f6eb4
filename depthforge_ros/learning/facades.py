# SPDX-License-Identifier: Apache-2.0
"""Shop displays, posters, boards and doorways on facades, so that what is bright, flat and coloured
on a house is not taken for a traffic sign, nor what is upright and dark for a person.

They lie on the wall: its labels and depth are unchanged, and their shapes follow its perspective.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from depthforge_ros.learning.label_ids import BUILDING
from depthforge_ros.learning.relight.relight import DAYLIGHT
from depthforge_ros.learning.relight.view import CAMERA_HEIGHT_M, View, luma, rays
from depthforge_ros.learning.samples import Sample

FARTHEST_M = 70.0
SAME_WALL_M = 5.0
"""Pixels whose z differs more from the anchor's belong to another wall."""
MAX_BOARDS = 9
REACH_PX = 60
# Of each kind: how often, width, height and height of the middle above the road in metres.
KINDS: dict[str, tuple[float, tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "display": (0.30, (1.5, 6.0), (1.5, 3.0), (1.2, 2.2)),
    "poster": (0.20, (0.5, 2.0), (0.6, 2.5), (1.0, 9.0)),
    "board": (0.20, (1.5, 7.0), (0.4, 1.2), (2.8, 5.0)),
    "blade": (0.15, (0.3, 1.0), (0.5, 4.0), (3.0, 9.0)),
    "doorway": (0.15, (0.6, 1.8), (1.8, 2.6), (0.9, 1.3)),
}


def can_have_displays(sample: Sample) -> bool:
    """Return whether `with_displays` changes the sample: depth, focal length, no weather."""
    known = sample.depth_m is not None and sample.focal_px is not None
    return known and sample.condition in (*DAYLIGHT, "night")


def with_displays(sample: Sample, centre: tuple[float, float], rng: np.random.Generator) -> Sample:
    """Return the sample with a few boards on its facades; it must pass `can_have_displays`.

    centre: principal point (u, v) in pixels of the sample, which may be a crop.
    """
    view = View.of(sample, centre)
    walls = (view.labels == BUILDING) & (view.z_m < FARTHEST_M)
    places = np.flatnonzero(walls)
    if len(places) < 100:
        return sample
    rgb = sample.rgb.astype(np.float32)
    bright = float(luma(rgb[walls]).mean()) + 5.0
    names, shares = list(KINDS), np.array([kind[0] for kind in KINDS.values()])
    for _ in range(int(rng.integers(1, MAX_BOARDS + 1))):
        anchor = int(rng.choice(places))
        kind = names[rng.choice(len(names), p=shares / shares.sum())]
        _, *ranges = KINDS[kind]
        width_m, height_m, middle_m = (rng.uniform(*limits) for limits in ranges)
        near = walls & (np.abs(view.z_m - view.z_m.flat[anchor]) < SAME_WALL_M)
        along, up = _on_wall(view, near, anchor)
        s = along / width_m + 0.5  # 0..1 across the board
        t = (middle_m - up) / height_m + 0.5  # 0..1 down it
        inside = near & (s > 0) & (s < 1) & (t > 0) & (t < 1)
        if inside.sum() < 6:
            continue
        lit = sample.condition == "night" and rng.random() < 0.7 and kind != "doorway"
        level = rng.uniform(90, 255) if lit else min(bright * rng.uniform(0.7, 1.7), 255.0)
        colours = _content(kind, s[inside], t[inside], width_m / height_m, rng) * np.float32(level)
        alpha = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 0.5)[inside][:, None]
        rgb[inside] += alpha * (colours - rgb[inside])
    return replace(sample, rgb=rgb.clip(0, 255).astype(np.uint8))


def _on_wall(view: View, near: np.ndarray, anchor: int) -> tuple[np.ndarray, np.ndarray]:
    """Return metres along the wall from the anchor, and above the road, [H, W].

    near: pixels of the wall, [H, W] bool. The wall is the plane n·P = 1 that fits their inverse
    depth, which is linear in the image, best: single depths of a teacher are uneven.
    """
    u, v = rays(*view.shape, view.focal_px, view.centre)
    row, column = divmod(anchor, view.shape[1])
    window = np.s_[
        max(0, row - REACH_PX) : row + REACH_PX, max(0, column - REACH_PX) : column + REACH_PX
    ]
    y, x = np.nonzero(near[window])
    step = max(1, len(y) // 400)
    y, x = y[::step] + window[0].start, x[::step] + window[1].start
    seen = np.stack([u[x], v[y], np.ones(len(x), np.float32)], axis=-1)
    normal, *_ = np.linalg.lstsq(seen, 1 / view.z_m[y, x], rcond=None)
    inverse = u[None] * normal[0] + v[:, None] * normal[1] + normal[2]
    z = 1 / np.maximum(inverse, 1 / (2 * FARTHEST_M))
    level = float(np.hypot(normal[0], normal[2])) + 1e-6
    along = (u[None] * z * normal[2] - z * normal[0]) / level  # along n x (0, 1, 0)
    return along - along.flat[anchor], CAMERA_HEIGHT_M - v[:, None] * z


def _content(
    kind: str, s: np.ndarray, t: np.ndarray, aspect: float, rng: np.random.Generator
) -> np.ndarray:
    """Return colours [N, 3], 0..1, at board coordinates s and t [N]. aspect: width over height."""
    if kind == "doorway":
        return np.full((len(s), 3), rng.uniform(0.02, 0.25), np.float32) * _tint(rng, 0.2)
    ground = np.broadcast_to(_colour(rng), (len(s), 3)).astype(np.float32)
    if kind == "display" or rng.random() < 0.35:
        cells = rng.random((int(rng.integers(2, 7)), int(rng.integers(3, 12)), 3), dtype=np.float32)
        cells = cells ** np.float32(rng.uniform(0.5, 3.0)) * _tint(rng, 0.4)
        grey = cells.mean(-1, keepdims=True)
        cells = grey + (cells - grey) * np.float32(rng.uniform(0.1, 1.0))
        rows, columns = cells.shape[:2]
        if rng.random() < 0.5:
            cells = cv2.resize(cells, (columns * 6, rows * 6), interpolation=cv2.INTER_CUBIC)
            rows, columns = cells.shape[:2]
        ground = cells[(t * rows).astype(int), (s * columns).astype(int)].clip(0, 1)
    result = ground.copy()
    if kind == "display":
        for _ in range(int(rng.integers(0, 5))):  # mannequins, goods, columns between the panes
            half = rng.uniform(0.02, 0.09) / max(aspect, 0.5)
            figure = (np.abs(s - rng.random()) < half) & (t > rng.uniform(0.1, 0.5))
            result[figure] = _colour(rng) * rng.uniform(0.1, 1.0)
        return result
    if rng.random() < 0.7:  # letters, or a pictogram
        dark = _colour(rng)
        if rng.random() < 0.5:
            count = rng.uniform(3, 12) * max(aspect, 0.4)
            letters = (np.abs(t - 0.5) < 0.28) & (
                np.sin(s * count * 6.283) > rng.uniform(-0.6, 0.6)
            )
        else:
            size = rng.uniform(0.25, 0.45)
            middle = rng.uniform(0.3, 0.7)
            square = ((s - middle) * aspect) ** 2 + (t - 0.5) ** 2
            letters = square < size * size
        result[letters] = dark
    if rng.random() < 0.4:
        rim = rng.uniform(0.03, 0.12)
        edge = np.minimum(np.minimum(s, 1 - s) * aspect, np.minimum(t, 1 - t)) < rim
        result[edge] = _colour(rng)
    return result


def _colour(rng: np.random.Generator) -> np.ndarray:
    """Return a colour of paint [3]: white, grey, black, or any hue, often saturated."""
    if rng.random() < 0.35:
        return np.full(3, rng.choice([0.95, 0.8, 0.4, 0.05]), np.float32)
    hsv = (rng.uniform(0, 360), rng.uniform(0.3, 1.0), rng.uniform(0.3, 1.0))
    return cv2.cvtColor(np.array([[hsv]], np.float32), cv2.COLOR_HSV2RGB)[0, 0]


def _tint(rng: np.random.Generator, most: float) -> np.ndarray:
    """Return gains [3] near one."""
    return (1 + rng.uniform(-most, most, 3)).astype(np.float32)
