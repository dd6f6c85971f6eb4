# SPDX-License-Identifier: Apache-2.0
"""Pinhole camera of the street scenes: world (x forward, y left, z up) to optical frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEAR_M = 0.25  # nothing nearer than this is drawn


@dataclass(frozen=True)
class Camera:
    """A posed pinhole camera.

    The optical frame is x right, y down, z forward (REP-103). Pixel `(u, v)` names the pixel's
    centre, so its ray is `((u - cx) / fx, (v - cy) / fy, 1)`.

    Attributes:
        width, height: image size in pixels.
        k: `[3, 3]` float64 intrinsics in pixels.
        position: `[3]` optical centre in the world, metres.
        rotation: `[3, 3]` world to optical frame, `p_cam = rotation @ (p - position)`.
    """

    width: int
    height: int
    k: np.ndarray
    position: np.ndarray
    rotation: np.ndarray

    @staticmethod
    def looking(
        width: int,
        height: int,
        k: np.ndarray,
        position: np.ndarray,
        yaw: float,
        pitch: float,
        roll: float,
    ) -> Camera:
        """Camera from yaw (left positive), pitch (down positive) and roll, in radians."""
        cy, sy = np.cos(yaw), np.sin(yaw)
        cp, sp = np.cos(pitch), np.sin(pitch)
        cr, sr = np.cos(roll), np.sin(roll)
        forward = np.array([cy * cp, sy * cp, -sp])
        right = np.array([sy, -cy, 0.0])
        down = np.cross(forward, right)
        rotation = np.stack([cr * right + sr * down, cr * down - sr * right, forward])  # [3, 3]
        return Camera(width, height, k, np.asarray(position, dtype=np.float64), rotation)

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points `[N, 3]` in the optical frame `[N, 3]`."""
        return (points - self.position) @ self.rotation.T

    def pixel_rays(self) -> tuple[np.ndarray, np.ndarray]:
        """Normalised image coordinates: x of every column `[W]`, y of every row `[H]`."""
        x = (np.arange(self.width) - self.k[0, 2]) / self.k[0, 0]
        y = (np.arange(self.height) - self.k[1, 2]) / self.k[1, 1]
        return x.astype(np.float32), y.astype(np.float32)

    def world_axis(self, axis: int) -> np.ndarray:
        """Component `axis` of every pixel's world ray of unit depth, `[H, W]` float32."""
        x, y = self.pixel_rays()
        r = self.rotation.astype(np.float32)
        return x[None, :] * r[0, axis] + (y * r[1, axis] + r[2, axis])[:, None]  # [H, W]
