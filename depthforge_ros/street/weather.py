# SPDX-License-Identifier: Apache-2.0
"""Snow and water on surfaces, fog and particles in the air, and the sensor model."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .camera import Camera
from .lighting import Lighting
from .noise import FBM, GRAIN, sample, smooth
from .shade import Surface

VEGETATION, PERSON = 8, 11
LUMA = (0.25, 0.65, 0.10)
_NORMALS = np.random.default_rng(5).standard_normal(1 << 20).astype(np.float32)


def cover_with_snow(s: Surface, light: Lighting, across: np.ndarray, half_width: float) -> None:
    """Whiten what faces up, in place; the carriageway keeps wheel tracks, crowns are dusted."""
    at = np.nonzero(s.depth > 0)[0]
    up, labels = s.normal[2][at], s.labels[at]
    x, y, z = s.x[at], s.y[at], s.z[at]
    patch = smooth(FBM, x * 4.3, y * 4.3 + z * 3)
    fine = smooth(GRAIN, x * 30, y * 30 + z * 30)
    amount = np.clip(
        (light.snow * 1.35 - 0.35 + 0.5 * (patch - 0.5) + 0.3 * (fine - 0.5)) * 3, 0, 1
    )
    cover = amount * np.clip((up - 0.35) * 3, 0.0, 1.0)
    v = np.abs(across[at])
    track = 0.5 + 0.5 * np.cos((np.mod(v, 1.6) / 1.6) * 6.2832)
    driven = np.clip((light.snow - 0.25 + 0.55 * (patch - 0.5) + 0.7 * (track - 0.6)) * 3, 0, 1)
    driven = np.maximum(driven, 0.35 * light.snow) * np.clip(0.55 + light.snow * 0.45, 0, 1)
    cover = np.where((labels == 0) & (z < 0.06), np.where(v < half_width, driven, amount), cover)
    dust = np.clip((fine - 0.75 + 0.45 * light.snow) * 3, 0, 1) * (0.35 + 0.65 * np.maximum(up, 0))
    cover = np.where(labels == VEGETATION, dust, cover)
    cover = np.where((labels == PERSON) | (labels == PERSON + 1), cover * 0.25, cover)
    side = np.clip((patch - 0.8 + 0.25 * light.snow) * 2, 0, 0.5) * (np.abs(up) <= 0.35)
    cover = np.maximum(cover, side * light.snow)
    tone = 0.72 + 0.16 * fine
    for c, white in enumerate((0.97, 0.99, 1.04)):
        s.albedo[c][at] += cover * (tone * white - s.albedo[c][at])
        s.glow[c][at] *= 1 - cover * 0.8
    s.mirror[at] *= 1 - cover


def add_reflections(image: list[np.ndarray], s: Surface, camera: Camera, light: Lighting) -> None:
    """Wet level ground mirrors what stands beyond it (environment taken as distant), in place."""
    height, width = image[0].shape
    level = (s.normal[2] > 0.95) & (s.depth > 0) & (s.labels <= 1)
    at = np.nonzero(level)[0]
    if at.size == 0:
        return
    ray = [camera.world_axis(a).ravel()[at] for a in range(3)]
    rough = 0.05 + 0.12 * (1.0 - light.wet)
    ripple = (sample(GRAIN, s.x[at] * 40, s.y[at] * 40) - 0.5) * 2 * rough
    norm = np.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2)
    mirrored = np.stack([ray[0], ray[1], -ray[2] + ripple * norm])  # [3, N]
    r = camera.rotation.astype(np.float32)
    seen = r @ mirrored
    u = seen[0] / np.maximum(seen[2], 0.05) * camera.k[0, 0] + camera.k[0, 2]
    v = seen[1] / np.maximum(seen[2], 0.05) * camera.k[1, 1] + camera.k[1, 2]
    u = np.clip(np.rint(u), 0, width - 1).astype(np.int64)
    v = np.clip(np.rint(v), 0, height - 1).astype(np.int64)
    grazing = 1.0 + ray[2] / norm  # 1 at the horizon
    puddle = np.clip((smooth(FBM, s.x[at] * 2.3, s.y[at] * 2.3) - 0.45) * 2.5, 0.2, 1.0)
    strength = light.wet * (0.05 + 0.5 * np.maximum(grazing, 0.0) ** 6) * puddle
    index = v * width + u
    for c in range(3):
        flat = image[c].reshape(-1)
        flat[at] = flat[at] * (1 - 0.5 * strength) + np.minimum(flat[index], 2.5) * strength


def add_air(image: list[np.ndarray], s: Surface, camera: Camera, light: Lighting) -> None:
    """Koschmieder: radiance x exp(-k d) + air x (1 - exp(-k d)), d along the ray, in place."""
    if light.extinction <= 0:
        return
    rays_x, rays_y = camera.pixel_rays()
    stretch = np.sqrt(1 + rays_x[None, :] ** 2 + rays_y[:, None] ** 2)
    depth = s.depth.reshape(image[0].shape)
    sky_path = 3.0 / light.extinction if light.extinction > 0.01 else 120.0
    distance = np.where(depth > 0, depth * stretch, sky_path)
    through = np.exp(-np.float32(light.extinction) * distance)
    for c in range(3):
        image[c] *= through
        image[c] += np.float32(light.air[c]) * (1 - through)


def add_bloom(image: list[np.ndarray], exposure: float) -> None:
    """Light scattered in lens and air around bright lamps, in place."""
    height, width = image[0].shape
    f = max(1, round(width / 160))
    hh, ww = (height // f) * f, (width // f) * f
    limit, most = 1.5 / exposure, 14.0 / exposure
    for c in range(3):
        bright = np.clip(image[c][:hh, :ww] - limit, 0, most)
        small = bright.reshape(hh // f, f, ww // f, f).mean(axis=(1, 3))  # [h, w]
        glow = np.zeros_like(small)
        for radius, weight in ((1, 0.40), (3, 0.45), (10, 0.6)):
            glow += weight * _box(_box(small, radius), radius)
        image[c] += _stretched(glow, height, width)


def _stretched(small: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear enlargement to `[height, width]`."""
    for axis, size in ((0, height), (1, width)):
        n = small.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * (n / size) - 0.5, 0, n - 1)
        low = np.floor(at).astype(np.int64)
        high = np.minimum(low + 1, n - 1)
        w = (at - low).astype(np.float32)
        w = w[:, None] if axis == 0 else w[None, :]
        small = small.take(low, axis) * (1 - w) + small.take(high, axis) * w
    return small


def _box(a: np.ndarray, radius: int) -> np.ndarray:
    """Mean over a square of 2 radius + 1, edges repeated."""
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(a, pad, mode="edge"), axis=axis, dtype=np.float64)
        n = 2 * radius + 1
        upper = total[n:] if axis == 0 else total[:, n:]
        lower = total[:-n] if axis == 0 else total[:, :-n]
        a = ((upper - lower) / n).astype(np.float32)
    return a


def add_particles(
    image: list[np.ndarray], depth: np.ndarray, camera: Camera, light: Lighting,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Snowflakes or rain streaks at their own depths, hidden behind nearer surfaces, in place."""
    height, width = depth.shape
    snow = light.flakes > 0
    if not snow and light.streaks <= 0:
        return
    amount = light.flakes if snow else light.streaks
    focal = float(camera.k[0, 0])
    count = int(amount * (5000 if snow else 900) * np.sqrt(width * height / 245760))
    far = np.maximum(rng.uniform(0, 1, count) ** (1 / 2.2) * (25.0 if snow else 12.0), 0.8)
    u, v = rng.uniform(0, width - 1, count), rng.uniform(0, height - 1, count)
    shown = depth[v.astype(np.int64), u.astype(np.int64)] > far
    far, u, v, count = far[shown], u[shown], v[shown], int(shown.sum())
    slant = rng.normal(0.1, 0.15)
    bright = light.ambient * (0.85 if snow else 0.9) + light.lamp * 0.12
    size = focal * (0.012 if snow else 0.0016) / far * rng.uniform(0.5, 1.6, count)
    length = focal * (0.004 if snow else 0.22) / far * rng.uniform(0.5, 1.5, count)
    own = light.headlight * 1.6 / (far + 0.8) ** 2
    if snow:
        specks = size < 1.0
        _splat(image, u[specks], v[specks], np.minimum(size[specks], 0.8), bright, own[specks])
        size, length, own = size[~specks], length[~specks], own[~specks]
        far, u, v = far[~specks], u[~specks], v[~specks]
    for i in range(len(far)):
        near = bright + own[i]
        r, tail = max(size[i], 0.35), max(length[i], 0.05)
        dy, dx = tail, tail * slant
        x0, x1 = int(u[i] - r - abs(dx)), int(u[i] + r + abs(dx)) + 1
        y0, y1 = int(v[i] - r - dy), int(v[i] + r + dy) + 1
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width - 1), min(y1, height - 1)
        if x1 <= x0 or y1 <= y0:
            continue
        if (x1 - x0) * (y1 - y0) > 6000:
            continue
        px = np.arange(x0, x1 + 1, dtype=np.float32)[None, :] - np.float32(u[i])
        py = np.arange(y0, y1 + 1, dtype=np.float32)[:, None] - np.float32(v[i])
        t = np.clip(py / np.float32(dy), -1, 1)
        d2 = ((px - t * np.float32(dx)) ** 2 + (py - t * np.float32(dy)) ** 2) / np.float32(r * r)
        alpha = np.clip(1.15 - d2, 0, 1) * np.float32(
            min(1.0, size[i] / 0.35) * (0.85 if snow else 0.28)
        )
        for c in range(3):
            part = image[c][y0 : y1 + 1, x0 : x1 + 1]
            part += alpha * (np.float32(near[c]) - part)


def _splat(
    image: list[np.ndarray], u: np.ndarray, v: np.ndarray, weight: np.ndarray,
    bright: np.ndarray, own: np.ndarray,
) -> None:  # fmt: skip
    """Blend points smaller than a pixel into their four neighbours, in place."""
    height, width = image[0].shape
    x, y = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    fx, fy = u - x, v - y
    for sx, sy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        share = weight * np.where(sx, fx, 1 - fx) * np.where(sy, fy, 1 - fy)
        at = (np.minimum(y + sy, height - 1), np.minimum(x + sx, width - 1))
        for c in range(3):
            image[c][at] += share * (bright[c] + own - image[c][at])


def add_drops(image: list[np.ndarray], light: Lighting, seed: int, index: int) -> None:
    """Drops on the windscreen: each shows the scene upside down and smaller, in place.

    They stay in place for about a second of frames, until the wiper passes.
    """
    height, width = image[0].shape
    rng = np.random.default_rng((seed, 91, index // 12))
    count = int(light.drops * 45)
    fade = 0.4 + 0.6 * (index % 12) / 12  # they gather after each wipe
    for _ in range(int(count * fade)):
        r = width * rng.uniform(0.003, 0.012)
        u, v, tall = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(1.0, 1.5)
        x0, x1 = max(int(u - r), 0), min(int(u + r) + 1, width)
        y0, y1 = max(int(v - r * tall), 0), min(int(v + r * tall) + 1, height)
        if x1 - x0 < 2 or y1 - y0 < 2:
            continue
        dx = (np.arange(x0, x1, dtype=np.float32)[None, :] - np.float32(u)) / np.float32(r)
        dy = (np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(v)) / np.float32(r * tall)
        d2 = dx * dx + dy * dy
        alpha = np.clip((1.0 - d2) * 2.5, 0, 0.85)
        columns = np.clip(u - dx * r * 5, 0, width - 1).astype(np.int64)
        rows = np.clip(v - dy * r * 5 - 0.05 * height, 0, height - 1).astype(np.int64)
        for c in range(3):
            part = image[c][y0:y1, x0:x1]
            bent = image[c][rows, columns] * (1.05 - 0.35 * d2)
            part += alpha * (bent - part)


def metered(image: list[np.ndarray], light: Lighting) -> float:
    """Exposure of a camera that partly follows the scene's log-average brightness."""
    step = max(1, image[0].shape[0] // 48)
    luminance = sum(k * c[::step, ::step] for k, c in zip(LUMA, image, strict=True))
    average = float(np.exp(np.log(luminance + 1e-4).mean()))
    return light.exposure * float(np.clip(0.18 / average, 0.1, 60.0)) ** light.adapt


def develop(
    image: list[np.ndarray], light: Lighting, exposure: float, rng: np.random.Generator
) -> np.ndarray:
    """Lens blur, vignette, exposure, tone curve, sensor noise; gives `[H, W, 3]` uint8."""
    height, width = image[0].shape
    yy = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    xx = np.linspace(-1, 1, width, dtype=np.float32)[None, :] ** 2
    gain = exposure * (1 - light.vignette * 0.5 * (yy + xx) * 0.7)
    rgb = np.empty((height, width, 3), np.uint8)
    share = np.float32(light.blur)
    start = rng.integers(0, _NORMALS.size, 3)
    grey = sum(k * c for k, c in zip(LUMA, image, strict=True))
    tone = _tone_curve(round(light.contrast, 3))
    for c in range(3):
        a = grey + np.float32(light.saturation) * (image[c] - grey)
        a = a * (gain * np.float32(light.white[c]))
        if share > 0.05 and height > 2 and width > 2:
            b = a.copy()
            b[1:-1] += 0.25 * share * (a[:-2] + a[2:] - 2 * a[1:-1])
            a = b.copy()
            a[:, 1:-1] += 0.25 * share * (b[:, :-2] + b[:, 2:] - 2 * b[:, 1:-1])
        value = np.sqrt(np.clip(a, 0.0, 4.0) * 0.25)
        level = tone[(value * 4095).astype(np.int32)]
        grain = np.take(_NORMALS, np.arange(start[c], start[c] + a.size), mode="wrap").reshape(
            a.shape
        )
        level += (
            grain * np.float32(light.noise) * (0.6 + 0.4 * np.sqrt(level * np.float32(1 / 128)))
        )
        rgb[..., c] = np.clip(level + 0.5, 0, 255).astype(np.uint8)
    return rgb


@lru_cache(maxsize=64)
def _tone_curve(contrast: float) -> np.ndarray:
    """sRGB-like curve with a soft shoulder, over the square root of a quarter of the radiance."""
    x = (np.arange(4096) / 4095) ** 2 * 4.0
    x = 0.18 * (x / 0.18) ** contrast
    x = np.where(x < 0.7, x, 0.7 + 0.3 * (1 - np.exp(-(x - 0.7) / 0.3)))
    srgb = np.where(x < 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return (255 * srgb).astype(np.float32)
