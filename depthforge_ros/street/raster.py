# SPDX-License-Identifier: Apache-2.0
"""Z-buffered drawing of polygons and capsules, one sample at each pixel's centre.

Inverse depth is affine in the image for a plane, so a polygon costs one outer sum and two
comparisons per pixel of its bounding rectangle. Nothing is interpolated: the depth kept for a
pixel is the depth of the surface at that pixel's ray.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .camera import NEAR_M, Camera
from .mesh import ALPHA, BARS, LEAVES, NORMAL, ORIGIN, SEED, SIZE, TWO_SIDED, U_AXIS, Mesh
from .noise import FBM, NOISE_MASK

FIRST_PRIM = 8  # primitive ids below this are sky and ground, see `ground.py`


@dataclass(frozen=True)
class GBuffer:
    """Visible surface of each pixel: inverse z-depth (0 = sky), primitive id, roundness coordinate.

    `side` is -1..1 across a capsule (signed towards image right, or up for foliage).
    """

    inv_z: np.ndarray
    prim: np.ndarray
    side: np.ndarray

    @staticmethod
    def empty(height: int, width: int) -> GBuffer:
        """A buffer of sky only."""
        shape = (height, width)
        return GBuffer(
            np.zeros(shape, np.float32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        )


def clip_near(points: np.ndarray) -> np.ndarray:
    """The part of a polygon `[n, 3]` (optical frame) beyond `NEAR_M` (Sutherland-Hodgman)."""
    kept: list[np.ndarray] = []
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        if a[2] >= NEAR_M:
            kept.append(a)
        if (a[2] >= NEAR_M) != (b[2] >= NEAR_M):
            kept.append(a + (b - a) * ((NEAR_M - a[2]) / (b[2] - a[2])))
    return np.array(kept).reshape(-1, 3)


def spans(
    px: np.ndarray, py: np.ndarray, width: int, height: int
) -> tuple[int, int, int, int, np.ndarray, np.ndarray] | None:
    """Rows, columns and the left and right limit of each row of a convex polygon in pixels."""
    top, low = float(py.min()), float(py.max())
    y0, y1 = max(int(np.ceil(top)), 0), min(int(np.floor(low)), height - 1)
    if y1 < y0:
        return None
    qx, qy = np.roll(px, -1), np.roll(py, -1)
    dy = qy - py
    twice_area = float((px * qy - qx * py).sum())
    sloped = np.abs(dy) > 1e-9
    px, py, qx, dy = px[sloped], py[sloped], qx[sloped], dy[sloped]
    rows = np.arange(y0, y1 + 1)
    at = px[:, None] + (rows[None, :] - py[:, None]) * ((qx - px) / dy)[:, None]  # [E, h]
    is_left = (dy < 0) if twice_area > 0 else (dy > 0)
    if not is_left.any() or is_left.all():
        return None
    left, right = at[is_left].max(axis=0), at[~is_left].min(axis=0)  # [h]
    x0 = max(int(np.ceil(left.min())), 0)
    x1 = min(int(np.floor(right.max())), width - 1)
    if x1 < x0:
        return None
    return y0, y1 + 1, x0, x1 + 1, left, right


def draw_mesh(g: GBuffer, camera: Camera, mesh: Mesh) -> None:
    """Draw polygons (ids from `FIRST_PRIM`), then capsules (ids after the polygons)."""
    _draw_faces(g, camera, mesh)
    _draw_capsules(g, camera, mesh, FIRST_PRIM + len(mesh.counts))


@dataclass(frozen=True)
class _Edges:
    """Edges of all polygons as `x = at + slope * row`; per polygon first the left ones."""

    at: np.ndarray
    slope: np.ndarray
    first: np.ndarray
    left: np.ndarray

    @staticmethod
    def of(px: np.ndarray, py: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> _Edges:
        following = np.arange(1, len(px) + 1)
        following[starts + counts - 1] = starts
        dx, dy = px[following] - px, py[following] - py
        area = np.add.reduceat(px * py[following] - px[following] * py, starts)
        face = np.repeat(np.arange(len(counts)), counts)
        flat = np.abs(dy) < 1e-9  # a level edge bounds no row
        slope = np.where(flat, 0.0, dx / np.where(flat, 1.0, dy))
        is_left = (dy < 0) == (area[face] > 0)
        is_left |= flat
        at = np.where(flat, -1e9, px - py * slope)
        order = np.lexsort((~is_left, face))
        return _Edges(at[order], slope[order], starts, np.add.reduceat(is_left, starts))


def _draw_faces(g: GBuffer, camera: Camera, mesh: Mesh) -> None:
    if len(mesh.counts) == 0:
        return
    height, width = g.inv_z.shape
    k = camera.k
    points = camera.to_camera(mesh.verts)  # [V, 3]
    starts = np.concatenate([[0], np.cumsum(mesh.counts)[:-1]])
    z_low = np.minimum.reduceat(points[:, 2], starts)
    z_high = np.maximum.reduceat(points[:, 2], starts)
    normal = mesh.faces[:, NORMAL] @ camera.rotation.T  # [F, 3]
    offset = (normal * points[starts]).sum(axis=1)  # [F], n . p of the plane
    seen = (z_high > NEAR_M) & ((offset < -1e-6) | (mesh.faces[:, TWO_SIDED] > 0))
    seen &= np.abs(offset) > 1e-6
    z_safe = np.maximum(points[:, 2], NEAR_M)
    px = points[:, 0] / z_safe * k[0, 0] + k[0, 2]
    py = points[:, 1] / z_safe * k[1, 1] + k[1, 2]
    whole = z_low >= NEAR_M
    low_x = np.maximum(np.ceil(np.minimum.reduceat(px, starts)), 0)
    low_y = np.maximum(np.ceil(np.minimum.reduceat(py, starts)), 0)
    high_x = np.minimum(np.floor(np.maximum.reduceat(px, starts)), width - 1)
    high_y = np.minimum(np.floor(np.maximum.reduceat(py, starts)), height - 1)
    seen &= ~whole | ((high_x >= low_x) & (high_y >= low_y))  # holds some pixel's centre
    safe = np.where(np.abs(offset) > 1e-6, offset, 1.0)
    slope_u = normal[:, 0] / k[0, 0] / safe
    slope_v = normal[:, 1] / k[1, 1] / safe
    constant = normal[:, 2] / safe - slope_u * k[0, 2] - slope_v * k[1, 2]
    edges = _Edges.of(px, py, starts, mesh.counts)
    all_rows, all_columns = np.arange(height, dtype=np.float64), np.arange(width, dtype=np.float64)
    order = np.nonzero(seen)[0]
    order = order[np.argsort(z_low[order], kind="stable")]  # near first, so much is found hidden
    for f in order:
        s, n = starts[f], mesh.counts[f]
        if whole[f]:
            y0, y1 = int(low_y[f]), int(high_y[f]) + 1
            x0, x1 = int(low_x[f]), int(high_x[f]) + 1
            if g.inv_z[y0:y1, x0:x1].min() * z_low[f] > 1.0:
                continue
            rows, split = all_rows[y0:y1], s + edges.left[f]
            if split == s or split == s + n:
                continue
            left = edges.at[s:split, None] + edges.slope[s:split, None] * rows  # [E, h]
            right = edges.at[split : s + n, None] + edges.slope[split : s + n, None] * rows
            left = left[0] if len(left) == 1 else left.max(axis=0)  # [h]
            right = right[0] if len(right) == 1 else right.min(axis=0)  # [h]
        else:
            part = clip_near(points[s : s + n])
            if len(part) < 3:
                continue
            fx = part[:, 0] / part[:, 2] * k[0, 0] + k[0, 2]
            fy = part[:, 1] / part[:, 2] * k[1, 1] + k[1, 2]
            span = spans(fx, fy, width, height)
            if span is None:
                continue
            y0, y1, x0, x1, left, right = span
        cols = all_columns[x0:x1]
        down = all_rows[y0:y1] * slope_v[f] + constant[f]
        inv_z = (cols * slope_u[f]).astype(np.float32) + down.astype(np.float32)[:, None]
        held = g.inv_z[y0:y1, x0:x1]
        mask = inv_z > held
        mask &= cols >= left[:, None]
        mask &= cols <= right[:, None]
        if mesh.faces[f, ALPHA] == BARS:
            mask &= _bars(camera, mesh.faces[f], inv_z, y0, y1, x0, x1)
        np.copyto(held, inv_z, where=mask)
        np.copyto(g.prim[y0:y1, x0:x1], np.int32(f + FIRST_PRIM), where=mask)


def _bars(
    camera: Camera, row: np.ndarray, inv_z: np.ndarray, y0: int, y1: int, x0: int, x1: int
) -> np.ndarray:
    """Where a railing is iron: upright bars 0.13 m apart between two rails, and posts."""
    rays_x, rays_y = camera.pixel_rays()
    z = 1.0 / np.maximum(inv_z, 1e-4)
    axis = camera.rotation @ row[U_AXIS]
    up = camera.rotation[:, 2]
    rel = row[ORIGIN] - camera.position
    ray_x, ray_y = rays_x[None, x0:x1], rays_y[y0:y1, None]
    u = z * (ray_x * axis[0] + ray_y * axis[1] + axis[2]) - rel @ row[U_AXIS]
    v = z * (ray_x * up[0] + ray_y * up[1] + up[2]) - rel[2]
    pitch = row[5] if row[5] > 0 else 0.13
    bar = np.abs(u - pitch * np.round(u / pitch)) < 0.014
    post = np.abs(u - 2.0 * np.round(u / 2.0)) < 0.035
    rail = (np.abs(v - 0.12) < 0.025) | (np.abs(v - (row[SIZE][1] - 0.08)) < 0.03)
    return bar | post | rail


def _draw_capsules(g: GBuffer, camera: Camera, mesh: Mesh, first: int) -> None:
    if len(mesh.ends) == 0:
        return
    height, width = g.inv_z.shape
    a, b = camera.to_camera(mesh.ends[:, 0:3]), camera.to_camera(mesh.ends[:, 3:6])  # [C, 3]
    radius_a, radius_b = mesh.ends[:, 6], mesh.ends[:, 7]
    fat = np.maximum(radius_a, radius_b)
    seen = np.minimum(a[:, 2], b[:, 2]) > NEAR_M + fat
    za, zb = np.maximum(a[:, 2], NEAR_M), np.maximum(b[:, 2], NEAR_M)
    fx, fy, cx, cy = camera.k[0, 0], camera.k[1, 1], camera.k[0, 2], camera.k[1, 2]
    ax, ay, bx, by = (
        a[:, 0] / za * fx + cx,
        a[:, 1] / za * fy + cy,
        b[:, 0] / zb * fx + cx,
        b[:, 1] / zb * fy + cy,
    )
    ra, rb = radius_a / za * fx, radius_b / zb * fx
    left, right = np.minimum(ax - ra, bx - rb), np.maximum(ax + ra, bx + rb)
    top, low = np.minimum(ay - ra, by - rb), np.maximum(ay + ra, by + rb)
    left, top = np.maximum(np.ceil(left), 0), np.maximum(np.ceil(top), 0)
    right, low = np.minimum(np.floor(right), width - 1), np.minimum(np.floor(low), height - 1)
    seen &= (right >= left) & (low >= top) & (np.maximum(ra, rb) > 0.12)
    nearest = np.minimum(a[:, 2], b[:, 2]) - fat
    order = np.nonzero(seen)[0]
    for i in order[np.argsort(nearest[order], kind="stable")]:
        x0, x1, y0, y1 = int(left[i]), int(right[i]) + 1, int(top[i]), int(low[i]) + 1
        if g.inv_z[y0:y1, x0:x1].min() * nearest[i] > 1.0:
            continue
        dx = np.arange(x0, x1, dtype=np.float32)[None, :] - np.float32(ax[i])
        dy = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(ay[i])
        ex, ey = np.float32(bx[i] - ax[i]), np.float32(by[i] - ay[i])
        length2 = float(ex * ex + ey * ey)
        if length2 > 1e-6:
            t = np.clip((dx * ex + dy * ey) / np.float32(length2), 0.0, 1.0)  # [h, w]
            off_x, off_y = dx - t * ex, dy - t * ey
            radius = ra[i].astype(np.float32) + t * np.float32(rb[i] - ra[i])
            metres = np.float32(radius_a[i]) + t * np.float32(radius_b[i] - radius_a[i])
            inv_axis = np.float32(1 / za[i]) + t * np.float32(1 / zb[i] - 1 / za[i])
        else:
            off_x, off_y = dx, dy
            radius, metres = np.float32(ra[i]), np.float32(radius_a[i])
            inv_axis = np.float32(1 / za[i])
        q2 = (off_x * off_x + off_y * off_y) / (radius * radius)
        alpha = int(mesh.caps[i, ALPHA])
        if alpha:
            q2 = q2 + _ragged(off_x, off_y, radius, float(mesh.caps[i, SEED]), alpha)
        mask = q2 < 1.0
        bulge = np.sqrt(np.maximum(1.0 - q2, 0.0)) * metres
        inv_z = inv_axis / (1.0 - bulge * inv_axis)
        held = g.inv_z[y0:y1, x0:x1]
        mask &= inv_z > held
        np.copyto(held, inv_z, where=mask)
        np.copyto(g.prim[y0:y1, x0:x1], np.int32(first + i), where=mask)
        if alpha:
            side = -off_y / radius + np.zeros_like(off_x)
        else:
            side = (off_x if abs(ey) >= abs(ex) else -off_y) / radius
        np.copyto(g.side[y0:y1, x0:x1], side, where=mask)


def _ragged(
    off_x: np.ndarray, off_y: np.ndarray, radius: float, seed: float, alpha: int
) -> np.ndarray:
    """Noise that eats into the squared radius, fixed to the object so that it does not swim."""
    grain, amount = (46.0, 1.1) if alpha == LEAVES else (70.0, 0.9)
    shift = int(seed * 7919) & NOISE_MASK
    u = (off_x * (grain / radius)).astype(np.int32) + shift
    v = (off_y * (grain / radius)).astype(np.int32) + 3 * shift
    return FBM[v & NOISE_MASK, u & NOISE_MASK] * amount
