# SPDX-License-Identifier: Apache-2.0
"""Overhead wires: contact wires along the street, span wires across it, and their masts.

Wires are thinner than a pixel, so they are blended into the radiance by coverage; labels and depth
keep what is behind them, as annotators do.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .camera import NEAR_M, Camera
from .layout import X0_M, Layout, blocked, front_of
from .mesh import Mat, MeshBuilder
from .road import KERB_M, Road
from .variety import Variety

POLE = 5
SIGHT_M = 140.0  # a wire further off covers less than a tenth of a pixel


def hang_wires(
    road: Road, variety: Variety, rng: np.random.Generator, out: Layout, x_end: float
) -> np.ndarray:
    """Wires as `[n, 7]`: two ends (x, y, z) and the diameter, metres. Masts go into `out`."""
    height = rng.uniform(5.5, 6.0)
    over = variety.tracks or tuple(
        road.lane_centre(0, d) + off for d in (1, -1) for off in (-0.3, 0.3)
    )
    rods: list[tuple[float, ...]] = []

    def strand(points: list[tuple[float, float, float]], thick: float) -> None:
        rods.extend((*a, *b, thick) for a, b in pairwise(points))

    step, carrier = rng.uniform(22, 34), rng.random() < 0.4
    knots = np.arange(X0_M, x_end, step / 4)
    for v in over:
        strand([(*road.place(float(s), v), height) for s in knots], 0.022)
        if carrier:  # a carrying cable that sags between the spans
            sag = 0.9 - 0.7 * np.sin(np.pi * ((knots - X0_M) % step) / step)
            strand([(*road.place(float(s), v), height + float(d))
                    for s, d in zip(knots, sag, strict=True)], 0.016)  # fmt: skip
    colour = (0.10, 0.11, 0.11) if rng.random() < 0.5 else (0.03, 0.05, 0.04)
    for s in np.arange(X0_M, x_end, step):
        if blocked(road, s, s, 1.5) is not None:
            continue
        ends = []
        for side in (0, 1):
            sign = 1 if side else -1
            wall = sign * (front_of(road, side) + 0.1)
            kerb = sign * (road.half_width + 0.6)
            top = height + rng.uniform(0.9, 1.8)
            on_wall = variety.on_walls and _built(out, *road.place(s, wall + sign), top)
            x, y = road.place(s, wall if on_wall else kerb)
            ends.append((x, y, top))
            if not on_wall:
                b = MeshBuilder(float(rng.uniform(0, 97)))
                b.capsule((0, 0, 0), (0, 0, top + 0.4), 0.11, 0.08, POLE, Mat.CLOTH, colour)
                out.meshes.append(b.build().placed(x, y, KERB_M, 0.0))
        low = [(*road.place(s, v), height + 0.25) for v in sorted(over)]
        strand([ends[0], *low, ends[1]], 0.016)
        if rng.random() < 0.3:  # a second wire that crosses to the next span
            x, y = road.place(s + step * 0.9, float(rng.choice(over)))
            strand([ends[int(rng.integers(2))], (x, y, height + 0.3)], 0.014)
    return np.array(rods, dtype=np.float64).reshape(-1, 7)


def _built(out: Layout, x: float, y: float, top: float) -> bool:
    """Is there a building higher than `top` at a point?"""
    for bx, by, yaw, half_l, half_d, high in out.blocks:
        c, s = np.cos(yaw), np.sin(yaw)
        along, away = (x - bx) * c + (y - by) * s, (y - by) * c - (x - bx) * s
        if abs(along) < half_l and abs(away) < half_d and high > top + 0.3:
            return True
    return False


def draw_wires(
    image: list[np.ndarray], depth: np.ndarray, camera: Camera, wires: np.ndarray,
    colour: np.ndarray,
) -> None:  # fmt: skip
    """Blend `[n, 7]` wires of one linear `colour` `[3]` into `image`, in place.

    `depth` `[H, W]` is the z-depth of the surfaces, +inf for sky; a wire behind them is hidden.
    """
    near = np.abs((wires[:, 0] + wires[:, 3]) / 2 - camera.position[0]) < SIGHT_M
    a, b = camera.to_camera(wires[near, 0:3]), camera.to_camera(wires[near, 3:6])
    thick = wires[near, 6]
    seen = np.maximum(a[:, 2], b[:, 2]) > NEAR_M * 2
    a, b, thick = a[seen], b[seen], thick[seen]
    for p, q in ((a, b), (b, a)):  # cut at the near plane
        cut = p[:, 2] < NEAR_M
        t = (NEAR_M - p[cut, 2]) / (q[cut, 2] - p[cut, 2])
        p[cut] += (q[cut] - p[cut]) * t[:, None]
    height, width = depth.shape
    fx, fy, cx, cy = camera.k[0, 0], camera.k[1, 1], camera.k[0, 2], camera.k[1, 2]
    ua, va = a[:, 0] / a[:, 2] * fx + cx, a[:, 1] / a[:, 2] * fy + cy
    ub, vb = b[:, 0] / b[:, 2] * fx + cx, b[:, 1] / b[:, 2] * fy + cy
    level = np.abs(ub - ua) >= np.abs(vb - va)
    total = np.zeros(height * width)
    for steps_x in (True, False):
        size, other = (width, height) if steps_x else (height, width)
        take = level == steps_x
        m0, m1, n0, n1 = (ua, ub, va, vb) if steps_x else (va, vb, ua, ub)
        m0, m1, n0, n1 = m0[take], m1[take], n0[take], n1[take]
        ia, ib, wide = 1 / a[take, 2], 1 / b[take, 2], thick[take] * fx
        first = np.clip(np.ceil(np.minimum(m0, m1)), 0, size)
        last = np.clip(np.ceil(np.maximum(m0, m1)), 0, size)
        count = (last - first).astype(np.int64)
        if count.sum() == 0:
            continue
        rod = np.repeat(np.arange(len(count)), count)
        start = np.cumsum(count) - count
        m = first[rod] + np.arange(len(rod)) - start[rod]
        t = (m - m0[rod]) / (m1 - m0)[rod]
        n = n0[rod] + t * (n1 - n0)[rod]
        inv_z = ia[rod] + t * (ib - ia)[rod]  # affine in the image
        tilt = np.hypot(1.0, ((n1 - n0) / (m1 - m0))[rod])
        across = np.minimum(wide[rod] * inv_z * tilt, 6.0)  # extent along the minor axis, pixels
        spread = np.maximum(across, 1.0)  # a thinner wire is a fainter one of a pixel's width
        reach = int(np.ceil(spread.max() / 2 + 1))
        for off in range(-reach, reach + 1):
            cell = np.floor(n) + off
            share = np.minimum(n + spread / 2, cell + 0.5) - np.maximum(n - spread / 2, cell - 0.5)
            share = np.clip(share, 0, 1) * np.minimum(across, 1.0)
            good = (share > 0.005) & (cell >= 0) & (cell < other)
            row, col = (cell[good], m[good]) if steps_x else (m[good], cell[good])
            at = (row * width + col).astype(np.int64)
            open_ = depth.ravel()[at] * inv_z[good] > 1.0
            cover = np.minimum(share[good][open_], 0.98)
            total += np.bincount(at[open_], np.log1p(-cover), minlength=height * width)
    at = np.nonzero(total)[0]
    through = np.exp(total[at]).astype(np.float32)
    for c in range(3):
        flat = image[c].reshape(-1)
        flat[at] = flat[at] * through + np.float32(colour[c]) * (1 - through)
