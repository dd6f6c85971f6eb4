# SPDX-License-Identifier: Apache-2.0
"""~/points and ~/drivable: a prediction in three dimensions and as a grid of the ground."""

from __future__ import annotations

import array

import cv2
import numpy as np
from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from depthforge_ros.frame import Frame, Prediction
from depthforge_ros.occupancy import CameraPose, GridSettings, GroundClasses, OccupancyMapper
from depthforge_ros.pixel_rays import PixelRays, pixel_rays
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.variant import LabelSet

# PCL, RViz and Foxglove know a colour as the bits 0x00RRGGBB in a float called rgb.
POINT = np.dtype(
    {
        "names": ["x", "y", "z", "rgb", "label", "confidence"],
        "formats": ["<f4", "<f4", "<f4", "<f4", "u1", "u1"],
        "offsets": [0, 4, 8, 12, 16, 17],
        "itemsize": 20,
    }
)
"""One point, as NumPy reads it: np.frombuffer(message.data, POINT).reshape(height, width)."""

_TYPES = {"<f4": PointField.FLOAT32, "|u1": PointField.UINT8}


class PointCloudPacker:
    """Fills one PointCloud2, of 20 bytes a point, with each prediction.

    A call overwrites the message of the last one, so publish it first: publishing copies. The
    message's own array is filled, as assigning to its data copies, in 27 ms at 1080p.
    """

    def __init__(self) -> None:
        self._message = PointCloud2()
        self._planes: np.ndarray | None = None

    def __call__(
        self,
        header: Header,
        rgb: np.ndarray,
        seen: Prediction,
        depth_m: np.ndarray,
        camera: np.ndarray | PixelRays,
    ) -> PointCloud2:
        """Return the cloud of a prediction [H, W], row by row like its mask, in the header's frame.

        rgb: [h, w, 3] uint8, resized where it is not of the mask's size. depth_m: [H, W] float32
        metres along the optical axis; where it is NaN or Inf, x, y and z are NaN, and colour, label
        and confidence are the pixel's all the same. camera: [3, 3] intrinsics K of the mask's size,
        or its rays; where they are NaN, x, y and z are NaN.
        """
        height, width = seen.labels.shape
        if depth_m.shape != seen.labels.shape or depth_m.dtype != np.float32:
            raise ValueError(
                f"depth is {list(depth_m.shape)} {depth_m.dtype}; "
                f"expected {[height, width]} float32"
            )
        if rgb.shape[:2] != (height, width):
            rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)  # [H, W, 3]
        if (self._message.height, self._message.width) != (height, width):
            self._message = _empty(height, width)
            # x, y, z, colour and the rest. Bytes of those two that nobody writes stay zero.
            self._planes = np.zeros((5, height, width), np.float32)
        assert self._planes is not None
        x, y, z, color, rest = self._planes
        rays = pixel_rays(camera, height, width)
        with np.errstate(invalid="ignore"):  # Inf · 0 is NaN, as intended
            np.multiply(depth_m, 0, out=z)
        np.add(z, depth_m, out=z)
        np.multiply(z, rays.x, out=x)
        np.multiply(z, rays.y, out=y)
        if rays.x.shape == z.shape:  # of a lens, which may not see everywhere
            z[np.isnan(rays.x)] = np.nan
        # A float's bytes, the lowest first: blue, green, red, 0; and label, confidence, 0, 0.
        cv2.mixChannels([rgb], [_as_bytes(color)], [2, 0, 1, 1, 0, 2])
        cv2.mixChannels([seen.labels, seen.confidence], [_as_bytes(rest)], [0, 0, 1, 1])
        points = np.frombuffer(self._message.data, np.float32).reshape(height, width, 5)
        cv2.merge([x, y, z, color, rest], points)  # copies the bits
        self._message.header = header
        return self._message


def _as_bytes(plane: np.ndarray) -> np.ndarray:
    """The bytes of an image [H, W] float32, a view: [H, W, 4] uint8."""
    return plane.view(np.uint8).reshape(*plane.shape, 4)


def _empty(height: int, width: int) -> PointCloud2:
    """A cloud of zeros."""
    fields = [
        PointField(name=name, offset=field[1], datatype=_TYPES[field[0].str], count=1)
        for name, field in (POINT.fields or {}).items()
    ]
    return PointCloud2(
        height=height,
        width=width,
        fields=fields,
        is_bigendian=False,
        point_step=POINT.itemsize,
        row_step=POINT.itemsize * width,
        data=array.array("B", [0]) * (height * width * POINT.itemsize),
        is_dense=False,
    )


class Spatial:
    """The outputs of one camera that need metres and a calibrated camera.

    topics: names and types. grid: whether there is a ~/drivable; `place` gives the camera's pose
    for it. Raises ValueError where the parameters name classes that the label set does not have, or
    describe no grid.
    """

    def __init__(self, values: Parameters, labels: LabelSet, *, grid: bool) -> None:
        self.topics: dict[str, type] = {"points": PointCloud2}
        self._pack = PointCloudPacker()
        self._map: OccupancyMapper | None = None
        self._base_frame = values.base_frame
        self._settings = GridSettings(
            cell_m=values.drivable_cell_m,
            range_m=values.drivable_range_m,
            obstacle_height_m=values.obstacle_height_m,
            ground_tolerance_m=values.ground_tolerance_m,
        )
        self._classes: GroundClasses | None = None
        if grid:
            self.topics["drivable"] = OccupancyGrid
            self._classes = GroundClasses.named(
                values.drivable_classes, values.obstacle_classes, labels
            )

    def place(self, pose: CameraPose) -> None:
        """Use this pose of the camera from now on."""
        if self._classes is not None and (self._map is None or self._map.pose != pose):
            self._map = OccupancyMapper(pose, self._settings, self._classes)

    def messages(
        self,
        requested: frozenset[str],
        header: Header,
        frame: Frame,
        seen: Prediction,
        depth_m: np.ndarray,
        certain_m: np.ndarray,
        rays: PixelRays,
    ) -> dict[str, PointCloud2 | OccupancyGrid]:
        """Return the requested ones of these outputs; without a pose, no grid.

        depth_m: [H, W] float32 metres of the prediction. certain_m: the same, NaN where confidence
        is low: such pixels have no point, but low-confidence obstacles stay occupied in the grid.
        rays: of the pixels.
        """
        messages: dict[str, PointCloud2 | OccupancyGrid] = {}
        if "points" in requested:
            messages["points"] = self._pack(header, frame.rgb, seen, certain_m, rays)
        if "drivable" in requested and self._map is not None:
            cells = self._map(seen.labels, depth_m, rays)
            messages["drivable"] = grid_message(header, self._base_frame, cells, self._map.settings)
        return messages


def grid_message(
    header: Header, base_frame: str, cells: np.ndarray, settings: GridSettings
) -> OccupancyGrid:
    """Return cells [y, x] int8 as an OccupancyGrid in the base frame, with the header's stamp."""
    message = OccupancyGrid()
    message.header.stamp = header.stamp
    message.header.frame_id = base_frame
    message.info.map_load_time = header.stamp
    message.info.resolution = settings.cell_m
    message.info.height, message.info.width = cells.shape
    message.info.origin.position.x = message.info.origin.position.y = settings.origin_m
    message.info.origin.orientation.w = 1.0
    message.data = array.array("b", cells.tobytes())
    return message
