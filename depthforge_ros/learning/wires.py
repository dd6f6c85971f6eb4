# SPDX-License-Identifier: Apache-2.0
"""Overhead wires of trams, trolleybuses and telephones in training images.

Annotators leave wires out: labels and depth stay those of what is behind, so that a sky with wires
is not taken for a building.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from depthforge_ros.learning.label_ids import BUILDING, SKY, VEGETATION
from depthforge_ros.learning.samples import Sample

BEHIND = (SKY, BUILDING, VEGETATION)
NEAREST_M = 8.0
MAX_SPANS, MAX_LENGTHWISE = 6, 5
SUBPIXEL_BITS = 4


def with_wires(sample: Sample, centre: tuple[float, float], rng: np.random.Generator) -> Sample:
    """Return the sample with wires across the street and along it, before what is far away.

    centre: principal point (u, v) in pixels; wires along the street run towards about there.
    """
    height, width = sample.labels.shape
    cover = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(0, MAX_SPANS + 1))):
        left, right = rng.uniform(-0.3, 0.6, 2) * height + 0.1 * centre[1]
        ends = np.array([(-5.0, left), (width + 5.0, right)])
        _draw(cover, ends, rng.uniform(0, 0.06) * height, rng)
    vanishing = np.array(centre) + rng.normal(0, 0.06, 2) * (width, height)
    for _ in range(int(rng.integers(0, MAX_LENGTHWISE + 1))):
        above = np.array([rng.uniform(-0.3, 1.3) * width, -5.0])
        _draw(cover, np.array([above, vanishing]), rng.uniform(0, 0.02) * height, rng)
    behind = np.isin(sample.labels, BEHIND)
    if sample.depth_m is not None:
        behind &= ~(sample.depth_m < NEAREST_M)  # NaN is unknown, not near
    alpha = cover.astype(np.float32) * behind * np.float32(rng.uniform(0.25, 0.95) / 255)
    if rng.random() < 0.5:
        alpha = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.4, 1.0)) * behind
    rgb = sample.rgb * (1 - alpha[..., None] * np.float32(rng.uniform(0.5, 1.0)))
    return replace(sample, rgb=rgb.astype(np.uint8))


def _draw(cover: np.ndarray, ends: np.ndarray, sag: float, rng: np.random.Generator) -> None:
    """Draw a wire between two points (u, v) [2, 2] into cover [H, W], in place. sag: pixels."""
    share = np.linspace(0, 1, 24)[:, None]
    points = ends[0] + share * (ends[1] - ends[0])
    points[:, 1:] += 4 * sag * share * (1 - share)
    fixed = np.round(points * (1 << SUBPIXEL_BITS)).astype(np.int32)
    strength = float(rng.uniform(90, 255))
    cv2.polylines(cover, [fixed], False, strength, 1, cv2.LINE_AA, SUBPIXEL_BITS)
