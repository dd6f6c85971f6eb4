# SPDX-License-Identifier: Apache-2.0
"""Street furniture and plants about their foot; the street runs along x, the road is at y < 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .mesh import BARS, LEAVES, TWIGS, Mat, Mesh, MeshBuilder

BUILDING, FENCE, POLE, LIGHT, SIGN, PLANT, UNLABELLED = 2, 4, 5, 6, 7, 8, 255
GREY, DARK = (0.30, 0.31, 0.32), (0.03, 0.03, 0.035)


def lamp(rng: np.random.Generator, height: float, reach: float) -> Mesh:
    """A street lamp whose head hangs `reach` over the road."""
    b = MeshBuilder(float(rng.uniform(0, 97)))
    colour = GREY if rng.random() < 0.6 else DARK
    b.capsule((0, 0, 0), (0, 0, 1.2), 0.10, 0.09, POLE, Mat.CLOTH, colour)
    b.capsule((0, 0, 1.2), (0, 0, height - 0.3), 0.075, 0.05, POLE, Mat.CLOTH, colour)
    b.capsule((0, 0, height - 0.3), (0, -reach, height), 0.05, 0.035, POLE, Mat.CLOTH, colour)
    head = (-0.12, -reach - 0.55, height - 0.08), (0.12, -reach + 0.05, height + 0.06)
    b.box(*head, POLE, Mat.PLAIN, colour)
    (x0, y0, z0), (x1, y1, _) = head
    under = [(x0, y1, z0), (x1, y1, z0), (x1, y0, z0), (x0, y0, z0)]
    b.face(under, POLE, Mat.LAMP, (0.8, 0.8, 0.75), (1.0,), two_sided=True)
    return b.build()


def signal(rng: np.random.Generator, state: int, side: int) -> Mesh:
    """A traffic light that faces -x; `state` 0 red, 1 amber, 2 green; `side` +1 left of road."""
    b = MeshBuilder(float(rng.uniform(0, 97)))
    top = rng.uniform(3.2, 3.7)
    b.capsule((0, 0, 0), (0, 0, top), 0.06, 0.05, POLE, Mat.CLOTH, GREY)
    w, h = 0.17, 1.0
    heads = [(0.0, top - 1.1)]
    if rng.random() < 0.4:
        b.capsule((0, 0, top), (0, 0, 5.4), 0.05, 0.05, POLE, Mat.CLOTH, GREY)
        b.capsule((0, 0, 5.4), (0, -3.6 * side, 5.7), 0.06, 0.045, POLE, Mat.CLOTH, GREY)
        heads.append((-3.5 * side, 4.7))
    backing = rng.random() < 0.6
    for y, z in heads:
        if backing:
            b.box((-0.02, y - w - 0.12, z - 0.1), (0.02, y + w + 0.12, z + h + 0.1), LIGHT,
                  Mat.PLAIN, (0.015, 0.015, 0.015))  # fmt: skip
        b.box((-0.12, y - w, z), (0.12, y + w, z + h), LIGHT, Mat.PLAIN, DARK, bottom=True)
        lens = [(-0.13, y + w, z), (-0.13, y - w, z), (-0.13, y - w, z + h), (-0.13, y + w, z + h)]
        b.face(lens, LIGHT, Mat.SIGNAL, DARK, (float(state),))
    return b.build()


def sign(rng: np.random.Generator) -> Mesh:
    """A sign on a post that faces -x: disc, triangle, rectangle or direction board."""
    b = MeshBuilder(float(rng.uniform(0, 97)))
    kind = int(rng.choice([0, 0, 1, 1, 2, 3, 4]))
    z = rng.uniform(2.2, 2.7)
    b.capsule((0, 0, 0), (0, 0, z + 0.3), 0.04, 0.04, POLE, Mat.CLOTH, GREY)
    size = (0.34, 0.42, 0.36, 0.8, 0.34)[kind] * rng.uniform(0.9, 1.5)
    if kind in (0, 4):
        angle = np.arange(14) * (2 * np.pi / 14) - np.pi / 2 - np.pi / 14
    elif kind == 1:
        angle = np.array([-5 / 6, -1 / 6, 0.5]) * np.pi
    else:
        angle = np.empty(0)
    if len(angle):
        across, up = size * np.cos(angle), size * np.sin(angle)
    else:
        tall = 0.5 if kind == 3 else 1.2
        across = np.array([-size, size, size, -size])
        up = np.array([-size, -size, size, size]) * tall
    # Seen from -x, image right is -y.
    face = [(-0.06, -a, z + u) for a, u in zip(across, up, strict=True)]
    back = [(-0.05, -a, z + u) for a, u in zip(across[::-1], up[::-1], strict=True)]
    b.face(face, SIGN, Mat.SIGN, (0.8, 0.8, 0.8), (float(kind), size))
    b.face(back, SIGN, Mat.PLAIN, GREY)
    return b.build()


def hanging_sign(rng: np.random.Generator, colour: Sequence[float]) -> Mesh:
    """A shop's board that sticks out over the pavement; part of its building."""
    b = MeshBuilder(float(rng.uniform(0, 97)))
    z, w = rng.uniform(2.9, 3.8), rng.uniform(0.5, 0.9)
    b.box((-0.05, -w, z), (0.05, 0.0, z + rng.uniform(0.4, 1.0)), 2, Mat.PANEL, colour, (3.0,),
          bottom=True)  # fmt: skip
    return b.build()


def bollard(rng: np.random.Generator) -> Mesh:
    """A dark bollard about a metre high."""
    b = MeshBuilder(float(rng.uniform(0, 97)))
    b.capsule((0, 0, 0), (0, 0, rng.uniform(0.85, 1.05)), 0.08, 0.07, POLE, Mat.CLOTH, DARK)
    return b.build()


def shelter(rng: np.random.Generator) -> Mesh:
    """A bus shelter: posts, roof and an advertisement, counted as part of the built street."""
    b = MeshBuilder(float(rng.uniform(0, 97)))
    colour = DARK if rng.random() < 0.5 else (0.25, 0.26, 0.27)
    for x in (0.1, 3.5):
        b.capsule((x, 1.1, 0), (x, 1.1, 2.3), 0.05, 0.05, BUILDING, Mat.CLOTH, colour)
    b.box((0.0, 0.0, 2.3), (3.6, 1.3, 2.42), BUILDING, Mat.PLAIN, colour, bottom=True)
    for z in (0.3, 1.2, 2.1):
        b.box((0.1, 1.08, z), (3.5, 1.12, z + 0.06), BUILDING, Mat.PLAIN, colour)
    poster = tuple(rng.uniform(0.05, 0.6, 3))
    b.box((0.0, 0.1, 0.35), (0.14, 1.2, 2.2), BUILDING, Mat.PANEL, poster, (3.0,))
    b.box((0.8, 0.8, 0.45), (2.8, 1.05, 0.52), BUILDING, Mat.PLAIN, colour, bottom=True)
    return b.build()


def post(rng: np.random.Generator) -> Mesh:
    """A thin post of its own: a sign's back, a telegraph pole, a camera mast."""
    b = MeshBuilder(float(rng.uniform(0, 97)))
    tall = rng.uniform(2.2, 4.0) if rng.random() < 0.6 else rng.uniform(6.0, 9.0)
    r = 0.035 if tall < 5 else 0.10
    colour = GREY if rng.random() < 0.6 else (0.12, 0.09, 0.06)
    b.capsule((0, 0, 0), (0, 0, tall), r, r * 0.8, POLE, Mat.CLOTH, colour)
    return b.build()


def railing() -> Mesh:
    """Two metres of guard railing at the kerb."""
    b = MeshBuilder(3.0)
    corners = [(0, 0, 0), (2.0, 0, 0), (2.0, 0, 1.05), (0, 0, 1.05)]
    b.face(corners, FENCE, Mat.PLAIN, (0.22, 0.23, 0.23), (0.11,), alpha=BARS, two_sided=True)
    return b.build()


def bin_or_box(rng: np.random.Generator) -> Mesh:
    """A litter bin, post box, cabinet or shelter-like object, unlabelled."""
    b = MeshBuilder(float(rng.uniform(0, 97)))
    colour = ((0.02, 0.02, 0.02), (0.45, 0.02, 0.02), (0.05, 0.12, 0.06), GREY)[
        int(rng.integers(4))
    ]
    if rng.random() < 0.5:
        h = rng.uniform(0.9, 1.5)
        b.capsule((0, 0, 0.1), (0, 0, h), 0.25, 0.25, UNLABELLED, Mat.CLOTH, colour)
    else:
        w = rng.uniform(0.4, 0.8)
        b.box((-w, -0.2, 0), (w, 0.2, rng.uniform(0.9, 1.4)), UNLABELLED, Mat.PLAIN, colour)
    return b.build()


def tree(rng: np.random.Generator, bare: bool) -> Mesh:
    """A broadleaf in leaf or bare, or a conifer."""
    b = MeshBuilder(float(rng.uniform(0, 97)))
    height, trunk = rng.uniform(5.0, 13.0), rng.uniform(1.8, 3.2)
    bark = np.array((0.10, 0.08, 0.06)) * rng.uniform(0.6, 1.5)
    leaf = np.array((0.06, 0.10, 0.025)) * rng.uniform(0.6, 1.6) * rng.uniform(0.7, 1.3, 3)
    if rng.random() < 0.15:
        leaf = np.array((0.22, 0.12, 0.02)) * rng.uniform(0.6, 1.2)
    thick = 0.03 * height * rng.uniform(0.7, 1.1)
    crown = height - trunk
    mat, alpha = (Mat.BARE, TWIGS) if bare else (Mat.FOLIAGE, LEAVES)
    if not bare and rng.random() < 0.15:  # conifer
        b.capsule((0, 0, 0), (0, 0, height * 0.5), thick, thick * 0.6, PLANT, Mat.BARK, bark)
        for i in range(5):
            z, r = 1.2 + i * (height - 2) / 5, height * 0.19 * (1 - i / 5.5)
            top = z + (height - 2) / 4
            b.capsule((0, 0, z), (0, 0, top), r, r * 0.35, PLANT, mat, leaf * 0.6, alpha=LEAVES)
        return b.build()
    b.capsule((0, 0, 0), (0, 0, trunk), thick, thick * 0.75, PLANT, Mat.BARK, bark)
    lean = rng.uniform(-0.06, 0.06, 2) * height
    top = (lean[0], lean[1], trunk + crown * (0.75 if bare else 0.4))
    b.capsule((0, 0, trunk), top, thick * 0.75, thick * 0.2, PLANT, Mat.BARK, bark)
    for _ in range(7 if bare else 3):
        a, z = rng.uniform(0, 2 * np.pi), trunk + crown * rng.uniform(0.0, 0.35)
        r, up = crown * rng.uniform(0.25, 0.45), crown * rng.uniform(0.25, 0.5)
        tip = (r * np.cos(a), r * np.sin(a), z + up)
        foot = (lean[0] * 0.2, lean[1] * 0.2, z)
        b.capsule(foot, tip, thick * 0.4, thick * 0.1, PLANT, Mat.BARK, bark)
        if bare:
            for _twig in range(2):
                d = rng.normal(0, 0.12, 3) * crown + (0, 0, 0.15 * crown)
                b.capsule(tip, tuple(np.array(tip) + d), thick * 0.1, 0.015, PLANT, Mat.BARK, bark)
    for _ in range(int(rng.integers(4, 9))):
        a, z = rng.uniform(0, 2 * np.pi), trunk + crown * rng.uniform(0.3, 0.82)
        reach = crown * rng.uniform(0.05, 0.30)
        at = (reach * np.cos(a) + lean[0] * 0.5, reach * np.sin(a) + lean[1] * 0.5, z)
        size = crown * rng.uniform(0.24, 0.40)
        shade = rng.uniform(0.8, 1.2)
        colour = bark * 1.4 if bare else leaf * shade
        b.seed = float(rng.uniform(0, 97))
        b.capsule(at, at, size, size, PLANT, mat, colour, alpha=alpha)
    return b.build()


def bush(rng: np.random.Generator) -> Mesh:
    """A shrub of a few leafy balls."""
    b = MeshBuilder()
    leaf = np.array((0.06, 0.10, 0.03)) * rng.uniform(0.5, 1.7) * rng.uniform(0.7, 1.3, 3)
    for _ in range(int(rng.integers(2, 5))):
        r = rng.uniform(0.45, 1.0)
        at = (rng.uniform(-0.7, 0.7), rng.uniform(-0.3, 0.5), r * 0.7)
        b.seed = float(rng.uniform(0, 97))
        b.capsule(at, at, r, r, PLANT, Mat.FOLIAGE, leaf * rng.uniform(0.8, 1.2), alpha=LEAVES)
    return b.build()


def hedge(rng: np.random.Generator, length: float) -> Mesh:
    """A clipped hedge along x with a ragged top."""
    b = MeshBuilder(float(rng.uniform(0, 97)))
    leaf = np.array((0.05, 0.09, 0.025)) * rng.uniform(0.5, 1.7) * rng.uniform(0.7, 1.3, 3)
    high = rng.uniform(0.8, 2.4)
    b.box((0, 0, 0), (length, 0.8, high), PLANT, Mat.FOLIAGE, leaf)
    steps = int(length / 1.2)
    for x in (np.arange(steps) + 0.5) * length / max(steps, 1):
        r = rng.uniform(0.50, 0.70)
        at = (x, 0.35, high - 0.28)
        b.seed = float(rng.uniform(0, 97))
        b.capsule(at, at, r, r, PLANT, Mat.FOLIAGE, leaf, alpha=LEAVES)
    return b.build()
