# SPDX-License-Identifier: Apache-2.0
"""The grid of drivable ground, on streets whose every object is known, and on planes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from depthforge_ros.occupancy import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    CameraPose,
    GridSettings,
    GroundClasses,
    OccupancyMapper,
)
from depthforge_ros.street import HELD_OUT_SEEDS, StreetDrive
from depthforge_ros.variant import load_labels

LABELS = load_labels("cityscapes")
ROAD, SIDEWALK, SIGN, SKY, PERSON, CAR = (
    LABELS.id_of(name) for name in ("road", "sidewalk", "traffic sign", "sky", "person", "car")
)
CLASSES = GroundClasses.named("road", "", LABELS)
HEIGHT, WIDTH = 120, 160
K = np.array([[200.0, 0, 79.5], [0, 200.0, 59.5], [0, 0, 1]])


def flat(height_m: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels and depth of an endless road below a level camera, under the sky."""
    below = (np.arange(HEIGHT) - K[1, 2]) / K[1, 1]
    with np.errstate(divide="ignore"):
        depth = np.where(below > 0, height_m / below, np.inf).astype(np.float32)
    labels = np.where(below > 0, ROAD, SKY).astype(np.uint8)
    return np.repeat(labels[:, None], WIDTH, 1), np.repeat(depth[:, None], WIDTH, 1)


def mapper(pose: CameraPose | None = None, **settings: float) -> OccupancyMapper:
    chosen = GridSettings(**{"cell_m": 0.5, "range_m": 20.0, **settings})
    return OccupancyMapper(pose or CameraPose(1.5), chosen, CLASSES)


def cell(grid: np.ndarray, x_m: float, y_m: float) -> int:
    """The value at a place, for mapper()'s settings."""
    return int(grid[math.floor((y_m + 20) / 0.5), math.floor((x_m + 20) / 0.5)])


def test_a_flat_road_is_free_where_it_is_seen_and_nowhere_else():
    grid = mapper()(*flat(), K)
    assert grid.shape == (80, 80)
    assert grid.dtype == np.int8
    centre = (np.arange(80) + 0.5) * 0.5 - 20
    y, x = np.meshgrid(centre, centre, indexing="ij")
    near_m = 1.5 / ((HEIGHT - 1 - K[1, 2]) / K[1, 1])
    side = WIDTH / 2 / K[0, 0]
    well_seen = (x > near_m + 0.5) & (np.abs(y) < side * x - 1) & (x < 18)
    assert (grid[well_seen] == FREE).all()  # without gaps, though rows are 1.3 m apart
    not_seen = (x < near_m - 1) | (np.abs(y) > side * x + 1)
    assert (grid[not_seen] == UNKNOWN).all()
    assert set(np.unique(grid)) == {FREE, UNKNOWN}


def test_what_stands_on_the_road_occupies_and_hides():
    labels, depth = flat()
    # A person 8 m ahead, a metre wide and as high as the camera, feet on the road.
    columns = slice(80 - 12, 80 + 12)
    rows = slice(60, 60 + 37)
    labels[rows, columns], depth[rows, columns] = PERSON, 8.0
    grid = mapper()(labels, depth, K)
    assert cell(grid, 8.1, 0.1) == OCCUPIED
    assert cell(grid, 6.1, 0.1) == FREE
    assert cell(grid, 12.1, 0.1) == UNKNOWN  # behind it
    assert cell(grid, 12.1, 3.1) == FREE


def test_a_cell_with_road_and_obstacle_is_occupied():
    labels, depth = flat()
    row = int(np.argmin(np.abs(depth[:, 0] - 6.2)))
    labels[row, 80] = CAR
    grid = mapper()(labels, depth, K)
    assert cell(grid, float(depth[row, 80]), -0.01) == OCCUPIED
    assert (grid == OCCUPIED).sum() == 1


@pytest.mark.parametrize("label", [255, ROAD])
def test_what_is_no_known_obstacle_but_rises_from_the_road_keeps_it_from_being_free(label):
    labels, depth = flat()
    labels[60:97, 74:86], depth[60:97, 74:86] = label, 8.1
    grid = mapper()(labels, depth, K)
    assert cell(grid, 8.1, 0.1) == UNKNOWN
    assert cell(grid, 6.1, 0.1) == FREE
    assert OCCUPIED not in grid


def test_unlabelled_road_is_unknown():
    labels, depth = flat()
    assert (mapper()(np.full_like(labels, 255), depth, K) == UNKNOWN).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_without_metres_say_nothing(value):
    labels, depth = flat()
    labels[:] = np.where(np.arange(WIDTH) % 2, ROAD, CAR)
    assert (mapper()(labels, np.full_like(depth, value), K) == UNKNOWN).all()


def test_bridges_and_signs_above_the_limit_do_not_occupy():
    labels, depth = flat()
    labels[:30], depth[:30] = SIGN, 10.0  # 3 m and more above the road
    assert OCCUPIED not in mapper()(labels, depth, K)
    assert OCCUPIED in mapper(obstacle_height_m=5.0)(labels, depth, K)


@pytest.mark.parametrize(
    ("pose", "ahead"),
    [
        (CameraPose(1.5, x_m=2.0, y_m=1.0), (2 + 8, 1)),
        (CameraPose(1.5, yaw_rad=math.pi / 2), (0, 8)),
        (CameraPose(1.5, yaw_rad=math.pi), (-8, 0)),
        (CameraPose(1.5, x_m=-1.0, yaw_rad=-math.pi / 2), (-1, -8)),
    ],
)
def test_the_grid_is_the_vehicles_not_the_cameras(pose, ahead):
    labels, depth = flat()
    labels[60:97, 74:86], depth[60:97, 74:86] = PERSON, 8.1
    grid = mapper(pose)(labels, depth, K)
    rows, columns = np.nonzero(grid == OCCUPIED)
    middle = np.array([columns.mean(), rows.mean()]) * 0.5 - 20 + 0.25
    assert np.abs(middle - ahead).max() < 0.5


def test_a_tilted_camera_sees_the_same_ground():
    """pitch and roll as rays see them: a plane below a turned camera, traced here."""
    pose = CameraPose(1.5, pitch_rad=0.3, roll_rad=0.1)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones(x.shape)])
    # Nose down by 0.3, then the right side down by 0.1 about the optical axis.
    down_of_level = np.array([-math.sin(0.3), 0, -math.cos(0.3)])
    forward = np.array([math.cos(0.3), 0, -math.sin(0.3)])
    right = math.cos(0.1) * np.array([0, -1.0, 0]) + math.sin(0.1) * down_of_level
    down = np.cross(forward, right)
    upward = np.stack([right, down, forward], 1)[2] @ rays.reshape(3, -1)  # z of each ray
    with np.errstate(divide="ignore"):
        depth = np.where(upward < 0, -1.5 / upward, np.inf).reshape(x.shape).astype(np.float32)
    labels = np.where(np.isfinite(depth), ROAD, SKY).astype(np.uint8)
    grid = mapper(pose, ground_tolerance_m=0.01)(labels, depth, K)
    assert cell(grid, 3.1, 0.1) == FREE
    assert cell(grid, 15.1, 0.1) == FREE
    assert set(np.unique(grid)) == {FREE, UNKNOWN}
    assert (mapper(ground_tolerance_m=0.01)(labels, depth, K) != FREE).any()
    assert cell(mapper(ground_tolerance_m=0.01)(labels, depth, K), 3.1, 0.1) == UNKNOWN


def pose_of(camera) -> CameraPose:
    """Height, pitch and roll of a street's camera; its own heading is forward."""
    right, _, forward = camera.rotation
    pitch = -math.asin(forward[2])
    return CameraPose(
        float(camera.position[2]),
        pitch_rad=pitch,
        roll_rad=math.asin(-right[2] / math.cos(pitch)),
    )


PARKED_IN_SIGHT = dict(zip(HELD_OUT_SEEDS[:4], (0, 3, 0, 5), strict=True))


@pytest.mark.parametrize("seed", PARKED_IN_SIGHT)
def test_on_streets_only_the_carriageway_is_free_and_parked_cars_are_occupied(seed):
    drive = StreetDrive(seed, "clear", 640, 384, frames=1)
    frame, camera, road = drive[0], drive.camera(0), drive.world.road
    settings = GridSettings(cell_m=0.25, range_m=30.0)
    pose = pose_of(camera)
    grid = OccupancyMapper(pose, settings, CLASSES)(frame.labels, frame.depth_m, frame.intrinsics)
    yaw = math.atan2(camera.rotation[2, 1], camera.rotation[2, 0])
    turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])

    def world(value: int) -> np.ndarray:
        """Centres [n, 2] in the street of the cells of that value."""
        rows, columns = np.nonzero(grid == value)
        base = (np.stack([columns, rows], 1) + 0.5) * settings.cell_m + settings.origin_m
        return base @ turn.T + camera.position[:2]

    free, occupied = world(FREE), world(OCCUPIED)
    assert len(free) > 1000
    assert len(occupied) > 50
    across = np.abs(road.across(free[:, 0], free[:, 1]))
    assert (across < road.half_width + settings.cell_m).all()
    standing = 0
    for x, y, heading, half_l, half_w in drive.world.parked:
        c, s = math.cos(heading), math.sin(heading)

        def within(places: np.ndarray, margin_m: float) -> np.ndarray:
            along, aside = (places - (x, y)) @ (c, s), (places - (x, y)) @ (-s, c)  # noqa: B023
            return (np.abs(along) < half_l + margin_m) & (np.abs(aside) < half_w + margin_m)  # noqa: B023

        standing += within(occupied, 0.3).any()
        # Road that is seen below a body, between its wheels, is road; deep below it is not seen.
        cells = 4 * (half_l - 0.3) * (half_w - 0.3) / settings.cell_m**2
        assert within(free, -0.3).sum() < 0.2 * cells
    assert standing >= PARKED_IN_SIGHT[seed]


def test_class_sets_are_names_of_the_label_set():
    chosen = GroundClasses.named("road, sidewalk", "car,person", LABELS)
    assert chosen.drivable == {ROAD, SIDEWALK}
    assert chosen.obstacle == {CAR, PERSON}
    everything_else = GroundClasses.named("road", "", LABELS).obstacle
    assert everything_else == set(range(19)) - {ROAD, SKY}


@pytest.mark.parametrize(
    ("drivable", "obstacle", "problem"),
    [
        ("raod", "", "drivable_classes names 'raod'; cityscapes has bicycle, building, bus"),
        ("road", "cars", "obstacle_classes names 'cars'; cityscapes has bicycle"),
        ("road,car", "car,person", "drivable_classes and obstacle_classes both name car"),
        (" , ", "", "drivable_classes is empty; expected at least one class"),
    ],
)
def test_class_sets_that_are_refused(drivable, obstacle, problem):
    with pytest.raises(ValueError, match=problem):
        GroundClasses.named(drivable, obstacle, LABELS)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"cell_m": 0.0}, "cell_m is 0.0; expected more than 0"),
        ({"cell_m": 0.02, "range_m": 100.0}, "range_m 100.0 with cell_m 0.02 makes 10000 cells"),
        ({"ground_tolerance_m": math.inf}, "ground_tolerance_m is inf"),
    ],
)
def test_grids_that_are_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        GridSettings(**settings)
