# SPDX-License-Identifier: Apache-2.0
"""Light of each condition: sky, sun, ambient, lamps, exposure; sun visibility and lamp maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .layout import X0_M
from .noise import FBM, smooth, stream
from .world import World

CONDITIONS = ("clear", "dusk", "night", "rain", "snow", "fog")
CELL_M = 0.5
HALF_SPAN_M = 48.0


@dataclass(frozen=True)
class Lighting:
    """Radiometry of one drive; colours are linear RGB, white paper in sunlight is about 1.

    Attributes:
        sun: unit vector towards the sun; sun_rgb: its irradiance, zero when hidden.
        ambient: irradiance from the sky on a level surface.
        zenith, horizon, cloud: sky radiance; cloudiness 0..1.
        lamp, headlight, glow: strength of street lamps, own headlights, windows and vehicle lights.
        exposure, adapt: what radiance is multiplied by before the tone curve, and how far the
            camera follows the scene's brightness (0 fixed, 1 fully).
        drops: density of rain drops on the windscreen.
        contrast, saturation: of the camera's picture, 1 is plain.
        extinction: Koschmieder's coefficient per metre; air: radiance of the haze.
        wet, snow: 0..1 surface state; flakes, streaks: density of falling snow and rain.
        noise: sensor noise at mid grey, in 8-bit steps; blur: share of a 3x3 binomial blur.
        white: channel gains of the camera's white balance.
        bulb: colour of the street lamps' heads, None for warm white.
        other_lamp: light of every second street lamp where two kinds stand, else None.
    """

    sun: np.ndarray
    sun_rgb: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    cloud: np.ndarray
    cloudiness: float
    lamp: np.ndarray
    headlight: float
    glow: float
    exposure: float
    extinction: float
    air: np.ndarray
    wet: float
    snow: float
    flakes: float
    streaks: float
    noise: float
    blur: float
    white: np.ndarray
    vignette: float
    adapt: float
    contrast: float
    saturation: float
    drops: float
    bulb: np.ndarray | None = None
    other_lamp: np.ndarray | None = None


def make_lighting(seed: int, condition: str) -> Lighting:
    """The light of a world under `condition`, varied by seed."""
    rng = stream(seed, 200 + CONDITIONS.index(condition))
    azimuth, height = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(14, 60))
    sun_rgb, ambient = (
        np.array((2.2, 2.0, 1.75)) * rng.uniform(0.7, 1.1),
        np.array((0.5, 0.56, 0.66)),
    )
    zenith, horizon = np.array((0.25, 0.48, 0.95)), np.array((0.80, 0.95, 1.1))
    cloud, cloudiness = np.array((1.25, 1.25, 1.25)), float(rng.choice([0.0, 0.35, 0.6, 1.0]))
    lamp, headlight, glow = np.zeros(3), 0.0, 0.0
    exposure, adapt = np.exp(rng.uniform(-0.75, 0.45)), 0.75
    extinction, wet, snow, flakes, streaks = rng.uniform(0.0, 0.0012), 0.0, 0.0, 0.0, 0.0
    noise, blur = rng.uniform(0.8, 3.5), rng.uniform(0.1, 0.9)
    orange = np.array(((1.0, 0.62, 0.22), (1.0, 0.85, 0.6), (0.85, 0.95, 1.0))[rng.integers(3)])
    dim = 1.0
    if condition == "clear":
        if cloudiness == 1.0:
            sun_rgb, ambient = sun_rgb * 0.08, np.array((1.05, 1.08, 1.12))
            zenith = horizon = np.array((1.15, 1.18, 1.22)) * rng.uniform(0.8, 1.2)
        else:
            zenith, horizon = zenith * rng.uniform(0.8, 1.3), horizon * rng.uniform(0.8, 1.3)
    elif condition == "dusk":
        height = np.deg2rad(rng.uniform(2, 9))
        warm = rng.uniform(0.3, 1.0)
        sun_rgb = np.array((0.55, 0.27, 0.11)) * rng.uniform(0.0, 1.0)
        zenith = np.array((0.07, 0.10, 0.22)) * rng.uniform(0.6, 1.5)
        horizon = np.array((0.55, 0.27, 0.13)) * warm + np.array((0.18, 0.20, 0.28)) * (1.2 - warm)
        ambient = np.array((0.11, 0.115, 0.16)) * rng.uniform(0.7, 1.5)
        cloud = np.array((0.42, 0.26, 0.25)) * rng.uniform(0.5, 1.1)
        lamp, headlight, glow = orange * rng.uniform(0.0, 1.2), rng.uniform(0.0, 2.0), 0.5
        exposure, adapt, noise = rng.uniform(0.45, 0.9), 0.7, rng.uniform(2, 6)
    elif condition == "night":
        sun_rgb = np.zeros(3)
        base = np.array((0.006, 0.007, 0.011)) * rng.uniform(0.3, 2.0)
        zenith, horizon = base * 0.7, base * rng.uniform(1.0, 3.0) + orange * rng.uniform(0, 0.012)
        ambient, cloud = base * 1.0, base * 1.6
        lamp, headlight, glow = orange * rng.uniform(0.3, 2.0), rng.uniform(1.5, 5.0), 1.0
        exposure, adapt = rng.uniform(0.35, 0.9), rng.uniform(0.3, 0.5)
        noise = rng.uniform(3.0, 10.0)
    else:
        dim = float(rng.choice([1.0, 1.0, 0.6, 0.12]))
        grey = np.array((0.92, 0.96, 1.02)) * dim
        sun_rgb, ambient = sun_rgb * 0.0, grey * rng.uniform(0.8, 1.15)
        zenith = horizon = grey * rng.uniform(0.8, 1.2)
        cloud, cloudiness = grey * 0.8, 1.0
        exposure, adapt = rng.uniform(0.7, 1.25) * dim**0.3, 0.8
        if dim < 0.9:
            lamp, headlight, glow = orange * rng.uniform(0.2, 1.2), rng.uniform(0.5, 2.5), 0.8
        noise *= 1.0 if dim > 0.5 else 1.8
    if condition == "rain":
        wet, streaks = rng.uniform(0.6, 1.0), rng.uniform(0.3, 1.0)
        extinction, ambient = rng.uniform(0.002, 0.008), ambient * 0.75
        blur = 1.0
    elif condition == "snow":
        snow, flakes = rng.uniform(0.35, 1.0), float(rng.choice([0.15, 0.5, 0.8, 1.0]))
        extinction = rng.uniform(0.002, 0.018)
        exposure *= rng.uniform(1.0, 1.7)  # white ground should stay white
    elif condition == "fog":
        extinction = -np.log(0.05) / rng.uniform(35.0, 180.0)  # WMO: 5 % contrast at the MOR
        wet = rng.uniform(0.0, 0.4)
    sun = np.array(
        [np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)]
    )
    air = horizon * 0.95 if condition != "night" else horizon + lamp * 0.01
    return Lighting(
        sun, sun_rgb, ambient, zenith, horizon, cloud, cloudiness, lamp, float(headlight), glow,
        float(exposure), float(extinction), air, float(wet), float(snow), flakes, float(streaks),
        float(noise), float(blur), rng.uniform(0.96, 1.04, 3), float(rng.uniform(0.0, 0.35)),
        adapt, float(rng.uniform(0.9, 1.3)), float(rng.uniform(0.5, 1.1)),
        float(rng.choice([0.0, 0.4, 1.0]) * (condition == "rain")),
    )  # fmt: skip


def sky_radiance(
    light: Lighting, dx: np.ndarray, dy: np.ndarray, dz: np.ndarray
) -> list[np.ndarray]:
    """Radiance of the sky in directions `(dx, dy, dz)` of any length, three arrays."""
    norm = 1.0 / np.sqrt(dx * dx + dy * dy + dz * dz)
    up = np.maximum(dz * norm, 0.0)
    fade = np.sqrt(up)
    reach = 90.0 / (up + 0.12) * norm
    puff = smooth(FBM, dx * reach, dy * reach)
    cover = np.clip((puff - (1.0 - light.cloudiness)) * 4, 0.0, 1.0)
    shade = 0.80 + 0.35 * puff
    toward = (dx * light.sun[0] + dy * light.sun[1] + dz * light.sun[2]) * norm
    halo = 0.25 * np.maximum(toward, 0.0) ** 12
    sky = []
    for c in range(3):
        clear = light.horizon[c] + (light.zenith[c] - light.horizon[c]) * fade
        clear = clear + halo * light.sun_rgb[c]
        sky.append(clear + (light.cloud[c] * shade - clear) * cover)
    return sky


class LightMaps:
    """Per-world grids over the ground: height of the sun's shadow, and lamp irradiance.

    The shadow grid holds, for each cell, the height below which a point sees no sun. It is the
    exact answer for upright prisms sampled at `CELL_M`.
    """

    def __init__(self, world: World, light: Lighting) -> None:
        self.rows = int(2 * HALF_SPAN_M / CELL_M)
        self.columns = int((world.x_end + 60 - X0_M) / CELL_M)
        x = X0_M + CELL_M * np.arange(self.columns)
        self.middle = np.asarray(world.road.centre(x)).mean() if world.road.waves else 0.0
        self.x0, self.y0 = X0_M, float(self.middle) - HALF_SPAN_M
        self.shadow = self._shadow(world, light) if light.sun_rgb.max() > 0 else None
        mixed = light.other_lamp is not None
        own, other = (world.lamps[::2], world.lamps[1::2]) if mixed else (world.lamps, None)
        self.lamps = self._lamps(own) if light.lamp.max() > 0 else None
        self.other_lamps = self._lamps(other) if other is not None else None
        shops = len(world.windows) > 0 and light.glow > 0
        self.windows = self._lamps(world.windows) if shops else None

    def _shadow(self, world: World, light: Lighting) -> np.ndarray:
        tops = np.zeros((self.rows, self.columns), np.float32)
        xs = self.x0 + CELL_M * (np.arange(self.columns) + 0.5)
        ys = self.y0 + CELL_M * (np.arange(self.rows) + 0.5)
        for x, y, yaw, half_l, half_d, top in world.blocks:
            c0, c1, r0, r1 = self._window(x, y, float(np.hypot(half_l, half_d)))
            dx, dy = xs[None, c0:c1] - x, ys[r0:r1, None] - y
            along = np.abs(dx * np.cos(yaw) + dy * np.sin(yaw))
            away = np.abs(dy * np.cos(yaw) - dx * np.sin(yaw))
            inside = (along < half_l) & (away < half_d)
            part = tops[r0:r1, c0:c1]
            np.maximum(part, np.where(inside, np.float32(top), 0), out=part)
        for x, y, radius, top in world.crowns:
            c0, c1, r0, r1 = self._window(x, y, radius)
            ragged = radius * (0.75 + 0.5 * FBM[: r1 - r0, : c1 - c0])
            inside = np.hypot(xs[None, c0:c1] - x, ys[r0:r1, None] - y) < ragged
            part = tops[r0:r1, c0:c1]
            np.maximum(part, np.where(inside, np.float32(top), 0), out=part)
        level = np.hypot(light.sun[0], light.sun[1])
        step_x, step_y = light.sun[0] / level, light.sun[1] / level
        drop = light.sun[2] / level
        shadow = np.zeros_like(tops)
        reach = min(tops.max() / max(drop, 0.05), 110.0) if tops.size else 0.0
        for distance in np.arange(0.8, reach, 0.75):
            sx, sy = round(step_x * distance / CELL_M), round(step_y * distance / CELL_M)
            if abs(sx) >= self.columns or abs(sy) >= self.rows:
                break
            src = tops[max(sy, 0) : self.rows + min(sy, 0), max(sx, 0) : self.columns + min(sx, 0)]
            dst = shadow[
                max(-sy, 0) : self.rows + min(-sy, 0), max(-sx, 0) : self.columns + min(-sx, 0)
            ]
            np.maximum(dst, src - np.float32(drop * distance), out=dst)
        return shadow

    def _lamps(self, lamps: np.ndarray) -> np.ndarray:
        total = np.zeros((self.rows, self.columns), np.float32)
        xs = self.x0 + CELL_M * (np.arange(self.columns) + 0.5)
        ys = self.y0 + CELL_M * (np.arange(self.rows) + 0.5)
        for x, y, h, *strength in lamps:
            c0, c1, r0, r1 = self._window(x, y, 22.0)
            d2 = (xs[None, c0:c1] - x) ** 2 + (ys[r0:r1, None] - y) ** 2 + h * h
            pool = (h**3 / d2**1.5).astype(np.float32)
            total[r0:r1, c0:c1] += pool * np.float32(strength[0]) if strength else pool
        return total

    def _window(self, x: float, y: float, radius: float) -> tuple[int, int, int, int]:
        c0, c1 = int((x - radius - self.x0) / CELL_M), int((x + radius - self.x0) / CELL_M) + 2
        r0, r1 = int((y - radius - self.y0) / CELL_M), int((y + radius - self.y0) / CELL_M) + 2
        lim = np.clip
        return (int(lim(c0, 0, self.columns)), int(lim(c1, 0, self.columns)),
                int(lim(r0, 0, self.rows)), int(lim(r1, 0, self.rows)))  # fmt: skip

    def at(self, grid: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Bilinear value of a grid at world points; 0 outside."""
        fx, fy = (x - self.x0) / CELL_M - 0.5, (y - self.y0) / CELL_M - 0.5
        c, r = np.floor(fx), np.floor(fy)
        inside = (c >= 0) & (c < self.columns - 1) & (r >= 0) & (r < self.rows - 1)
        wx, wy = (fx - c).astype(np.float32), (fy - r).astype(np.float32)
        index = np.where(inside, r * self.columns + c, 0).astype(np.int64)
        flat = grid.ravel()
        low = flat[index] * (1 - wx) + flat[index + 1] * wx
        high = flat[index + self.columns] * (1 - wx) + flat[index + self.columns + 1] * wx
        return np.where(inside, low * (1 - wy) + high * wy, 0.0).astype(np.float32)
