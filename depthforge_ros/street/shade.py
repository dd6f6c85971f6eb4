# SPDX-License-Identifier: Apache-2.0
"""Deferred shading: from the G-buffer to labels and linear radiance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import ground as gr
from .camera import Camera
from .lighting import Lighting, LightMaps, sky_radiance
from .mesh import LABEL, MATERIAL, NORMAL, ORIGIN, PARAMS, U_AXIS, V_AXIS, Mat
from .noise import FBM, smooth
from .patch import Patch
from .raster import FIRST_PRIM, GBuffer
from .roadpaint import add_to_road
from .surfaces import PAINTERS
from .world import World

SKY_LABEL, SIGN_LABEL = 10, 7
SHOP_LIGHT = (1.0, 0.86, 0.66)


@dataclass
class Surface:
    """Flat per-pixel arrays of what is seen; every list holds three arrays `[H*W]`."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    depth: np.ndarray
    normal: list[np.ndarray]
    albedo: list[np.ndarray]
    glow: list[np.ndarray]
    mirror: np.ndarray
    labels: np.ndarray


def collect(
    g: GBuffer, camera: Camera, world: World, attributes: np.ndarray, light: Lighting
) -> Surface:
    """Surface properties and labels of every pixel. `attributes` is `[P, COLUMNS]` float32."""
    prim, inv_z = g.prim.ravel(), g.inv_z.ravel()
    depth = np.where(inv_z > 0, 1.0 / np.maximum(inv_z, 1e-9), 0.0).astype(np.float32)
    position = camera.position.astype(np.float32)
    ray = [camera.world_axis(a).ravel() for a in range(3)]
    x, y, z = (position[a] + depth * ray[a] for a in range(3))
    n = prim.size
    s = Surface(
        x, y, z, depth,
        [np.zeros(n, np.float32) for _ in range(3)],
        [np.zeros(n, np.float32) for _ in range(3)],
        [np.zeros(n, np.float32) for _ in range(3)],
        np.zeros(n, np.float32),
        np.full(n, SKY_LABEL, np.uint8),
    )  # fmt: skip
    _ground(s, prim, world, camera, light)
    _objects(s, prim, g.side.ravel(), ray, camera, attributes, light)
    return s


def _ground(s: Surface, prim: np.ndarray, world: World, camera: Camera, light: Lighting) -> None:
    road, look, focal = world.road, world.look, float(camera.k[0, 0])
    at = np.nonzero(prim == gr.ROAD_TOP)[0]
    x, y = s.x[at], s.y[at]
    v = road.across(x, y)
    paint = np.zeros_like(x)
    colour = gr.road_colour(road, look, x, y, v, s.depth[at], focal, paint)
    if world.variety is not None:
        footprint = s.depth[at] / focal
        colour, s.mirror[at] = add_to_road(colour, road, world.variety, x, v, footprint)
    _write(s, at, colour, gr.ROAD)
    s.normal[2][at] = 1.0
    at = np.nonzero((prim == gr.RAISED) | (prim == gr.KERB_FACE))[0]
    x, y, face = s.x[at], s.y[at], prim[at] == gr.KERB_FACE
    v = road.across(x, y)
    out = road.beyond_kerb(x, v)
    grass = gr.raised_is_terrain(road, look, x, v) & ~face
    colour = gr.paving_colour(look, x, v, np.where(face, 0.0, out), s.depth[at], focal)
    green = gr.grass_colour(look, x, y, s.depth[at])
    colour = [
        np.where(grass, b, a * np.where(face, 0.7, 1.0)) for a, b in zip(colour, green, strict=True)
    ]
    _write(s, at, colour, np.where(grass, gr.TERRAIN, gr.SIDEWALK))
    s.normal[2][at] = np.where(face, 0.2, 1.0)


def _write(s: Surface, at: np.ndarray, colour: list[np.ndarray], label: np.ndarray | int) -> None:
    for c in range(3):
        s.albedo[c][at] = colour[c]
    s.labels[at] = label


def _objects(
    s: Surface, prim: np.ndarray, side: np.ndarray, ray: list[np.ndarray], camera: Camera,
    attributes: np.ndarray, light: Lighting,
) -> None:  # fmt: skip
    at = np.nonzero(prim >= FIRST_PRIM)[0]
    index = prim[at] - FIRST_PRIM
    s.labels[at] = attributes[:, LABEL].astype(np.uint8)[index]
    material = attributes[:, MATERIAL].astype(np.uint8)[index]
    order = np.argsort(material, kind="stable")
    at, index = at[order], index[order]
    bounds = np.searchsorted(material[order], np.arange(len(Mat) + 1))
    right, forward = camera.rotation[0].astype(np.float32), camera.rotation[2].astype(np.float32)
    for mat in Mat:
        lo, hi = bounds[mat], bounds[mat + 1]
        if hi <= lo:
            continue
        px, rows = at[lo:hi], attributes[index[lo:hi]]
        rel = [s_axis[px] - rows[:, ORIGIN.start + a] for a, s_axis in enumerate((s.x, s.y, s.z))]
        if mat in (Mat.FOLIAGE, Mat.BARE, Mat.CLOTH, Mat.BARK):
            u, v = rel[0] * right[0] + rel[1] * right[1], rel[2]
        else:
            u = sum(rel[a] * rows[:, U_AXIS.start + a] for a in range(3))
            v = sum(rel[a] * rows[:, V_AXIS.start + a] for a in range(3))
        round_ = side[px] * (rows[:, NORMAL.start : NORMAL.stop] == 0).all(axis=1)
        zeros = [np.zeros(len(px), np.float32) for _ in range(3)]
        patch = Patch(u, v, rows, s.depth[px] / np.float32(camera.k[0, 0]), round_, zeros,
                      np.zeros(len(px), np.float32))  # fmt: skip
        colour = PAINTERS[mat](patch)
        if mat == Mat.BARE:  # twigs too fine to resolve: partly the sky behind them
            seed = rows[:, 21]
            thick = np.abs(2 * smooth(FBM, u * 16 + seed * 29, v * 13) - 1)
            thin = np.abs(2 * smooth(FBM, u * 60 + seed * 53, v * 45) - 1)
            twigs = np.maximum(1 - thick * 9, 0.9 * (1 - thin * 2.2))
            haze = np.clip(0.50 - 0.50 * np.maximum(twigs, 0.0), 0.0, 1.0)
            sky = sky_radiance(light, ray[0][px], ray[1][px], np.maximum(ray[2][px], 0.05))
            patch.glow = [c * haze for c in sky]
            colour = [c * (1 - haze) for c in colour]
        for c in range(3):
            s.albedo[c][px] = colour[c]
            s.glow[c][px] = patch.glow[c] * (1.0 if mat == Mat.BARE else light.glow)
        if mat == Mat.LAMP and light.bulb is not None:
            street_lamp = rows[:, PARAMS.start] == 1
            for c in range(3):
                s.glow[c][px] *= np.where(street_lamp, 1.1 * light.bulb[c] + 0.15, 1.0)
        if mat == Mat.SIGNAL:
            for c in range(3):
                s.glow[c][px] = patch.glow[c] * max(light.glow, 0.25)
        s.mirror[px] = patch.mirror
        capsule = (rows[:, NORMAL.start : NORMAL.stop] == 0).all(axis=1)
        flat = np.sqrt(np.maximum(1.0 - round_ * round_, 0.0))
        leafy = mat in (Mat.FOLIAGE, Mat.BARE)
        for a in range(3):
            up = np.float32(a == 2)
            around = (up if leafy else right[a]) * round_ - forward[a] * flat
            s.normal[a][px] = np.where(capsule, around, rows[:, NORMAL.start + a])


def radiance(
    s: Surface, g: GBuffer, camera: Camera, maps: LightMaps, light: Lighting,
    shade: np.ndarray, contact: np.ndarray,
) -> list[np.ndarray]:  # fmt: skip
    """Linear radiance without air or sensor, three arrays `[H, W]`.

    `shade` and `contact` `[H*W]` darken the sun and the ambient light (moving shadows).
    """
    ray = [camera.world_axis(a).ravel() for a in range(3)]
    seen = s.depth > 0
    nx, ny, nz = s.normal
    facing = np.maximum(nx * light.sun[0] + ny * light.sun[1] + nz * light.sun[2], 0.0)
    if maps.shadow is not None and light.sun_rgb.max() > 0:
        ceiling = maps.at(maps.shadow, s.x + 0.5 * nx, s.y + 0.5 * ny)
        facing = facing * np.clip((s.z - ceiling) * 1.5 + 0.8, 0.0, 1.0) * shade
    hemisphere = (0.62 + 0.38 * nz) * contact
    near_ground = np.clip(0.55 + s.z * 0.25, 0.55, 1.0)
    hemisphere = hemisphere * np.where(nz > 0.9, 1.0, near_ground)
    pool = maps.at(maps.lamps, s.x + nx, s.y + ny) if maps.lamps is not None else np.float32(0)
    shape = (0.55 + 0.45 * nz) * np.clip(1.25 - s.z * 0.09, 0.15, 1.0)
    pool = pool * shape
    more = []  # colour and irradiance of other lights
    if maps.windows is not None:
        shops = maps.at(maps.windows, s.x + nx, s.y + ny) * shape * np.float32(light.glow)
        more.append((SHOP_LIGHT, shops))
    if maps.other_lamps is not None and light.other_lamp is not None:
        more.append((light.other_lamp, maps.at(maps.other_lamps, s.x + nx, s.y + ny) * shape))
    beam = _headlights(s, camera, light) if light.headlight > 0 else np.float32(0)
    beam = beam * np.where(s.labels == SIGN_LABEL, np.float32(5), np.float32(1))  # retroreflective
    norm = np.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2)
    cosine = -(ray[0] * nx + ray[1] * ny + ray[2] * nz) / norm
    fresnel = s.mirror * (1.0 + 2.0 * (1.0 - np.clip(cosine, 0, 1)) ** 3)
    rz = ray[2] + 2 * cosine * norm * nz
    blank = np.nonzero(~seen)[0]
    sky = sky_radiance(light, ray[0][blank], ray[1][blank], np.abs(ray[2][blank]))
    mirrored_up = np.clip(rz / norm * 2 + 0.45, 0.08, 1.0)
    out = []
    for c in range(3):
        lit = light.sun_rgb[c] * facing + light.ambient[c] * hemisphere + light.lamp[c] * pool
        for colour, irradiance in more:
            lit = lit + colour[c] * irradiance
        lit = lit + beam * (1.0, 0.97, 0.88)[c]
        value = s.albedo[c] * lit + s.glow[c]
        value += fresnel * mirrored_up * (0.6 * light.ambient[c] + 0.3 * light.horizon[c])
        value[blank] = sky[c]
        out.append(value.reshape(g.inv_z.shape))
    return out


def _headlights(s: Surface, camera: Camera, light: Lighting) -> np.ndarray:
    """Irradiance of the own low beam: bright below the cut-off, aimed slightly to the kerb."""
    forward = camera.rotation[2].astype(np.float32)
    px, py, _ = (np.float32(c) for c in camera.position)
    dx, dy, dz = s.x - px, s.y - py, s.z - np.float32(0.65)
    level = np.float32(1.0 / np.hypot(forward[0], forward[1]))
    fx, fy = forward[0] * level, forward[1] * level
    ahead, aside = dx * fx + dy * fy, dy * fx - dx * fy
    distance2 = dx * dx + dy * dy + dz * dz + 1.0
    angle = aside / np.maximum(ahead, 0.1)
    lift = dz / np.maximum(ahead, 0.1)
    pattern = np.exp(-(angle * angle) * 5.0 + np.minimum(lift, 0.0) * 5.0) * np.clip(
        0.5 - lift * 14, 0.05, 1.0
    )
    cosine = -(dx * s.normal[0] + dy * s.normal[1] + dz * s.normal[2]) / np.sqrt(distance2)
    cosine = np.clip(cosine, 0.0, 1.0)
    return np.where(
        ahead > 0, light.headlight * pattern * (0.04 + cosine) * 70.0 / (distance2 + 25), 0.0
    )
