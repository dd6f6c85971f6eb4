# SPDX-License-Identifier: Apache-2.0
"""A video file or a webcam as a camera that can be played."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from depthforge_ros.ros.bags.video import Capture
from depthforge_ros.ros.play.image_folder import ImageSource, Picture


class VideoSource(ImageSource):
    """The frames of an open video, at its own rate unless another is given.

    A webcam gives frames as it takes them, until it is stopped, and cannot loop.
    """

    def __init__(self, capture: Capture, rate_hz: float | None = None, **options: Any) -> None:
        self._capture = capture
        self._losses: list[str] = []
        self.count = capture.count
        super().__init__(rate_hz=rate_hz or capture.rate_hz, **options)

    def losses(self) -> list[str]:
        """Return what could not be read so far, in words."""
        return self._losses

    def pictures(self) -> Iterator[Picture | str]:
        """Every frame in order."""
        read = 0
        for bgr in self._capture.pictures():
            yield Picture(bgr)
            read += 1
        self._losses = self._capture.losses(read)
        self._capture.rewind()
