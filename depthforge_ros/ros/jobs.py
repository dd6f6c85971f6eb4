# SPDX-License-Identifier: Apache-2.0
"""What is on the way through the node: an image as it came, and a frame for the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depthforge_ros.frame import Frame
from depthforge_ros.ros.messages import image_size

if TYPE_CHECKING:
    from depthforge_ros.ros.stream import Stream


@dataclass(frozen=True, eq=False)  # one image is not another, however alike
class Received:
    """An image as it came. opening: which opening of the stream's input it came through."""

    stream: Stream
    message: Image | CompressedImage
    arrival_ns: int
    opening: int

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width as the message declares them; None where it declares none."""
        return image_size(self.message)


@dataclass(frozen=True)
class Job:
    """A frame for the network. wanted: outputs that somebody listens to. depth: whether for one of
    them. info: the CameraInfo that fits the frame.
    """

    received: Received
    frame: Frame
    wanted: frozenset[str]
    depth: bool
    info: CameraInfo | None

    @property
    def stream(self) -> Stream:
        """The camera's."""
        return self.received.stream

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frame."""
        return self.frame.height, self.frame.width
