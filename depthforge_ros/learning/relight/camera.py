# SPDX-License-Identifier: Apache-2.0
"""From linear light to the bytes of a camera at its limit: glow, noise, blur, tone, compression."""

from __future__ import annotations

import cv2
import numpy as np

from depthforge_ros.learning.relight.view import blurred, luma

MIN_LIGHT = 1e-4


def glow(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """What bright sources scatter in lens and air: three Gaussians, sometimes a streak or star.

    light: [H, W, 3], 1 is the brightest that the sensor tells apart. strength: scattered share.
    """
    height = light.shape[0]
    bright = np.minimum(np.maximum(light - 0.8, 0), 60.0)
    if not bright.any():
        return light
    shares = rng.dirichlet((2.0, 2.0, 1.0)) * strength
    sigmas = (0.006 * height, 0.03 * height, 0.12 * height)
    result = light.copy()
    for share, sigma in zip(shares, sigmas, strict=True):
        result += np.float32(share) * blurred(bright, max(0.8, sigma * rng.uniform(0.6, 1.6)))
    if rng.random() < 0.25:  # a wiped windscreen smears across the wiper's way
        length = int(height * rng.uniform(0.1, 0.5)) | 1
        streak = cv2.blur(bright, (3, length) if rng.random() < 0.7 else (length, 3))
        result += np.float32(strength * rng.uniform(0.5, 2.0)) * streak
    if rng.random() < 0.3:
        result += np.float32(strength) * star(bright, rng)
    return result


def star(bright: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rays [H, W, 3] that the blades of an aperture or fine scratches draw from bright sources."""
    reach = int(bright.shape[0] * rng.uniform(0.08, 0.35)) | 1
    turn = rng.uniform(0, np.pi)
    rays = np.zeros_like(bright)
    count = int(rng.integers(1, 5))
    middle = reach // 2
    away = np.hypot(*np.mgrid[-middle : middle + 1, -middle : middle + 1]) / (middle + 1)
    fade = (1 - away.clip(0, 1)).astype(np.float32) ** 2
    for index in range(count):
        angle = turn + np.pi * index / count
        end = middle * np.array((np.cos(angle), np.sin(angle)))
        kernel = np.zeros((reach, reach), np.float32)
        first, last = (np.round(middle + sign * end).astype(int).tolist() for sign in (-1, 1))
        cv2.line(kernel, first, last, 1.0)
        kernel *= fade
        rays += cv2.filter2D(bright, -1, kernel / kernel.sum())
    return rays * np.float32(rng.uniform(1.0, 4.0) / count)


def exposed(
    light: np.ndarray, key: float, quantile: float, most: float = np.inf
) -> tuple[np.ndarray, float]:
    """Return light whose brightness has `key` as that quantile, and the factor, at most `most`."""
    level = float(np.quantile(luma(light[::4, ::4]), quantile))
    factor = min(key / max(level, MIN_LIGHT), most)
    return light * np.float32(factor), factor


def developed(light: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Bytes [H, W, 3] of exposed light. noise: 0 a bright day, 1 the highest ISO."""
    height, width = light.shape[:2]
    image = light.clip(0, 1)
    electrons = 4000.0 * 0.02**noise * rng.uniform(0.6, 1.6)
    read = 0.002 + 0.02 * noise * rng.uniform(0.3, 1.0)
    grain = rng.standard_normal((height, width, 3), dtype=np.float32)
    if rng.random() < 0.6:  # demosaicing makes neighbours alike
        grain = cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.5, 1.0)) * 1.8
    image = image + grain * np.sqrt(image / electrons + read * read)
    image = image.clip(0, 1)
    if rng.random() < 0.5 * noise:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.2))  # denoising
    gamma = 1 / rng.uniform(1.8, 2.5)
    image = image**gamma
    contrast = rng.uniform(-0.1, 0.5)  # towards a smooth step
    image = image + contrast * (image * image * (3 - 2 * image) - image)
    image = rng.uniform(0, 0.04) + image * rng.uniform(0.9, 1.0)
    grey = luma(image)[..., None]
    image = grey + (image - grey) * np.float32(rng.uniform(0.6, 1.3))
    rgb = (255 * image).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        rgb = moved(rgb, rng)
    if rng.random() < 0.5:
        quality = int(rng.integers(35, 92))
        _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        rgb = np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
    return rgb


def moved(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Motion blur along a random, mostly level direction."""
    size = int(rng.choice([3, 5, 7]))
    kernel = np.zeros((size, size), np.float32)
    angle = rng.normal(0, 0.4)
    for step in np.linspace(-0.5, 0.5, 4 * size):
        x = round((size - 1) * (0.5 + step * np.cos(angle)))
        y = round((size - 1) * (0.5 + step * np.sin(angle)))
        kernel[np.clip(y, 0, size - 1), np.clip(x, 0, size - 1)] += 1
    return cv2.filter2D(rgb, -1, kernel / kernel.sum())
