# SPDX-License-Identifier: Apache-2.0
"""Deterministic noise: one tileable fractal texture and an integer hash."""

from __future__ import annotations

import numpy as np

NOISE_SIZE = 512
NOISE_MASK = NOISE_SIZE - 1


def _tileable_fbm(exponent: float, seed: int) -> np.ndarray:
    """Tileable noise whose amplitude falls as frequency**-exponent, uniform in 0..1."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((NOISE_SIZE, NOISE_SIZE)))  # [S, S/2+1]
    fy = np.fft.fftfreq(NOISE_SIZE)[:, None]
    fx = np.fft.rfftfreq(NOISE_SIZE)[None, :]
    frequency = np.hypot(fx, fy)
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(spectrum / frequency**exponent, s=(NOISE_SIZE, NOISE_SIZE))
    rank = np.argsort(np.argsort(field.ravel())).reshape(field.shape)
    return (rank / (field.size - 1)).astype(np.float32)


FBM = _tileable_fbm(1.5, 11)  # clouds, foliage, stains
GRAIN = _tileable_fbm(0.6, 12)  # asphalt, plaster


def sample(texture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Nearest texel of a tileable texture at texel coordinates `u`, `v` (any shape)."""
    columns = np.floor(u).astype(np.int32) & NOISE_MASK
    rows = np.floor(v).astype(np.int32) & NOISE_MASK
    return texture.ravel()[rows * NOISE_SIZE + columns]


def smooth(texture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear sample of a tileable texture."""
    fu, fv = np.floor(u), np.floor(v)
    wu, wv = (u - fu).astype(np.float32), (v - fv).astype(np.float32)
    c0, r0 = fu.astype(np.int32) & NOISE_MASK, fv.astype(np.int32) & NOISE_MASK
    c1, r1 = (c0 + 1) & NOISE_MASK, (r0 + 1) & NOISE_MASK
    flat = texture.ravel()
    r0, r1 = r0 * NOISE_SIZE, r1 * NOISE_SIZE
    top = flat[r0 + c0] * (1 - wu) + flat[r0 + c1] * wu
    low = flat[r1 + c0] * (1 - wu) + flat[r1 + c1] * wu
    return top * (1 - wv) + low * wv


def hash01(i: np.ndarray, j: np.ndarray, k: np.ndarray | float) -> np.ndarray:
    """A repeatable number in 0..1 for integer-valued coordinates."""
    with np.errstate(over="ignore"):
        h = np.asarray(i).astype(np.int64).astype(np.uint32) * np.uint32(73856093)
        h ^= np.asarray(j).astype(np.int64).astype(np.uint32) * np.uint32(19349663)
        h ^= (np.asarray(k) * 4096).astype(np.int64).astype(np.uint32) * np.uint32(83492791)
        h ^= h >> np.uint32(13)
        h *= np.uint32(1274126177)
        h ^= h >> np.uint32(16)
    return h.astype(np.float32) * np.float32(1 / 4294967296)


def stream(seed: int, topic: int) -> np.random.Generator:
    """The random stream of one topic of one world."""
    return np.random.default_rng((seed, topic))
