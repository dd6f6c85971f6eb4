# SPDX-License-Identifier: Apache-2.0
"""What a planner gets in three dimensions and from above: ~/points and ~/drivable."""

from __future__ import annotations

import array
from collections.abc import Mapping

import numpy as np
from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from depthforge_ros.frame import Frame, Prediction
from depthforge_ros.occupancy import CameraPose, GridSettings, GroundClasses, OccupancyMapper
from depthforge_ros.ros.parameters import Parameters
from depthforge_ros.ros.points import PointCloudPacker
from depthforge_ros.variant import LabelSet


class Spatial:
    """The outputs of one camera that need metres and K.

    topics: name and type of those that there are: without camera_height_m there is no grid, as
    nobody knows where the ground is, nor with several cameras, as the parameters place only one.
    Raises ValueError where the parameters name classes that the label set does not have, or
    describe no grid.
    """

    def __init__(self, values: Parameters, labels: LabelSet) -> None:
        self.topics: dict[str, type] = {"points": PointCloud2}
        self._pack = PointCloudPacker()
        self._map: OccupancyMapper | None = None
        self._base_frame = values.base_frame
        if values.camera_height_m > 0 and len(values.cameras) == 1:
            self.topics["drivable"] = OccupancyGrid
            pose = CameraPose(
                height_m=values.camera_height_m,
                x_m=values.camera_x_m,
                y_m=values.camera_y_m,
                roll_rad=values.camera_roll_rad,
                pitch_rad=values.camera_pitch_rad,
                yaw_rad=values.camera_yaw_rad,
            )
            settings = GridSettings(
                cell_m=values.drivable_cell_m,
                range_m=values.drivable_range_m,
                obstacle_height_m=values.obstacle_height_m,
                ground_tolerance_m=values.ground_tolerance_m,
            )
            classes = GroundClasses.named(values.drivable_classes, values.obstacle_classes, labels)
            self._map = OccupancyMapper(pose, settings, classes)

    def messages(
        self,
        wanted: frozenset[str],
        header: Header,
        frame: Frame,
        seen: Prediction,
        depth_m: np.ndarray,
        certain_m: np.ndarray,
        intrinsics: np.ndarray,
    ) -> Mapping[str, PointCloud2 | OccupancyGrid]:
        """Those of the wanted outputs that are made here.

        depth_m: [H, W] float32 metres of the prediction. certain_m: the same without those of
        uncertain pixels: they are no points, but an obstacle that is doubted stays one in the grid.
        intrinsics: [3, 3] K of that size.
        """
        messages: dict[str, PointCloud2 | OccupancyGrid] = {}
        if "points" in wanted:
            messages["points"] = self._pack(header, frame.rgb, seen, certain_m, intrinsics)
        if "drivable" in wanted and self._map is not None:
            cells = self._map(seen.labels, depth_m, intrinsics)
            messages["drivable"] = grid_message(header, self._base_frame, cells, self._map.settings)
        return messages


def grid_message(
    header: Header, base_frame: str, cells: np.ndarray, settings: GridSettings
) -> OccupancyGrid:
    """Cells [y, x] int8 as an OccupancyGrid in the base frame, with the stamp of the header."""
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
