# SPDX-License-Identifier: Apache-2.0
"""A recorded-looking drive down a procedural street, with exact labels and depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .camera import Camera
from .ground import RAISED, ROAD_TOP, draw_ground
from .lamps import lamp_light
from .lighting import CONDITIONS, Lighting, LightMaps, make_lighting
from .mesh import Mesh
from .noise import stream
from .raster import GBuffer, clip_near, draw_mesh, spans
from .road import random_road
from .shade import collect, radiance
from .traffic import make_ego, make_movers, moving_mesh
from .vehicles import bonnet
from .weather import (
    add_air,
    add_bloom,
    add_drops,
    add_particles,
    add_reflections,
    cover_with_snow,
    develop,
    metered,
)
from .wires import draw_wires
from .world import build_world

TRAIN_SEEDS = range(0, 100_000)
HELD_OUT_SEEDS = range(1_000_000, 1_000_100)
START_STAMP_NS = 1_700_000_000_000_000_000
MAX_SECONDS = 600
MIN_SIZE, MAX_SIZE = (64, 48), (2048, 1024)


@dataclass(frozen=True)
class StreetFrame:
    """One frame with its truth.

    Attributes:
        rgb: `[H, W, 3]` uint8.
        labels: `[H, W]` uint8 Cityscapes trainId, 255 unlabelled.
        depth_m: `[H, W]` float32 z-depth in metres along the optical axis, +inf for sky.
        stamp_ns: time of the frame in nanoseconds.
        intrinsics: `[3, 3]` float64 pinhole matrix, pixel centres at whole numbers.
        condition: one of `CONDITIONS`.
        seed: the world's seed.
    """

    rgb: np.ndarray
    labels: np.ndarray
    depth_m: np.ndarray
    stamp_ns: int
    intrinsics: np.ndarray
    condition: str
    seed: int


class StreetDrive:
    """A sequence of `frames` frames; indexing and iteration give identical bytes.

    Args:
        seed: which street; 0 or more.
        condition: one of `CONDITIONS`; changes light and weather, never geometry.
        width, height: image size in pixels, 64x48 to 2048x1024.
        frames: how many frames, of at most 600 s in all.
        rate_hz: frames per second.
        heavy: most vehicles are lorries, buses and trams, nearer than usual.
        varied: some of tram tracks, overhead wires, yellow markings, shop displays and other
            street lamps; see `variety.py`.

    Raises:
        ValueError: an argument is out of its range; the message names it and what is allowed.
    """

    def __init__(
        self,
        seed: int = 0,
        condition: str = "clear",
        width: int = 640,
        height: int = 384,
        frames: int = 60,
        rate_hz: float = 10.0,
        heavy: bool = False,
        varied: bool = False,
    ) -> None:
        _check_integer("seed", seed, 0, 2**63 - 1)
        if condition not in CONDITIONS:
            raise ValueError(f"condition {condition!r} is not one of {', '.join(CONDITIONS)}")
        _check_integer("width", width, MIN_SIZE[0], MAX_SIZE[0])
        _check_integer("height", height, MIN_SIZE[1], MAX_SIZE[1])
        _check_integer("frames", frames, 1, 100_000)
        if not (isinstance(rate_hz, (int, float)) and 0.1 <= rate_hz <= 1000.0):
            raise ValueError(f"rate_hz {rate_hz!r} is not between 0.1 and 1000")
        if frames / rate_hz > MAX_SECONDS:
            raise ValueError(
                f"frames {frames} at rate_hz {rate_hz:g} last longer than {MAX_SECONDS} s"
            )
        self.seed, self.condition = int(seed), condition
        self.width, self.height = int(width), int(height)
        self.frames, self.rate_hz = int(frames), float(rate_hz)
        rng = stream(self.seed, 8)
        fov = np.deg2rad(rng.uniform(48, 92))
        focal = (self.width / 2) / np.tan(fov / 2)
        shift = rng.uniform(-0.01, 0.01, 2)
        # Tall images see no more of the world than a 4:3 one would.
        focal = max(focal, self.height / 2 / np.tan(np.deg2rad(38)))
        self.intrinsics = np.array(
            [
                [focal, 0.0, (self.width - 1) / 2 + shift[0] * self.width],
                [0.0, focal, (self.height - 1) / 2 + shift[1] * self.height],
                [0.0, 0.0, 1.0],
            ]
        )
        self._eye = float(np.clip(rng.normal(1.35, 0.18), 1.05, 2.1))
        self._pitch, self._roll = float(rng.normal(0.03, 0.03)), float(rng.normal(0.0, 0.008))
        self._yaw = float(rng.normal(0.0, 0.03) if rng.random() < 0.85 else rng.uniform(-0.4, 0.4))
        self._shake = rng.uniform(0, 6.28, 4)
        self._bonnet = bonnet(rng) if rng.random() < 0.25 else None
        self._ego = make_ego(self.seed, random_road(stream(self.seed, 0)))
        travelled = self._ego.travelled(self.frames / self.rate_hz)
        self.world = build_world(self.seed, travelled + 190.0, varied)
        self._movers = make_movers(self.seed, self.world.road, self.world.x_end, heavy)
        self.lighting = make_lighting(self.seed, condition)
        if varied:
            self.lighting = replace(self.lighting, **lamp_light(self.seed, self.lighting))
        self._maps = LightMaps(self.world, self.lighting)

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[StreetFrame]:
        return (self[i] for i in range(self.frames))

    def camera(self, index: int) -> Camera:
        """The camera of frame `index`."""
        t = index / self.rate_hz
        s = self._ego.travelled(t)
        x, y = self.world.road.place(s, self._ego.v + 0.1 * np.sin(0.4 * t + self._shake[0]))
        wobble = 0.004 * np.sin(4.1 * t + self._shake[1]) + 0.002 * np.sin(9.7 * t + self._shake[2])
        yaw = self.world.road.heading(s) + self._yaw + 0.01 * np.sin(0.5 * t + self._shake[3])
        eye = self._eye + 0.01 * np.sin(6.0 * t + self._shake[1])
        return Camera.looking(
            self.width, self.height, self.intrinsics, np.array([x, y, eye]), yaw,
            self._pitch + wobble, self._roll + 0.3 * wobble,
        )  # fmt: skip

    def __getitem__(self, index: int) -> StreetFrame:
        if not isinstance(index, (int, np.integer)):
            raise TypeError(f"frame index must be an integer, not {index!r}")
        if not -self.frames <= index < self.frames:
            raise IndexError(f"frame {index} is not in a drive of {self.frames} frames")
        index = int(index) % self.frames
        t, light, camera = index / self.rate_hz, self.lighting, self.camera(index)
        moving, prints = moving_mesh(self._movers, self.world.road, self._ego, t)
        parts = [*self.world.near(float(camera.position[0])), moving]
        if self._bonnet is not None:
            x, y, _ = camera.position
            parts.append(self._bonnet.placed(x, y, 0.0, self.world.road.heading(x) + self._yaw))
        mesh = Mesh.joined(parts)
        g = GBuffer.empty(self.height, self.width)
        draw_ground(g, camera, self.world.road)
        sun_shade, contact = self._moving_shadows(g, camera, prints)
        draw_mesh(g, camera, mesh)
        attributes = np.concatenate([mesh.faces, mesh.caps]).astype(np.float32)
        surface = collect(g, camera, self.world, attributes, light)
        if light.snow > 0:
            across = self.world.road.across(surface.x, surface.y)
            cover_with_snow(surface, light, across, self.world.road.half_width)
        if light.wet > 0:
            dark = np.where(surface.normal[2] > 0.9, 1.0 - 0.4 * light.wet, 1.0)
            surface.albedo = [a * dark for a in surface.albedo]
        image = radiance(surface, g, camera, self._maps, light, sun_shade, contact)
        rng = np.random.default_rng((self.seed, CONDITIONS.index(self.condition), 77, index))
        if light.wet > 0.05:
            add_reflections(image, surface, camera, light)
        with np.errstate(divide="ignore"):
            depth = np.where(g.inv_z > 0, 1.0 / g.inv_z, np.inf).astype(np.float32)
        if len(self.world.wires):
            draw_wires(image, depth, camera, self.world.wires, _wire_light(light))
        add_air(image, surface, camera, light)
        exposure = metered(image, light)
        if light.glow > 0:
            add_bloom(image, exposure)
        add_particles(image, depth, camera, light, rng)
        if light.drops > 0:
            add_drops(image, light, self.seed, index)
        rgb = develop(image, light, exposure, rng)
        return StreetFrame(
            rgb=rgb,
            labels=surface.labels.reshape(self.height, self.width),
            depth_m=depth,
            stamp_ns=START_STAMP_NS + round(index * 1e9 / self.rate_hz),
            intrinsics=self.intrinsics.copy(),
            condition=self.condition,
            seed=self.seed,
        )

    def _moving_shadows(
        self, g: GBuffer, camera: Camera, prints: list[tuple[float, ...]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sun and ambient visibility of the ground under and beside moving and parked bodies."""
        sun = np.ones(g.inv_z.shape, np.float32)
        ambient = np.ones(g.inv_z.shape, np.float32)
        ground = (g.prim == ROAD_TOP) | (g.prim == RAISED)
        light = self.lighting
        level = np.hypot(light.sun[0], light.sun[1])
        ray_x, ray_y = camera.world_axis(0), camera.world_axis(1)
        for x, y, yaw, half_l, half_w in [*prints, *self.world.parked]:
            distance = np.hypot(x - camera.position[0], y - camera.position[1])
            if distance > 70:
                continue
            c, s = np.cos(yaw), np.sin(yaw)
            corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float64)
            box = corners * (half_l + 0.45, half_w + 0.45)
            points = np.stack([x + box @ (c, -s), y + box @ (s, c), np.zeros(4)], axis=1)
            found = _inside(ground, camera, points)
            if found is not None:
                window, mask = found
                depth = 1.0 / np.maximum(g.inv_z[window], 1e-3)
                dx = camera.position[0] + depth * ray_x[window] - x
                dy = camera.position[1] + depth * ray_y[window] - y
                along, away = np.abs(dx * c + dy * s) - half_l, np.abs(dy * c - dx * s) - half_w
                value = np.clip(0.72 + 0.9 * np.maximum(along, away), 0.22, 1.0)
                part = ambient[window]
                np.minimum(part, np.where(mask, value, 1.0), out=part)
            if light.sun_rgb.max() > 0:
                high = 1.3 if half_l > 0.6 else 1.6
                box = corners * (half_l * 0.92, half_w * 0.92)
                base = np.stack([x + box @ (c, -s), y + box @ (s, c)], 1)
                cast = -light.sun[:2] / level * min(high * level / light.sun[2], 12.0)
                hull = _hull(np.concatenate([base, base + cast]))
                points = np.concatenate([hull, np.zeros((len(hull), 1))], axis=1)
                found = _inside(ground, camera, points)
                if found is not None:
                    sun[found[0]][found[1]] = 0.0
        return sun.ravel(), ambient.ravel()


def _wire_light(light: Lighting) -> np.ndarray:
    """Radiance of tarnished wires, linear RGB."""
    return 0.035 * light.ambient + 0.012 * light.lamp + 0.01 * light.sun_rgb


def _inside(
    ground: np.ndarray, camera: Camera, points: np.ndarray
) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """Window and mask of the ground pixels in a ground polygon `[n, 3]` before the camera."""
    p = camera.to_camera(points)
    if p[:, 2].max() < 0.3:
        return None
    if p[:, 2].min() < 0.3:
        p = clip_near(p)
    k = camera.k
    span = spans(
        p[:, 0] / p[:, 2] * k[0, 0] + k[0, 2], p[:, 1] / p[:, 2] * k[1, 1] + k[1, 2],
        camera.width, camera.height,
    )  # fmt: skip
    if span is None:
        return None
    y0, y1, x0, x1, left, right = span
    cols = np.arange(x0, x1)
    window = (slice(y0, y1), slice(x0, x1))
    return window, (cols >= left[:, None]) & (cols <= right[:, None]) & ground[window]


def _hull(points: np.ndarray) -> np.ndarray:
    """Convex hull of `[n, 2]` points (monotone chain)."""
    order = points[np.lexsort((points[:, 1], points[:, 0]))]

    def half(seq: np.ndarray) -> list[np.ndarray]:
        kept: list[np.ndarray] = []
        for p in seq:
            while len(kept) > 1:
                a, b = kept[-2], kept[-1]
                if (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) > 0:
                    break
                kept.pop()
            kept.append(p)
        return kept[:-1]

    return np.array(half(order) + half(order[::-1]))


def _check_integer(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name} {value!r} is not an integer")
    if not low <= value <= high:
        raise ValueError(f"{name} {value} is not between {low} and {high}")
