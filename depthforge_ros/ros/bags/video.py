# SPDX-License-Identifier: Apache-2.0
"""A video file or a webcam, read by OpenCV: as pictures, or as a recording that is annotated."""

from __future__ import annotations

import array
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import Header

from depthforge_ros.ros.bags.layout import is_device
from depthforge_ros.ros.bags.topic import BagError, Topic, own_topic

IMAGE_TOPIC = "/camera/image_raw/compressed"
INFO_TOPIC = "/camera/camera_info"
FRAME_ID = "camera"
JPEG_QUALITY = 95
_SECOND_NS = 1_000_000_000
_DEFAULT_HZ = 30.0


@dataclass(frozen=True)
class Capture:
    """An open video. rate_hz: as the file or device declares it. count: frames; 0: not known."""

    path: Path
    source: cv2.VideoCapture
    rate_hz: float
    count: int
    live: bool

    def pictures(self) -> Iterator[np.ndarray]:
        """Every frame: BGR [H, W, 3] uint8."""
        while True:
            there, bgr = self.source.read()
            if not there:
                return
            yield bgr

    def losses(self, read: int) -> list[str]:
        """Return what is missing after so many frames, in words.

        Containers without an index declare a count that may be one off.
        """
        missing = read + 1 < self.count
        return [f"{self.path}: {read} of {self.count} frames read"] if missing else []

    def rewind(self) -> None:
        """Begin again with the first frame of a file."""
        if not self.live:
            self.source.set(cv2.CAP_PROP_POS_FRAMES, 0)


@contextmanager
def open_video(path: Path) -> Iterator[Capture]:
    """The video open for reading. Raises BagError if OpenCV cannot read it."""
    live = is_device(path)
    if not path.exists():
        raise BagError(f"video {path} does not exist")
    source = cv2.VideoCapture(str(path), cv2.CAP_V4L2 if live else cv2.CAP_ANY)
    try:
        if not source.isOpened():
            raise BagError(f"video {path} cannot be opened by OpenCV")
        rate_hz = source.get(cv2.CAP_PROP_FPS)
        count = 0 if live else max(round(source.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        usual = 1 <= rate_hz <= 1000
        yield Capture(path, source, rate_hz if usual else _DEFAULT_HZ, count, live)
    finally:
        source.release()


class VideoRecording:
    """A video with the attributes of Bag: JPEG images on IMAGE_TOPIC.

    A file's images are stamped from its modification time on, a webcam's with the time of
    capture. info: published with every image.
    """

    def __init__(self, capture: Capture, info: CameraInfo | None) -> None:
        self.path, self.live = capture.path, capture.live
        self._capture, self._info = capture, info
        self._losses: list[str] = []
        images = own_topic(IMAGE_TOPIC, "sensor_msgs/msg/CompressedImage")
        self.topics: list[Topic] = [images]
        if info is not None:
            self.topics.insert(0, own_topic(INFO_TOPIC, "sensor_msgs/msg/CameraInfo"))
        self.count = capture.count
        self.start_ns = time.time_ns() if self.live else capture.path.stat().st_mtime_ns
        self.remarks: list[str] = []
        self.custom_data: dict[str, str] = {}
        self.metadata: list[tuple[str, dict[str, str]]] = []
        self.ros_distro = ""

    def attachments(self) -> Iterator:
        """Return nothing: a video has no attachments."""
        return iter(())

    def losses(self) -> list[str]:
        """Return what could not be read, in words."""
        return self._losses

    def messages(self, names: Collection[str] | None = None) -> Iterator[tuple[Topic, int, bytes]]:
        """Topic, log time [ns] and serialized message of every frame. Can be read once."""
        *infos, images = self.topics
        index = 0
        for index, bgr in enumerate(self._capture.pictures(), 1):
            since_ns = round((index - 1) * _SECOND_NS / self._capture.rate_hz)
            stamp_ns = time.time_ns() if self.live else self.start_ns + since_ns
            header = Header(frame_id=FRAME_ID)
            header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, _SECOND_NS)
            for topic in infos:
                assert self._info is not None  # without one there is no such topic
                self._info.header = header
                yield topic, stamp_ns, serialize_message(self._info)
            if names is None or images.name in names:
                yield images, stamp_ns, serialize_message(compressed_image(header, bgr))
        self._losses = self._capture.losses(index)


def compressed_image(header: Header, bgr: np.ndarray) -> CompressedImage:
    """Return BGR [H, W, 3] uint8 as JPEG."""
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    data = array.array("B", encoded.tobytes())
    return CompressedImage(header=header, format="jpeg", data=data)
