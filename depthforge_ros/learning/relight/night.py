# SPDX-License-Identifier: Apache-2.0
"""A daylight image by night: what lamps, headlights, windows and signs make of it.

The image gives the surfaces' reflectance, its depth their places; light falls off with the square
of the distance, as in the renderer, but here on real photographs too.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from depthforge_ros.learning.label_ids import (
    BUILDING,
    BUS,
    CAR,
    LIGHT,
    MOTORCYCLE,
    ROAD,
    SIDEWALK,
    SIGN,
    TRAIN,
    TRUCK,
    VEGETATION,
    WALL,
)
from depthforge_ros.learning.relight.camera import developed, exposed, glow
from depthforge_ros.learning.relight.view import (
    CAMERA_HEIGHT_M,
    View,
    blurred,
    cloudy,
    hashed,
    luma,
)

LAMPS = np.array(
    [
        (1.0, 0.50, 0.12),  # high-pressure sodium
        (1.0, 0.62, 0.25),
        (1.0, 0.80, 0.55),  # warm LED, halogen
        (1.0, 0.95, 0.85),
        (0.80, 0.92, 1.0),  # cold LED
        (0.65, 1.0, 0.85),  # mercury
    ],
    np.float32,
)
TAIL = np.array((1.0, 0.06, 0.03), np.float32)
SIGNALS = np.array(((1.0, 0.08, 0.04), (1.0, 0.5, 0.05), (0.1, 1.0, 0.55)), np.float32)
VEHICLES = (CAR, TRUCK, BUS, TRAIN, MOTORCYCLE)
MAX_VEHICLES = 8


@dataclass
class Sources:
    """What shines itself: radiance [H, W, 3], and whether a pixel is part of a source."""

    light: np.ndarray

    def add(self, u: float, v: float, radius: float, colour: np.ndarray) -> None:
        """A soft disc around (u, v), pixels."""
        height, width = self.light.shape[:2]
        reach = int(np.ceil(2.5 * radius)) + 1
        x0, x1 = max(0, int(u) - reach), min(width, int(u) + reach + 1)
        y0, y1 = max(0, int(v) - reach), min(height, int(v) + reach + 1)
        if x0 >= x1 or y0 >= y1:
            return
        dx = np.arange(x0, x1, dtype=np.float32) - np.float32(u)
        dy = np.arange(y0, y1, dtype=np.float32) - np.float32(v)
        square = (dx[None] ** 2 + dy[:, None] ** 2) / np.float32(radius * radius)
        self.light[y0:y1, x0:x1] += np.exp(-square)[..., None] * colour


def night(view: View, rng: np.random.Generator) -> np.ndarray:
    """Bytes [H, W, 3] of the view by night."""
    wet = rng.random() < 0.4
    albedo = reflectance(view, rng)
    if wet:
        albedo[view.ground] *= np.float32(rng.uniform(0.35, 0.7))
    main = LAMPS[rng.integers(len(LAMPS))]
    sources = Sources(np.zeros_like(albedo))
    sky_glow = main ** np.float32(rng.uniform(0.2, 0.8)) * np.float32(
        np.exp(rng.uniform(-7.5, -3.5))
    )
    if rng.random() < 0.2:  # the last of dusk
        sky_glow = np.array((0.3, 0.45, 0.9), np.float32) * np.float32(np.exp(rng.uniform(-5, -2)))
    received = np.empty_like(albedo)
    received[:] = sky_glow * rng.uniform(0.5, 2.0)
    street_lamps(view, main, received, sources, rng)
    headlights(view, albedo, received, rng)
    if rng.random() < 0.8:
        vehicle_lights(view, received, sources, rng)
    if rng.random() < 0.8:
        windows(view, albedo, sources, rng)
    lit_signs(view, albedo, sources, rng)
    light = albedo * received
    light[view.sky] = (sky_glow * night_sky(view, rng))[view.sky]
    light += sources.light
    if wet:
        reflect(view, light, rng)
    if rng.random() < 0.35:
        haze(view, light, sky_glow + main * 0.02, rng)
    key = float(np.exp(rng.uniform(np.log(0.04), np.log(0.5))))
    light, gain = exposed(light, key, rng.uniform(0.55, 0.9), most=np.exp(rng.uniform(1, 5)))
    light = glow(light, np.exp(rng.uniform(-4.5, -1.2)), rng)
    adapt = luma(light.reshape(-1, 3).mean(0)) / np.maximum(light.reshape(-1, 3).mean(0), 1e-4)
    light *= adapt ** np.float32(rng.uniform(0.0, 0.6))  # white balance, never complete
    return developed(light, rng.uniform(0.2, 1.0) * min(1.0, 0.3 + np.log1p(gain) / 4), rng)


def reflectance(view: View, rng: np.random.Generator) -> np.ndarray:
    """Albedo [H, W, 3]: the image without the broad differences of its light."""
    height = view.shape[0]
    solid = (~view.sky).astype(np.float32)
    brightness = luma(view.light)
    share = blurred(solid, height / 7) + 1e-3
    broad = blurred(brightness * solid, height / 7) / share  # [H, W]
    flat = rng.uniform(0.2, 0.8)
    mean = float((brightness * solid).sum() / max(solid.sum(), 1.0))
    level = flat * broad + (1 - flat) * mean + 0.02
    albedo = view.light * np.float32(rng.uniform(0.15, 0.3)) / level[..., None]
    leaves = view.labels == VEGETATION  # between them the sky is seen
    albedo[leaves] = np.minimum(albedo[leaves], np.float32(rng.uniform(0.08, 0.25)))
    return albedo.clip(0.004, 0.9)


def street_lamps(
    view: View, main: np.ndarray, received: np.ndarray, sources: Sources, rng: np.random.Generator
) -> None:
    """Rows of lamps along both sides: their light on surfaces, and themselves where seen."""
    strength = np.exp(rng.uniform(-2.0, 1.2))
    spacing, start = rng.uniform(14, 36), rng.uniform(-12, 15)
    count = int(rng.integers(0, 8))
    x_m, y_m, z_m = (a[::2, ::2] for a in (view.x_m, view.y_m, view.z_m))
    ground = view.ground[::2, ::2]
    total = np.zeros((*x_m.shape, 3), np.float32)
    sides = ((-1, 1), (-1,), (1,))[rng.integers(3)]
    for side in sides:
        aside, high = rng.uniform(1.0, 11.0), rng.uniform(4.0, 9.5)
        for index in range(count):
            x = side * aside + rng.normal(0, 0.5)
            z = start + spacing * (index + rng.uniform(-0.15, 0.15))
            y = CAMERA_HEIGHT_M - high
            colour = main if rng.random() < 0.85 else LAMPS[rng.integers(len(LAMPS))]
            if rng.random() < 0.1:
                continue  # broken
            dx, dy, dz = x_m - x, y_m - y, z_m - z
            square = dx * dx + dy * dy + dz * dz
            below = np.maximum(dy, 0) / np.sqrt(square)  # a lamp shines downwards
            facing = np.where(ground, below, 0.25 + 0.45 * below)
            total += (facing * (high * high) / np.maximum(square, 1.0))[..., None] * colour
            if z > 2:
                u = view.centre[0] + view.focal_px * x / z
                v = view.centre[1] + view.focal_px * y / z
                row, column = round(v), round(u)
                inside = 0 <= row < view.shape[0] and 0 <= column < view.shape[1]
                if inside and view.z_m[row, column] > 0.8 * z:
                    radius = max(0.6, rng.uniform(0.12, 0.3) * view.focal_px / z)
                    power = np.float32(strength * np.exp(rng.uniform(1, 4)))
                    sources.add(u, v, radius, (0.3 + 0.7 * colour) * power)
    height, width = view.shape
    received += strength * cv2.resize(total, (width, height), interpolation=cv2.INTER_LINEAR)


def headlights(
    view: View, albedo: np.ndarray, received: np.ndarray, rng: np.random.Generator
) -> None:
    """The own low beam: strong below its cut-off, with range and width; signs throw it back."""
    strength = np.exp(rng.uniform(-2.5, 1.2))
    colour = LAMPS[rng.integers(2, 5)]
    up = -view.y_m / view.z_m + rng.normal(0, 0.025)  # tangent above the horizon
    across = view.x_m / view.z_m
    cut = 1 / (1 + np.exp(((up + 0.01) / rng.uniform(0.008, 0.04)).clip(-30, 30)))
    wide = np.exp(-((across / rng.uniform(0.3, 0.8)) ** 2)) * 0.8 + 0.2
    falloff = 1 / (1 + (view.z_m / rng.uniform(6, 18)) ** 2)
    beam = (cut * 0.95 + 0.05) * wide * falloff * strength
    beam = np.where(view.ground, beam, 1.6 * beam)
    received += beam[..., None] * colour
    back = view.labels == SIGN
    if back.any():
        albedo[back] = (albedo[back] * np.float32(rng.uniform(1, 10))).clip(0, 6)


def vehicle_lights(
    view: View, received: np.ndarray, sources: Sources, rng: np.random.Generator
) -> None:
    """Pairs of head or tail lights on vehicles, and their light on what is near."""
    mask = np.isin(view.labels, VEHICLES).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    order = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:MAX_VEHICLES]
    height, width = view.shape
    for index in order[: max(0, count - 1)]:
        left, top, wide, tall, area = stats[index]
        if area < 12 or rng.random() < 0.35:
            continue
        middle = (min(height - 1, top + tall // 2), min(width - 1, left + wide // 2))
        z = float(view.z_m[middle])
        radius = max(0.6, rng.uniform(0.05, 0.11) * view.focal_px / z)
        front = rng.random() < 0.5
        power = np.exp(rng.uniform(0.5, 4.5)) if front else np.exp(rng.uniform(-1.5, 1.5))
        colour = (LAMPS[rng.integers(2, 5)] if front else TAIL) * np.float32(power)
        v = top + tall * rng.uniform(0.5, 0.75)
        for side in (0.14, 0.86):
            if rng.random() < 0.9:
                sources.add(left + side * wide, v, radius, colour)
        if front or rng.random() < 0.5:
            reach = 1.2 * max(wide, 4)
            u = np.arange(width, dtype=np.float32) - (left + wide / 2)
            rows = np.arange(height, dtype=np.float32) - (top + tall)
            spread = np.exp(-((u[None] / reach) ** 2) - (rows[:, None] / (0.7 * reach)) ** 2)
            near = spread * (np.abs(view.z_m - z) < 8)
            received += near[..., None] * colour * np.float32(rng.uniform(0.02, 0.1))


def windows(view: View, albedo: np.ndarray, sources: Sources, rng: np.random.Generator) -> None:
    """Add lit windows in cells of the facades, shops below, and panes of buses and trams."""
    walls = (view.labels == BUILDING) & (view.z_m < 120)
    seed = float(rng.integers(1000))
    smooth = cv2.GaussianBlur(view.x_m + view.z_m, (0, 0), 2.0)  # a teacher's depth is uneven
    along = smooth / np.float32(rng.uniform(1.6, 3.2))
    up = (CAMERA_HEIGHT_M - view.y_m) / np.float32(rng.uniform(2.7, 3.4))
    chance = hashed(np.floor(along), np.floor(up), seed=seed)
    colour_pick = hashed(np.floor(along), np.floor(up), seed=seed + 7)
    inside = (np.abs(along - np.floor(along) - 0.5) < 0.3) & (
        np.abs(up - np.floor(up) - 0.55) < rng.uniform(0.2, 0.35)
    )
    shops = (up < 1.2) & (rng.random() < 0.35)
    lit = walls & np.where(
        shops, chance < rng.uniform(0.2, 0.8), inside & (chance < rng.uniform(0.0, 0.4))
    )
    power = np.exp(rng.uniform(-3.0, 0.8)) * (0.3 + 1.4 * colour_pick)
    power = np.where(shops, power * rng.uniform(1, 3), power)
    warm = LAMPS[rng.integers(1, 5)]
    texture = 0.3 + (albedo / 0.2).clip(0, 3) * 0.5
    sources.light[lit] += ((power[..., None] * warm) * texture)[lit]
    carriages = np.isin(view.labels, (BUS, TRAIN))
    if carriages.any() and rng.random() < 0.8:
        dark = luma(albedo) < np.quantile(luma(albedo)[carriages], rng.uniform(0.3, 0.6))
        panes = carriages & dark
        sources.light[panes] += LAMPS[rng.integers(2, 5)] * np.float32(np.exp(rng.uniform(-3, 0.5)))


def lit_signs(view: View, albedo: np.ndarray, sources: Sources, rng: np.random.Generator) -> None:
    """Signs lit from within or from above, and one signal of every traffic light."""
    signs = view.labels == SIGN
    if signs.any() and rng.random() < 0.4:
        sources.light[signs] += albedo[signs] * np.float32(np.exp(rng.uniform(-1, 1.5)))
    lights = (view.labels == LIGHT).astype(np.uint8)
    if not lights.any():
        return
    count, _, stats, _ = cv2.connectedComponentsWithStats(lights)
    for left, top, wide, tall, area in stats[1 : min(count, 12)]:
        if area < 4:
            continue
        signal = int(rng.integers(3))
        power = np.float32(np.exp(rng.uniform(0, 3)))
        v = top + tall * (1 + 2 * signal) / 6
        sources.add(
            left + wide / 2, v, max(0.6, 0.35 * min(wide, tall / 2)), SIGNALS[signal] * power
        )


def night_sky(view: View, rng: np.random.Generator) -> np.ndarray:
    """Brightness [H, W, 1] of the sky beside its glow: more towards the horizon, with clouds."""
    up = np.maximum(-view.y_m / view.z_m, 0)
    lift = 0.3 + rng.uniform(0.5, 4.0) * np.exp(-up / rng.uniform(0.05, 0.5))
    clouds = 1 + rng.uniform(0, 0.8) * (cloudy(view.shape, view.shape[0] / 3, rng) - 0.5)
    return (lift * clouds)[..., None].astype(np.float32)


def reflect(view: View, light: np.ndarray, rng: np.random.Generator) -> None:
    """Streaks of what is bright on wet ground below it, in place."""
    height = view.shape[0]
    above = np.where(view.ground[..., None], 0, np.minimum(light, 20.0))
    reach = int(height * rng.uniform(0.2, 0.6)) | 1
    # The mean of the rows above: the anchor is the kernel's lowest row.
    streaks = cv2.blur(above, (1, reach), anchor=(0, reach - 1))
    streaks = cv2.GaussianBlur(streaks, (0, 0), rng.uniform(0.6, 2.5))
    puddles = 0.4 + 0.6 * cloudy(view.shape, height / 5, rng)
    share = (rng.uniform(0.2, 1.4) * puddles)[..., None].astype(np.float32)
    wet = np.isin(view.labels, (ROAD, SIDEWALK, WALL)) & view.ground
    light[wet] += (streaks * share)[wet]


def haze(view: View, light: np.ndarray, air: np.ndarray, rng: np.random.Generator) -> None:
    """Mist between here and there, in place."""
    seen = np.exp(-view.z_m * rng.uniform(0.002, 0.03))[..., None]
    light *= seen
    light += (1 - seen) * (air * rng.uniform(0.5, 3.0) + light.mean((0, 1)) * rng.uniform(0, 1))
