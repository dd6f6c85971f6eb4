# SPDX-License-Identifier: Apache-2.0
"""Primitive store: flat convex polygons and tapered capsules, with one attribute row each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np


class Mat(IntEnum):
    """Surface kinds; `surfaces.py` says how each is coloured."""

    PLAIN = 0
    FACADE = 1
    ROOF = 2
    BODY = 3
    GLASS = 4
    FRONT = 5
    REAR = 6
    WHEEL = 7
    BRICK = 8
    FOLIAGE = 9
    BARK = 10
    SIGN = 11
    SIGNAL = 12
    LAMP = 13
    BUS = 14
    PANEL = 15
    FENCE = 16
    CLOTH = 17
    BARE = 18
    DISPLAY = 19
    BOARD = 20
    POSTER = 21


# Columns of an attribute row.
LABEL, MATERIAL = 0, 1
COLOUR, PARAMS, ORIGIN = slice(2, 5), slice(5, 9), slice(9, 12)
U_AXIS, V_AXIS, NORMAL = slice(12, 15), slice(15, 18), slice(18, 21)
SEED, SIZE, ALPHA, TWO_SIDED = 21, slice(22, 24), 24, 25
COLUMNS = 26
BARS, LEAVES, TWIGS = 1, 2, 3  # values of the ALPHA column: railing, ragged outlines


@dataclass(frozen=True)
class Mesh:
    """Polygons and capsules in one frame of reference.

    Attributes:
        verts: `[V, 3]` polygon corners, polygon after polygon, counter-clockwise from outside.
        counts: `[F]` corners of each polygon.
        faces: `[F, COLUMNS]` attribute rows of the polygons.
        ends: `[C, 8]` capsules: end a (3), end b (3), radius at a, radius at b, metres.
        caps: `[C, COLUMNS]` attribute rows of the capsules.
    """

    verts: np.ndarray
    counts: np.ndarray
    faces: np.ndarray
    ends: np.ndarray
    caps: np.ndarray

    def placed(self, x: float, y: float, z: float, yaw: float) -> Mesh:
        """The mesh turned by `yaw` about z, then moved."""
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])  # row vectors times this
        shift = np.array([x, y, z])
        faces, ends = self.faces.copy(), self.ends.copy()
        for axis in (U_AXIS, V_AXIS, NORMAL):
            faces[:, axis] = faces[:, axis] @ turn
        faces[:, ORIGIN] = faces[:, ORIGIN] @ turn + shift
        ends[:, 0:3] = ends[:, 0:3] @ turn + shift
        ends[:, 3:6] = ends[:, 3:6] @ turn + shift
        return Mesh(self.verts @ turn + shift, self.counts, faces, ends, self.caps)

    @staticmethod
    def joined(meshes: Iterable[Mesh]) -> Mesh:
        """All meshes as one; an empty list gives an empty mesh."""
        items = [MeshBuilder().build(), *meshes]
        return Mesh(
            np.concatenate([m.verts for m in items]),
            np.concatenate([m.counts for m in items]),
            np.concatenate([m.faces for m in items]),
            np.concatenate([m.ends for m in items]),
            np.concatenate([m.caps for m in items]),
        )


class MeshBuilder:
    """Collects primitives; `build` packs them."""

    def __init__(self, seed: float = 0.0) -> None:
        self.seed = seed
        self._verts: list[Sequence[float]] = []
        self._counts: list[int] = []
        self._faces: list[list[float]] = []
        self._ends: list[Sequence[float]] = []
        self._caps: list[list[float]] = []

    def _row(
        self, label: int, mat: int, colour: Sequence[float], params: Sequence[float]
    ) -> list[float]:
        row = [0.0] * COLUMNS
        row[LABEL], row[MATERIAL], row[COLOUR], row[SEED] = label, mat, colour, self.seed
        row[5 : 5 + len(params)] = params
        return row

    def face(
        self,
        corners: Sequence[Sequence[float]],
        label: int,
        mat: int,
        colour: Sequence[float],
        params: Sequence[float] = (),
        *,
        alpha: int = 0,
        two_sided: bool = False,
    ) -> None:
        """A planar convex polygon; the first edge is the texture's u axis, its start the origin."""
        a, b = corners[0], corners[1]
        u_axis = _unit((b[0] - a[0], b[1] - a[1], b[2] - a[2]))
        for c in corners[2:]:  # the first corner off the u axis gives the plane
            normal = _cross(u_axis, (c[0] - a[0], c[1] - a[1], c[2] - a[2]))
            if _dot(normal, normal) > 1e-16:
                break
        normal = _unit(normal)
        v_axis = _cross(normal, u_axis)
        rel = [(c[0] - a[0], c[1] - a[1], c[2] - a[2]) for c in corners]
        row = self._row(label, mat, colour, params)
        row[ORIGIN], row[U_AXIS], row[V_AXIS], row[NORMAL] = a, u_axis, v_axis, normal
        row[SIZE] = max(_dot(r, u_axis) for r in rel), max(_dot(r, v_axis) for r in rel)
        row[ALPHA], row[TWO_SIDED] = alpha, float(two_sided)
        self._verts.extend(corners)
        self._counts.append(len(corners))
        self._faces.append(row)

    def box(
        self,
        low: Sequence[float],
        high: Sequence[float],
        label: int,
        mat: int,
        colour: Sequence[float],
        params: Sequence[float] = (),
        *,
        top: int | None = None,
        bottom: bool = False,
    ) -> None:
        """An axis-aligned box; `top` names another surface for its upper face."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        ring = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        for (ax, ay), (bx, by) in zip(ring, ring[1:] + ring[:1], strict=True):
            corners = [(ax, ay, z0), (bx, by, z0), (bx, by, z1), (ax, ay, z1)]
            self.face(corners, label, mat, colour, params)
        upper = [(x, y, z1) for x, y in ring]
        self.face(upper, label, mat if top is None else top, colour, params)
        if bottom:
            self.face([(x, y, z0) for x, y in ring[::-1]], label, Mat.PLAIN, colour)

    def loft(
        self,
        sections: Sequence[tuple[float, float, float, float]],
        label: int,
        colour: Sequence[float],
        params: Sequence[float] = (),
        *,
        ends: tuple[int, int] = (Mat.BODY, Mat.BODY),
        sides: int = Mat.BODY,
        shoulder: float = 0.93,
    ) -> None:
        """Rectangular sections `(x, half_width, z_low, z_high)` joined from rear to front.

        `ends` are the surfaces of the rear and the front closing faces; above 0.68 of its height
        a side leans in to `shoulder` times the width.
        """
        for (xa, wa, la, ha), (xb, wb, lb, hb) in pairwise(sections):
            ma, mb = la + (ha - la) * 0.68, lb + (hb - lb) * 0.68
            ta, tb = wa * shoulder, wb * shoulder
            right = [(xa, -wa, la), (xb, -wb, lb), (xb, -wb, mb), (xa, -wa, ma)]
            left = [(xb, wb, lb), (xa, wa, la), (xa, wa, ma), (xb, wb, mb)]
            top = [(xa, -ta, ha), (xb, -tb, hb), (xb, tb, hb), (xa, ta, ha)]
            slope = [(xa, -wa, ma), (xb, -wb, mb), (xb, -tb, hb), (xa, -ta, ha)]
            self.face(slope, label, sides, colour)
            slope = [(xb, wb, mb), (xa, wa, ma), (xa, ta, ha), (xb, tb, hb)]
            self.face(slope, label, sides, colour)
            self.face(right, label, sides, colour, (0.0, xa, 1.0))
            self.face(left, label, sides, colour, (0.0, xb, -1.0))
            self.face(top, label, Mat.BODY, colour, params)
        x, w, low, high = sections[0]
        t, m = w * shoulder, low + (high - low) * 0.68
        rear = [(x, w, low), (x, -w, low), (x, -w, m), (x, -t, high), (x, t, high), (x, w, m)]
        self.face(rear, label, ends[0], colour, params)
        x, w, low, high = sections[-1]
        t, m = w * shoulder, low + (high - low) * 0.68
        front = [(x, -w, low), (x, w, low), (x, w, m), (x, t, high), (x, -t, high), (x, -w, m)]
        self.face(front, label, ends[1], colour, params)

    def disc(
        self,
        centre: Sequence[float],
        radius: float,
        normal_y: int,
        label: int,
        mat: int,
        colour: Sequence[float],
        params: Sequence[float] = (),
        sides: int = 12,
    ) -> None:
        """A regular polygon in the xz plane that faces `normal_y` (+1 or -1)."""
        angle = np.arange(sides) * (2 * np.pi / sides) - np.pi / 2 - np.pi / sides
        x = centre[0] - normal_y * radius * np.cos(angle)
        z = centre[2] + radius * np.sin(angle)
        corners = np.stack([x, np.full(sides, centre[1]), z], axis=1)  # [sides, 3]
        self.face(corners.tolist(), label, mat, colour, params)

    def capsule(
        self,
        a: Sequence[float],
        b: Sequence[float],
        radius_a: float,
        radius_b: float,
        label: int,
        mat: int,
        colour: Sequence[float],
        params: Sequence[float] = (),
        *,
        alpha: int = 0,
    ) -> None:
        """A limb from `a` to `b`; `a == b` gives a ball. `alpha` makes a ragged outline."""
        row = self._row(label, mat, colour, params)
        row[ORIGIN], row[ALPHA] = a, alpha
        self._ends.append((*a, *b, radius_a, radius_b))
        self._caps.append(row)

    def build(self) -> Mesh:
        """Pack what was collected."""
        return Mesh(
            np.array(self._verts, dtype=np.float64).reshape(-1, 3),
            np.array(self._counts, dtype=np.int64),
            np.array(self._faces, dtype=np.float64).reshape(-1, COLUMNS),
            np.array(self._ends, dtype=np.float64).reshape(-1, 8),
            np.array(self._caps, dtype=np.float64).reshape(-1, COLUMNS),
        )


Vector = tuple[float, float, float]


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Vector, b: Vector) -> Vector:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _unit(a: Vector) -> Vector:
    size = max(_dot(a, a) ** 0.5, 1e-12)
    return (a[0] / size, a[1] / size, a[2] / size)
