# SPDX-License-Identifier: Apache-2.0
"""The calibration of a camera's images: what node and bag tools share to give metres."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo

from depthforge_ros.frame import Frame


class CameraInfos:
    """The latest CameraInfo of each image geometry that was seen on the topic."""

    MOST = 8

    def __init__(self) -> None:
        # Replaced as a whole, never changed: one thread adds while another looks.
        self._latest: dict[tuple[str, int, int], CameraInfo] = {}

    def add(self, info: CameraInfo) -> None:
        """Keep the message; the geometry that is longest without one is forgotten first."""
        width = (info.roi.width or info.width) // max(info.binning_x, 1)
        height = (info.roi.height or info.height) // max(info.binning_y, 1)
        key = (info.header.frame_id, width, height)
        others = [(k, v) for k, v in self._latest.items() if k != key]
        self._latest = dict([*others[-(self.MOST - 1) :], (key, info)])

    def matching(self, frame: Frame) -> CameraInfo | None:
        """The latest one for the frame's optical frame and size."""
        return self._latest.get((frame.frame_id, frame.width, frame.height))
