# SPDX-License-Identifier: Apache-2.0
"""An image as received, and a frame for the network."""

from __future__ import annotations

from dataclasses import dataclass

from sensor_msgs.msg import CompressedImage, Image

from depthforge_ros.frame import Frame
from depthforge_ros.ros.calibration import Calibration
from depthforge_ros.ros.images import image_size
from depthforge_ros.ros.node.parameters import Parameters


@dataclass(frozen=True, eq=False)  # one image is not another, however alike
class Received:
    """An image as received from `camera`.

    opening: number of the activation of the camera's input that it came through. values: the
    parameters by which everything is done with it, taken when it arrived.
    """

    camera: str
    message: Image | CompressedImage
    arrival_ns: int
    opening: int
    values: Parameters

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width as the message declares them; None where it declares none."""
        return image_size(self.message)


@dataclass(frozen=True)
class Job:
    """A frame for the network.

    requested: outputs with a listener. depth: whether one of them needs depth. calibration: None
    if no requested output needs it, or for the reason in `uncalibrated`.
    """

    received: Received
    frame: Frame
    requested: frozenset[str]
    depth: bool
    calibration: Calibration | None
    uncalibrated: str

    @property
    def values(self) -> Parameters:
        """The parameters by which everything is done with the frame."""
        return self.received.values

    @property
    def camera(self) -> str:
        """Name of the camera that took the image."""
        return self.received.camera

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frame."""
        return self.frame.height, self.frame.width
