# SPDX-License-Identifier: Apache-2.0
"""What travels through the node: an image as received, and a frame for the network."""

from __future__ import annotations

from dataclasses import dataclass

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depthforge_ros.frame import Frame
from depthforge_ros.ros.images import image_size


@dataclass(frozen=True, eq=False)  # one image is not another, however alike
class Received:
    """An image as received from `camera`.

    opening: the number of the activation of the camera's input through which it came.
    """

    camera: str
    message: Image | CompressedImage
    arrival_ns: int
    opening: int

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width as the message declares them; None where it declares none."""
        return image_size(self.message)


@dataclass(frozen=True)
class Job:
    """A frame for the network.

    requested: outputs with a listener. depth: whether one of them needs depth. info: the CameraInfo
    that fits the frame.
    """

    received: Received
    frame: Frame
    requested: frozenset[str]
    depth: bool
    info: CameraInfo | None

    @property
    def camera(self) -> str:
        """Name of the camera that took the image."""
        return self.received.camera

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frame."""
        return self.frame.height, self.frame.width
