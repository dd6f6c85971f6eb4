# SPDX-License-Identifier: Apache-2.0
"""The ground: exact ray intersection with carriageway, kerb and pavement, and its colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .camera import Camera
from .noise import FBM, GRAIN, hash01, sample, smooth
from .raster import GBuffer
from .road import KERB_M, Road

SKY, ROAD_TOP, RAISED, KERB_FACE = 0, 1, 2, 3  # primitive ids of what is not in the mesh
FAR_M = 1500.0  # ground beyond this is sky
ROAD, SIDEWALK, TERRAIN = 0, 1, 9  # trainIds
ZONE_STEP_M = 0.5
WHITE, GOLD = (0.62, 0.62, 0.60), (0.55, 0.38, 0.06)  # reflectance of road paint


@dataclass(frozen=True)
class GroundLook:
    """Colours of the ground, linear reflectance, and what lies behind the pavement.

    `zones[side][i]` is True where the lot at x = `zone_x0 + i * ZONE_STEP_M` has grass.
    """

    asphalt: tuple[float, float, float]
    paving: tuple[float, float, float]
    kerb: tuple[float, float, float]
    grass: tuple[float, float, float]
    slab: float
    zones: tuple[np.ndarray, np.ndarray]
    zone_x0: float


def draw_ground(g: GBuffer, camera: Camera, road: Road) -> None:
    """Intersect every ray with the ground; sets depth and one of the three ground ids."""
    down = camera.world_axis(2)  # [H, W]
    first = int(np.argmax((down < 0).any(axis=1)))
    if not (down < 0).any():
        return
    down = np.minimum(down[first:], -1e-6)
    ax, ay = camera.world_axis(0)[first:], camera.world_axis(1)[first:]
    px, py, pz = (np.float32(c) for c in camera.position)
    t_low = -pz / down
    t_top = (np.float32(KERB_M) - pz) / down
    x, y = px + t_top * ax, py + t_top * ay
    edge_top = road.beyond_kerb(x, road.across(x, y))
    x, y = px + t_low * ax, py + t_low * ay
    edge_low = road.beyond_kerb(x, road.across(x, y))
    raised = edge_top > 0
    face = ~raised & (edge_low > 0)
    depth = np.where(raised, t_top, t_low)
    prim = np.where(raised, RAISED, ROAD_TOP).astype(np.int32)
    if face.any():
        near, far = t_top[face], t_low[face]
        at_near, at_far = edge_top[face], edge_low[face]
        rx, ry = ax[face], ay[face]
        for _ in range(3):  # regula falsi on the distance to the kerb line
            t = near + (far - near) * (-at_near) / np.maximum(at_far - at_near, 1e-9)
            qx, qy = px + t * rx, py + t * ry
            value = road.beyond_kerb(qx, road.across(qx, qy))
            beyond = value > 0
            far, at_far = np.where(beyond, t, far), np.where(beyond, value, at_far)
            near, at_near = np.where(beyond, near, t), np.where(beyond, at_near, value)
        depth[face] = t
        prim[face] = KERB_FACE
    inside = (depth > 0) & (depth < FAR_M) & (down < -1e-5)
    g.inv_z[first:] = np.where(inside, 1.0 / depth, 0.0)
    g.prim[first:] = np.where(inside, prim, SKY)


def raised_is_terrain(road: Road, look: GroundLook, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which raised ground points are grass: the verge, and lots that have it."""
    side = (v > 0).astype(np.int64)
    out = np.abs(v) - np.float32(road.half_width)
    verge = np.array(road.verge, np.float32)[side]
    walk = np.array(road.sidewalk, np.float32)[side]
    index = ((x - look.zone_x0) / ZONE_STEP_M).astype(np.int64)
    index = np.clip(index, 0, len(look.zones[0]) - 1)
    lot = np.stack(look.zones)[side, index]
    terrain = (out > verge + walk) & lot
    on_verge = (out > 0.15) & (out < verge)
    on_verge &= np.abs(road.from_crossing(x)) > road.crossing_half + 3.0
    on_verge &= np.abs(road.from_zebra(x)) > 2.0
    return terrain | on_verge


def line(distance: np.ndarray, half: float, blur: np.ndarray) -> np.ndarray:
    """Coverage 0..1 of a painted line of half width `half`, smoothed over `blur` metres."""
    return np.clip((half - np.abs(distance)) / blur + 0.5, 0.0, 1.0) * np.minimum(
        1.0, 2 * half / blur + 0.15
    )


def markings(road: Road, x: np.ndarray, v: np.ndarray, blur: np.ndarray) -> tuple[np.ndarray, ...]:
    """White and yellow paint coverage on the carriageway."""
    style, hw, lane = road.style, road.half_width, road.lane
    to_street, to_zebra = road.from_crossing(x), road.from_zebra(x)
    free = (np.abs(to_street) > road.crossing_half + 5.0) & (np.abs(to_zebra) > 2.6)
    dash, gap = 2.0 + style % 3, 2.0 + (style // 3) % 5
    phase = np.mod(x, np.float32(dash + gap))
    dashed = np.clip((dash - phase) / 0.3, 0, 1) * np.clip(phase / 0.3, 0, 1)
    centre_kind = style % 4
    white, yellow = np.zeros_like(x), np.zeros_like(x)
    if centre_kind == 0:
        middle = np.maximum(line(v - 0.12, 0.055, blur), line(v + 0.12, 0.055, blur))
    elif centre_kind == 3 and road.lanes == 1 and style > 40:
        middle = np.zeros_like(x)
    else:
        middle = line(v, 0.07, blur) * dashed
    if (style // 4) % 5 == 0:
        yellow = middle * free
    else:
        white = middle * free
    for i in range(1, road.lanes):
        for sign in (-1, 1):
            white = np.maximum(white, line(v - sign * i * lane, 0.06, blur) * dashed * free)
    edge_kind = (style // 2) % 4
    edge = np.abs(v)
    if edge_kind == 1:
        white = np.maximum(white, line(edge - (hw - 0.35), 0.06, blur) * free)
    elif edge_kind == 2:
        double = np.maximum(
            line(edge - (hw - 0.25), 0.04, blur), line(edge - (hw - 0.45), 0.04, blur)
        )
        yellow = np.maximum(yellow, double * free)
    for side in (0, 1):
        if road.parking[side] and style % 2:
            strip = line((v if side else -v) - (hw - 2.15), 0.05, blur)
            white = np.maximum(white, strip * free * (0.4 + 0.6 * dashed))
    if road.zebras:
        stripes = np.clip((np.abs(np.mod(v, 1.1) - 0.55) - 0.27) / blur + 0.5, 0, 1)
        stripes = stripes * (np.abs(to_zebra) < 1.6) * (edge < hw - 0.2)
        if road.yellow_zebras:
            yellow = np.maximum(yellow, stripes)
        else:
            white = np.maximum(white, stripes)
    if road.crossings:
        for sign in (-1, 1):
            at = sign * (road.crossing_half + 2.2)
            lane_side = (v * sign * road.traffic > 0) & (edge < hw - max(road.parking))
            white = np.maximum(white, line(to_street - at, 0.15, blur * 2) * lane_side)
        across = np.mod(np.abs(v), 4.0) < 2.0
        white = np.maximum(white, line(to_street, 0.06, blur) * across * (edge > hw + 3))
    return white, yellow


def road_colour(
    road: Road, look: GroundLook, x: np.ndarray, y: np.ndarray, v: np.ndarray, z: np.ndarray,
    focal: float, paint: np.ndarray,
) -> list[np.ndarray]:  # fmt: skip
    """Reflectance of the carriageway, three arrays; `paint` receives the coverage of markings."""
    footprint = z / focal
    near = np.clip(1.2 - footprint * 25, 0.0, 1.0)
    grain = (sample(GRAIN, x * 40, y * 40) - 0.5) * near
    stain = smooth(FBM, x * 1.7, y * 1.7) - 0.5
    tone = 1.0 + 0.55 * grain + 0.35 * stain
    cell_x, cell_v = np.floor(x / 7.0), np.floor(v / 2.3)
    odd = hash01(cell_x, cell_v, 3.0 + road.style)
    tone *= np.where(odd < 0.10, 0.78, np.where(odd > 0.93, 1.15, 1.0))
    lane_pos = np.mod(np.abs(v), np.float32(road.lane)) / np.float32(road.lane) - 0.5
    tone *= 1.0 + 0.10 * np.cos(lane_pos * 12.566)
    if road.style % 3 == 1 and road.half_width - road.lanes * road.lane > 1.2:  # cycle lane
        lane_v = np.abs(v) - road.lanes * road.lane
        tint = ((1.9, 0.75, 0.6), (0.7, 1.35, 0.8))[road.style % 2]
        on_lane = (lane_v > 0.1) & (lane_v < 1.25)
    else:
        tint, on_lane = (1.0, 1.0, 1.0), None
    crack = np.abs(smooth(FBM, x * 9 + 77, y * 9) - 0.5) < 0.006 * np.clip(2 - footprint * 60, 0, 1)
    tone *= np.where(crack, (0.6, 0.85, 1.0)[road.style % 3], 1.0)
    cover_s, cover_v = (
        np.mod(x, 23.0) - 9.0,
        v - (hash01(np.floor(x / 23.0), 5.0 * np.ones_like(x), 1.0) - 0.5) * road.half_width,
    )
    lid = (np.abs(cover_s) < 0.32) & (np.abs(cover_v) < 0.32)
    tone *= np.where(lid, 0.62 + 0.3 * (np.mod(cover_s * 14, 1.0) > 0.5), 1.0)
    gutter = np.clip((np.abs(v) - (road.half_width - 0.35)) * 5, 0, 1)
    tone *= 1.0 - 0.25 * gutter
    white, yellow = markings(road, x, v, np.maximum(footprint * 1.5, 0.02))
    wear = np.clip(1.35 - 1.1 * sample(FBM, x * 14, y * 14) + 0.3 * grain, 0.15, 1.0)
    white, yellow = white * wear * 0.85, yellow * wear * 0.8
    paint[:] = np.maximum(white, yellow)
    bare = 1.0 - paint
    colour = []
    for c in range(3):
        base = tone * look.asphalt[c]
        if on_lane is not None:
            base = np.where(on_lane, base * tint[c], base)
        colour.append(base * bare + white * WHITE[c] + yellow * GOLD[c])
    return colour


def paving_colour(
    look: GroundLook, x: np.ndarray, v: np.ndarray, out: np.ndarray, z: np.ndarray, focal: float
) -> list[np.ndarray]:
    """Reflectance of pavement slabs and the kerb stone; `out` is the distance from the kerb."""
    footprint = z / focal
    near = np.clip(1.2 - footprint * 25, 0.0, 1.0)
    slab = np.float32(look.slab)
    i, j = np.floor(x / slab), np.floor(v / (slab * 0.75))
    tone = (
        1.0 + 0.22 * (hash01(i, j, 9.0) - 0.5) + 0.4 * (sample(GRAIN, x * 40, v * 40) - 0.5) * near
    )
    joint = np.minimum(np.mod(x, slab), np.mod(v, slab * np.float32(0.75)))
    tone *= 1.0 - 0.35 * (joint < 0.02) * np.clip(1.3 - footprint * 60, 0, 1)
    tone *= 0.8 + 0.4 * smooth(FBM, x * 2.5, v * 2.5)
    stone = out < 0.16
    return [np.where(stone, look.kerb[c], look.paving[c]) * tone for c in range(3)]


def grass_colour(look: GroundLook, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> list[np.ndarray]:
    """Reflectance of grass and earth."""
    blade = sample(GRAIN, x * 30, y * 90) - 0.5
    patch = smooth(FBM, x * 3.1, y * 3.1)
    earth = np.clip((patch - 0.72) * 4, 0, 0.8)
    tone = 1.0 + 0.8 * blade * np.clip(1.4 - z / 40, 0.2, 1) + 0.5 * (patch - 0.5)
    soil = (0.16, 0.11, 0.07)
    return [tone * (look.grass[c] * (1 - earth) + soil[c] * earth) for c in range(3)]
