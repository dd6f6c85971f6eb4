# SPDX-License-Identifier: Apache-2.0
"""Occupancy grid around a vehicle, from one frame's classes and metric depth: drivable ground is
free, obstacles are occupied. Read `OccupancyMapper.__call__`.

Base frame: x forward, y left, z up, level, its origin on the ground. Cells without an observation
are unknown, never free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from depthforge_ros.pixel_rays import PixelRays, pixel_rays
from depthforge_ros.variant import LabelSet

FREE, OCCUPIED, UNKNOWN = 0, 100, -1
"""Values of a cell, those of nav_msgs/OccupancyGrid."""

MAX_CELLS = 2000
"""Most cells along one side of the grid."""

SLOPE = 0.03
"""Allowed deviation of the ground from the base frame's plane, as a share of the distance, in
addition to `ground_tolerance_m`."""

GAP_SHARE = 0.1
"""Ground between two neighbouring rows of the image counts as seen up to this share of the
distance. Such a gap can hide a dip of at most a tenth of the camera's height."""

_OTHER, _GROUND, _OBSTACLE = 0, 1, 2

_OPTICAL_TO_BODY = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
"""z forward, x right, y down to x forward, y left, z up (REP-103)."""


@dataclass(frozen=True)
class CameraPose:
    """The camera in the base frame.

    x_m, y_m: forward and left of the origin. height_m: of the optical centre above the ground.
    roll_rad (right side down), pitch_rad (nose down), yaw_rad (to the left): turns of the camera's
    body about x, y and z in this order, like rpy in a URDF; all 0: looking forward and level.
    """

    height_m: float
    x_m: float = 0.0
    y_m: float = 0.0
    roll_rad: float = 0.0
    pitch_rad: float = 0.0
    yaw_rad: float = 0.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.height_m <= 10.0:
            raise ValueError(f"height_m is {self.height_m}; expected 0.1..10")

    @staticmethod
    def from_transform(
        translation: tuple[float, float, float], quaternion: tuple[float, float, float, float]
    ) -> CameraPose:
        """Return the pose of an optical frame in the base frame, as tf gives it.

        translation: x, y, z in metres. quaternion: x, y, z, w. Raises ValueError for a height that
        is not allowed, and for a quaternion of zeros.
        """
        x, y, z, w = quaternion
        norm = x * x + y * y + z * z + w * w
        if not 0 < norm < math.inf:
            raise ValueError(f"quaternion is {quaternion}; expected a rotation")
        s = 2 / norm
        turn = np.array(
            [
                [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
                [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
                [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
            ]
        )
        body = turn @ _OPTICAL_TO_BODY.T
        return CameraPose(
            height_m=translation[2],
            x_m=translation[0],
            y_m=translation[1],
            roll_rad=math.atan2(body[2, 1], body[2, 2]),
            pitch_rad=math.asin(min(max(-body[2, 0], -1.0), 1.0)),
            yaw_rad=math.atan2(body[1, 0], body[0, 0]),
        )

    def rotation(self) -> np.ndarray:
        """Return [3, 3] from optical frame (x right, y down, z forward) to base frame."""
        (sr, cr), (sp, cp), (sy, cy) = (
            (math.sin(angle), math.cos(angle))
            for angle in (self.roll_rad, self.pitch_rad, self.yaw_rad)
        )
        roll = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
        pitch = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
        yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
        return yaw @ pitch @ roll @ _OPTICAL_TO_BODY


@dataclass(frozen=True)
class GridSettings:
    """The grid: a square with the base frame's origin in its middle.

    cell_m: side of a cell. range_m: half the side of the grid. obstacle_height_m: pixels
    higher above the ground are ignored. ground_tolerance_m: how far drivable pixels may lie above
    or below the plane of the base frame, in addition to SLOPE.
    """

    cell_m: float = 0.2
    range_m: float = 40.0
    obstacle_height_m: float = 2.5
    ground_tolerance_m: float = 0.2

    def __post_init__(self) -> None:
        for name in ("cell_m", "range_m", "obstacle_height_m", "ground_tolerance_m"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if not 2 <= self.cells <= MAX_CELLS:
            raise ValueError(
                f"range_m {self.range_m} with cell_m {self.cell_m} makes {self.cells} cells a "
                f"side; expected 2..{MAX_CELLS}"
            )

    @property
    def cells(self) -> int:
        """Cells along one side."""
        return 2 * math.ceil(self.range_m / self.cell_m - 1e-9)

    @property
    def origin_m(self) -> float:
        """x and y of the corner of cell [0, 0]."""
        return -self.cells / 2 * self.cell_m


@dataclass(frozen=True)
class GroundClasses:
    """Ids of the drivable classes and of the obstacle classes.

    Pixels of classes in neither set mark no cell as occupied, but prevent it from being free.
    """

    drivable: frozenset[int]
    obstacle: frozenset[int]

    @staticmethod
    def named(drivable: str, obstacle: str, labels: LabelSet) -> GroundClasses:
        """From names joined by commas; no obstacles named: all but the drivable ones and sky.

        Raises ValueError naming a class that the label set does not have, one that is in both, or
        that no class is drivable.
        """
        ids = _ids("drivable_classes", drivable, labels)
        if not ids:
            raise ValueError("drivable_classes is empty; expected at least one class")
        obstacles = _ids("obstacle_classes", obstacle, labels)
        if not obstacles:
            obstacles = frozenset(range(len(labels))) - ids - {labels.id_of("sky")}
        both = [labels.classes[index].name for index in sorted(ids & obstacles)]
        if both:
            raise ValueError(f"drivable_classes and obstacle_classes both name {', '.join(both)}")
        return GroundClasses(ids, obstacles)

    def table(self) -> np.ndarray:
        """Return the kind (ground, obstacle, other) of each mask value: [256] uint8."""
        kinds = np.full(256, _OTHER, np.uint8)
        kinds[list(self.drivable)] = _GROUND
        kinds[list(self.obstacle)] = _OBSTACLE
        return kinds


def _ids(parameter: str, names: str, labels: LabelSet) -> frozenset[int]:
    known = {label.name: index for index, label in enumerate(labels.classes)}
    named = [name.strip() for name in names.split(",") if name.strip()]
    for name in named:
        if name not in known:
            raise ValueError(
                f"{parameter} names {name!r}; {labels.name} has {', '.join(sorted(known))}"
            )
    return frozenset(known[name] for name in named)


class OccupancyMapper:
    """Makes grids of one camera's frames, each from that frame alone."""

    def __init__(self, pose: CameraPose, settings: GridSettings, classes: GroundClasses) -> None:
        self.pose, self.settings = pose, settings
        self._kinds = classes.table()
        self._rays: tuple[PixelRays, np.ndarray] | None = None

    def __call__(
        self, labels: np.ndarray, depth_m: np.ndarray, camera: np.ndarray | PixelRays
    ) -> np.ndarray:
        """Return cells [y, x] int8 of a mask [H, W] uint8 and its depth [H, W] float32 in metres.

        FREE: drivable pixels lie in the cell, on the ground, and nothing else below the height
        limit does. OCCUPIED: a pixel of an obstacle below that limit does. UNKNOWN: all the rest.
        camera: [3, 3] intrinsics K of the mask's size, or its rays. Pixels whose depth is
        NaN or Inf, or whose ray is NaN, are ignored.
        """
        settings, pose = self.settings, self.pose
        cells = settings.cells
        rays = self._rays_in_base(pixel_rays(camera, *labels.shape))
        # Inf times a ray may be NaN; comparisons with NaN are false, so such pixels are ignored.
        with np.errstate(invalid="ignore"):
            column = depth_m * rays[0] + np.float32(pose.x_m / settings.cell_m + cells / 2)
            row = depth_m * rays[1] + np.float32(pose.y_m / settings.cell_m + cells / 2)
            height_m = depth_m * rays[2] + np.float32(pose.height_m)
            inside = (column >= 0) & (column < cells) & (row >= 0) & (row < cells)
            inside &= height_m < settings.obstacle_height_m
            level = np.abs(height_m) <= settings.ground_tolerance_m + SLOPE * depth_m
        kinds = cv2.LUT(labels, self._kinds)  # [H, W]
        ground = inside & level & (kinds == _GROUND)
        obstacle = inside & (kinds == _OBSTACLE)
        other = inside & ~ground & ~obstacle
        grid = np.full((cells, cells), UNKNOWN, np.int8)
        _mark(grid, row[ground], column[ground], FREE)
        self._mark_gaps(grid, ground, row, column, depth_m)
        _mark(grid, row[other], column[other], UNKNOWN)
        _mark(grid, row[obstacle], column[obstacle], OCCUPIED)
        return grid

    def _mark_gaps(
        self,
        grid: np.ndarray,
        ground: np.ndarray,
        row: np.ndarray,
        column: np.ndarray,
        depth_m: np.ndarray,
    ) -> None:
        """Free cells between ground pixels that are neighbours in a column of the image.

        Far away one row of pixels sees the ground several cells behind the one below it.
        """
        y, x = np.nonzero(ground[1:] & ground[:-1])
        far_row, far_column = row[y, x], column[y, x]  # [n]
        rows, columns = row[y + 1, x] - far_row, column[y + 1, x] - far_column
        apart = np.maximum(np.abs(rows), np.abs(columns))
        gap = (apart > 1) & (apart * self.settings.cell_m <= GAP_SHARE * depth_m[y, x])
        far_row, far_column = far_row[gap], far_column[gap]
        rows, columns, apart = rows[gap], columns[gap], apart[gap]
        for step in range(1, math.ceil(float(apart.max(initial=0)))):
            longer = step < apart
            part = step / apart[longer]
            _mark(
                grid,
                far_row[longer] + part * rows[longer],
                far_column[longer] + part * columns[longer],
                FREE,
            )

    def _rays_in_base(self, rays: PixelRays) -> np.ndarray:
        """Every pixel's ray of depth 1 m in the base frame, x and y in cells, z in metres:
        [3, H, W] float32.
        """
        if self._rays is None or self._rays[0] is not rays:
            turn = self.pose.rotation() / np.array([[self.settings.cell_m]] * 2 + [[1.0]])
            turned = [axis[0] * rays.x + (axis[1] * rays.y + axis[2]) for axis in turn]  # [H, W]
            self._rays = rays, np.stack(turned).astype(np.float32)
        return self._rays[1]


def _mark(grid: np.ndarray, row: np.ndarray, column: np.ndarray, value: int) -> None:
    """Set the cells that contain the places; row, column: [n] in cells, inside the grid."""
    grid[row.astype(np.intp), column.astype(np.intp)] = value
