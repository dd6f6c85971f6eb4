# SPDX-License-Identifier: Apache-2.0
"""A daylight image under snow, in rain or in fog."""

from __future__ import annotations

import cv2
import numpy as np

from depthforge_ros.learning.label_ids import ROAD, SIDEWALK, TERRAIN, VEGETATION
from depthforge_ros.learning.relight.camera import developed, exposed, glow
from depthforge_ros.learning.relight.view import View, blurred, cloudy, luma


def overcast(view: View, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Light [H, W, 3] without sun, and the colour of the cloudy sky, which replaces the sky."""
    brightness = luma(view.light)
    broad = blurred(brightness, view.shape[0] / 8)
    flat = np.float32(rng.uniform(0.2, 0.9))
    light = view.light * (float(brightness.mean()) / (broad + 0.03))[..., None] ** flat
    grey = luma(light)[..., None]
    light = grey + (light - grey) * np.float32(rng.uniform(0.4, 1.0))
    colour = np.array((0.92, 0.97, 1.05), np.float32) ** np.float32(rng.uniform(0, 2))
    sky = colour * np.float32(rng.uniform(1.2, 4.0) * float(brightness.mean()))
    shade = 1 + rng.uniform(0, 0.5) * (cloudy(view.shape, view.shape[0] / 3, rng) - 0.5)
    light[view.sky] = (sky * shade[..., None].astype(np.float32))[view.sky]
    return light * colour, sky


def snow(view: View, rng: np.random.Generator) -> np.ndarray:
    """Bytes [H, W, 3] of the view in snow: on the ground, on what points upwards, in the air."""
    light, sky = overcast(view, rng)
    white = luma(sky) * np.float32(rng.uniform(0.5, 0.95))
    tint = np.array((0.94, 0.98, 1.06), np.float32) ** np.float32(rng.uniform(0, 1.5))
    cover = snow_cover(view, rng)
    shade = 0.75 + 0.35 * cloudy(view.shape, view.shape[0] / 6, rng)
    dirt = np.ones(view.shape, np.float32)
    on_road = view.labels == ROAD
    dirt[on_road] = rng.uniform(0.35, 1.0)
    detail = (luma(view.light) / (blurred(luma(view.light), 6) + 0.02)).clip(0.6, 1.4)
    lying = (white * shade * dirt * detail**0.5)[..., None] * tint
    light += cover[..., None] * (lying - light)
    if rng.random() < 0.7:
        mist(view, light, sky * rng.uniform(0.7, 1.0), rng.uniform(0.001, 0.03))
    if rng.random() < 0.6:
        flakes(light, luma(sky), rng)
    light, _ = exposed(light, rng.uniform(0.25, 0.75), 0.7)
    return developed(light, rng.uniform(0, 0.6), rng)


def snow_cover(view: View, rng: np.random.Generator) -> np.ndarray:
    """How much of every pixel snow hides, [H, W] in 0..1."""
    height = view.shape[0]
    patches = cloudy(view.shape, height / rng.uniform(4, 14), rng)
    cover = np.zeros(view.shape, np.float32)

    def spread(mask: np.ndarray, least: float, most: float) -> None:
        amount = rng.uniform(least, most)
        cover[mask] = ((amount * 1.6 - patches[mask]) * 3).clip(0, 1)

    spread(view.labels == TERRAIN, 0.4, 1.0)
    spread(view.labels == SIDEWALK, 0.1, 1.0)
    road = view.labels == ROAD
    spread(road, 0.0, 0.8)
    # Wheels clear two tracks a lane; the banks between and beside them stay.
    shift, lane = rng.uniform(-1.5, 1.5), rng.uniform(2.8, 3.6)
    phase = np.abs(((view.x_m - shift) / lane) % 1 - 0.5)
    tracks = np.exp(-(((phase - 0.25) / 0.09) ** 2)) * rng.uniform(0, 1)
    cover[road] *= (1 - tracks)[road]
    rise = cv2.GaussianBlur(luma(view.light), (0, 0), 1.2)
    rise = (rise - np.roll(rise, -2, axis=0)) / (rise + 0.03)  # brighter above than below: a top
    leaves = view.labels == VEGETATION
    cover[leaves] = (rng.uniform(-0.3, 0.6) + 2.0 * rise + patches - 0.5)[leaves].clip(0, 0.95)
    # What ends upwards in something farther has a top, and snow on it.
    solid = ~view.sky & ~view.ground & ~leaves
    shift_rows = max(1, round(0.006 * height))
    thick = rng.uniform(0.05, 0.3) * view.focal_px / view.z_m  # pixels
    for step in range(1, 4):
        behind = np.roll(view.z_m, shift_rows * step, axis=0)
        behind[: shift_rows * step] = 0
        top = solid & (behind > view.z_m * 1.3) & (thick > shift_rows * (step - 1))
        cover[top] = np.maximum(cover[top], 0.9)
    return cover


def flakes(light: np.ndarray, white: float, rng: np.random.Generator) -> None:
    """Falling snow, in place: few large blurred flakes near, many small ones far."""
    height, width = light.shape[:2]
    for size, most in ((0.7, 0.02), (1.3, 0.005), (3.0, 0.0008)):
        share = rng.uniform(0, most)
        drops = (rng.random((height, width), dtype=np.float32) < share).astype(np.float32)
        drops = cv2.GaussianBlur(drops, (0, 0), size) * np.float32(size * size * 5)
        if rng.random() < 0.4:
            drops = cv2.blur(drops, (1, int(rng.integers(2, 8))))
        drops = drops.clip(0, 0.85)[..., None]
        light += drops * (np.float32(white) - light)


def rain(view: View, rng: np.random.Generator) -> np.ndarray:
    """Bytes [H, W, 3] of the view in rain: wet ground that mirrors, mist, drops on the glass."""
    light, sky = overcast(view, rng)
    ground = np.isin(view.labels, (ROAD, SIDEWALK))
    light[ground] *= np.float32(rng.uniform(0.35, 0.8))
    height = view.shape[0]
    reach = int(height * rng.uniform(0.15, 0.6)) | 1
    above = np.where(view.ground[..., None], light * 0.3, light)
    mirrored = cv2.blur(above, (3, reach), anchor=(1, reach - 1))
    puddles = cloudy(view.shape, height / 6, rng)
    share = (rng.uniform(0.1, 0.7) * puddles).astype(np.float32)[..., None]
    light = np.where(ground[..., None], light + share * mirrored, light)
    mist(view, light, sky * rng.uniform(0.6, 1.0), rng.uniform(0.001, 0.02))
    light, _ = exposed(light, np.exp(rng.uniform(np.log(0.15), np.log(0.6))), 0.75)
    light = glow(light, np.exp(rng.uniform(-5, -2.5)), rng)
    rgb = developed(light, rng.uniform(0, 0.7), rng)
    return drops(rgb, rng) if rng.random() < 0.4 else rgb


def drops(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Drops on the windscreen: each shows a smaller, blurred, upside-down part of the scene."""
    height, width = rgb.shape[:2]
    soft = cv2.GaussianBlur(rgb, (0, 0), 2.0)[::-1]
    mask = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(5, 60))):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        radius = int(np.exp(rng.uniform(0, np.log(0.04 * height))))
        cv2.circle(mask, centre, radius, float(rng.uniform(0.2, 0.9)), -1, cv2.LINE_AA)
    mask = cv2.GaussianBlur(mask, (0, 0), 1.0)[..., None]
    return (rgb + mask * (soft.astype(np.float32) - rgb)).astype(np.uint8)


def fog(view: View, rng: np.random.Generator) -> np.ndarray:
    """Bytes [H, W, 3] of the view in fog (Koschmieder: 5 % of contrast left at the visibility)."""
    light, sky = overcast(view, rng)
    if rng.random() < 0.3:
        light[np.isin(view.labels, (ROAD, SIDEWALK))] *= np.float32(rng.uniform(0.5, 1.0))
    visibility_m = np.exp(rng.uniform(np.log(25), np.log(300)))
    mist(view, light, sky * rng.uniform(0.6, 1.0), 3.0 / visibility_m)
    light, _ = exposed(light, rng.uniform(0.2, 0.75), 0.7)
    return developed(light, rng.uniform(0, 0.6), rng)


def mist(view: View, light: np.ndarray, air: np.ndarray, extinction: float) -> None:
    """Air between here and there, in place. extinction: per metre; air: its radiance [3]."""
    seen = np.exp(-view.z_m * np.float32(extinction))[..., None]
    light *= seen
    light += (1 - seen) * air
