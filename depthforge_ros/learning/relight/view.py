# SPDX-License-Identifier: Apache-2.0
"""What the relighting knows of an image: linear light, labels and the place of every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from depthforge_ros.learning.label_ids import ROAD, SIDEWALK, SKY, TERRAIN
from depthforge_ros.learning.samples import Sample

GROUND = (ROAD, SIDEWALK, TERRAIN)
FAR_M = 300.0
CAMERA_HEIGHT_M = 1.4
"""Assumed height of the camera above the road."""
LINEAR = (np.arange(256) / 255.0).astype(np.float32) ** 2.2
LUMA = np.array([0.3, 0.59, 0.11], np.float32)


@dataclass(frozen=True)
class View:
    """One image in linear light and its geometry; camera axes x right, y down, z forward, metres.

    light: [H, W, 3] float32, 0..1. labels: [H, W] uint8 trainId. x_m, y_m, z_m: [H, W] float32,
    `FAR_M` deep where the sky is. ground, sky: [H, W] bool. focal_px, centre (u, v): of the camera.
    """

    light: np.ndarray
    labels: np.ndarray
    x_m: np.ndarray
    y_m: np.ndarray
    z_m: np.ndarray
    ground: np.ndarray
    sky: np.ndarray
    focal_px: float
    centre: tuple[float, float]

    @staticmethod
    def of(sample: Sample, centre: tuple[float, float]) -> View:
        """Return the view of a sample with depth. centre: principal point (u, v), pixels."""
        assert sample.depth_m is not None
        assert sample.focal_px is not None
        height, width = sample.labels.shape
        z_m = np.nan_to_num(sample.depth_m, nan=30.0, posinf=FAR_M).clip(0.5, FAR_M)
        z_m = z_m.astype(np.float32)
        u, v = rays(height, width, sample.focal_px, centre)
        return View(
            LINEAR[sample.rgb],
            sample.labels,
            u[None] * z_m,
            v[:, None] * z_m,
            z_m,
            np.isin(sample.labels, GROUND),
            sample.labels == SKY,
            sample.focal_px,
            centre,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.labels.shape
        return height, width


def rays(
    height: int, width: int, focal_px: float, centre: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """x [W] of every column and y [H] of every row at unit depth."""
    u = (np.arange(width, dtype=np.float32) - centre[0]) / focal_px
    v = (np.arange(height, dtype=np.float32) - centre[1]) / focal_px
    return u, v


def luma(light: np.ndarray) -> np.ndarray:
    """Brightness [H, W] of light [H, W, 3]."""
    return light @ LUMA


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """A wide Gaussian blur, computed on a smaller image where it is wide."""
    height, width = image.shape[:2]
    shrink = 1 << max(0, int(np.log2(max(sigma, 1.0) / 2)))
    if shrink == 1:
        return cv2.GaussianBlur(image, (0, 0), sigma)
    small = cv2.resize(
        image,
        (max(2, width // shrink), max(2, height // shrink)),
        interpolation=cv2.INTER_AREA,
    )
    small = cv2.GaussianBlur(small, (0, 0), sigma / shrink)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def cloudy(shape: tuple[int, int], cell: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise [H, W] in 0..1 with bumps of about `cell` pixels, two octaves."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    for size, weight in ((cell, 0.65), (cell / 2.5, 0.35)):
        grid = (max(2, int(height / size) + 2), max(2, int(width / size) + 2))
        coarse = rng.random(grid, dtype=np.float32)
        total += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return total.clip(0, 1)


def hashed(*cells: np.ndarray, seed: int) -> np.ndarray:
    """Return a number in 0..1 for every combination of whole numbers, the same for the same one."""
    value = np.full(cells[0].shape, seed * 0.1371, np.float32)
    for index, cell in enumerate(cells):
        value += cell.astype(np.float32) * np.float32(12.9898 + 65.2345 * index)
    value = np.sin(value) * 43758.5453
    return value - np.floor(value)
