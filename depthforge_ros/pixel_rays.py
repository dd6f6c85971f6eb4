# SPDX-License-Identifier: Apache-2.0
"""Viewing rays of an image's pixels, in the optical frame: x right, y down, z forward (REP-103)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PixelRays:
    """x and y of each pixel's ray at z = 1, float32, of shapes that broadcast to [H, W].

    [1, W] and [H, 1] for a pinhole camera, [H, W] for a lens that distorts. NaN: the pixel has no
    known ray.
    """

    x: np.ndarray
    y: np.ndarray

    def at(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the rays of pixels, rows and columns [n], as [n, 3] float64 with z = 1."""
        x = self.x[rows if self.x.shape[0] > 1 else 0, columns]
        y = self.y[rows, columns if self.y.shape[1] > 1 else 0]
        return np.stack([x, y, np.ones_like(x)], -1).astype(np.float64)


def pixel_rays(camera: np.ndarray | PixelRays, height: int, width: int) -> PixelRays:
    """Return the rays of an image of that size; the same object for the same camera.

    camera: [3, 3] intrinsics K of a pinhole camera, pixel centres at whole numbers; or its rays.
    Raises ValueError for rays of another size.
    """
    if isinstance(camera, PixelRays):
        shape = np.broadcast_shapes(camera.x.shape, camera.y.shape)
        if shape != (height, width):
            raise ValueError(f"rays are of {shape[1]}x{shape[0]}; expected {width}x{height}")
        return camera
    return _pinhole_rays(np.asarray(camera, np.float64).tobytes(), height, width)


@functools.lru_cache(maxsize=16)
def _pinhole_rays(intrinsics: bytes, height: int, width: int) -> PixelRays:
    k = np.frombuffer(intrinsics).reshape(3, 3)
    x = (np.arange(width) - k[0, 2]) / k[0, 0]
    y = (np.arange(height) - k[1, 2]) / k[1, 1]
    return PixelRays(x.astype(np.float32)[None, :], y.astype(np.float32)[:, None])
