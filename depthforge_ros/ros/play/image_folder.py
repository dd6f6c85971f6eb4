# SPDX-License-Identifier: Apache-2.0
"""Images as a camera that can be played: any pictures, and those of a folder."""

from __future__ import annotations

import array
import copy
import functools
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from depthforge_ros.ros.messages import rgb8_message
from depthforge_ros.ros.play.publisher import SECOND_NS, Item, Offer, time_message

SUFFIXES = (
    *(".avif", ".bmp", ".dib", ".exr", ".gif", ".hdr", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".pic", ".png", ".pnm", ".ppm", ".ras", ".sr", ".tif", ".tiff", ".webp"),
)
"""Names of files that are images, in lower case; anything else in the folder is left alone."""

_QUALITY = 95
# As they are in the file, such images are CompressedImage already.
_FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".jpe": "jpeg", ".png": "png"}
_QOS = QoSProfile(depth=10)  # reliable, which best-effort subscriptions accept too

Calibration = Callable[[Header, int, int], CameraInfo]
"""Gives the CameraInfo for a header and an image of that width and height."""


@dataclass(frozen=True)
class Picture:
    """One image: BGR [H, W, 3] uint8. content: the file, in a format of CompressedImage or none."""

    bgr: np.ndarray
    content: bytes = b""
    format: str = ""


class ImageSource:
    """Pictures at a fixed rate as a camera. Subclasses give `count` and `pictures`.

    compressed: CompressedImage on topic/compressed; JPEG and PNG files as they are, others as
    JPEG. calibration: goes with each image as CameraInfo. exact_stamps: stamps are spaced by the
    rate to the nanosecond, for a clock that is played too; otherwise they are the wall's at
    publication.

    A picture that cannot be decoded is named on stderr, skipped and counted; its place in time
    stays empty.
    """

    speed = 1.0
    count = 0

    def __init__(
        self,
        *,
        rate_hz: float = 10.0,
        topic: str = "/camera/image_raw",
        frame_id: str = "camera",
        compressed: bool = False,
        calibration: Calibration | None = None,
        exact_stamps: bool = False,
    ) -> None:
        self._period_ns = SECOND_NS / rate_hz
        self._frame_id = frame_id
        self._calibration = calibration
        self._exact_stamps = exact_stamps
        self._compressed = compressed
        self._topic = f"{topic}/compressed" if compressed else topic
        self._info_topic = f"{topic.rpartition('/')[0]}/camera_info"
        self.offers = {self._topic: Offer(CompressedImage if compressed else Image, _QOS)}
        if calibration is not None:
            self.offers[self._info_topic] = Offer(CameraInfo, _QOS)
        self.start_ns = time.time_ns()
        self.duration_ns = round(self.count * self._period_ns)
        self.skipped = 0

    def pictures(self) -> Iterator[Picture | str]:
        """Every picture in order, or why it cannot be decoded."""
        raise NotImplementedError

    def losses(self) -> list[str]:
        """Return what could not be read so far, in words; beside what `skipped` counts."""
        return []

    def items(self) -> Iterator[Item]:
        """CameraInfo, if there is one, and image of every picture."""
        for index, picture in enumerate(self.pictures()):
            time_ns = self.start_ns + round(index * self._period_ns)
            if isinstance(picture, str):
                self.skipped += 1
                print(picture, file=sys.stderr)
                continue
            header = Header(frame_id=self._frame_id)
            image = self._image(picture, header)
            if self._calibration is not None:
                height, width = picture.bgr.shape[:2]
                info = self._calibration(header, width, height)
                yield Item(time_ns, self._info_topic, self._stamped(info, time_ns))
                # They share the header: subscribers match the two by their stamps.
                yield Item(time_ns, self._topic, functools.partial(_given, image))
            else:
                yield Item(time_ns, self._topic, self._stamped(image, time_ns))

    def _image(self, picture: Picture, header: Header) -> Image | CompressedImage:
        if not self._compressed:
            return rgb8_message(header, cv2.cvtColor(picture.bgr, cv2.COLOR_BGR2RGB))
        if not picture.format:
            _, encoded = cv2.imencode(".jpg", picture.bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
            picture = Picture(picture.bgr, encoded.tobytes(), "jpeg")
        data = array.array("B", picture.content)
        return CompressedImage(header=header, format=picture.format, data=data)

    def _stamped(self, message: Any, time_ns: int) -> Callable[[int], Any]:
        def at_publication(_: int) -> Any:
            stamp_ns = time_ns if self._exact_stamps else time.time_ns()
            message.header.stamp = time_message(stamp_ns)
            return message

        return at_publication


class ImageFolder(ImageSource):
    """The images of a folder in natural order (2.png before 10.png). EXIF rotation is ignored.

    Raises ValueError if the folder has no images.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        self._files = image_files(folder)
        self.count = len(self._files)
        super().__init__(**options)

    def pictures(self) -> Iterator[Picture | str]:
        """Every file in order."""
        for path in self._files:
            content = path.read_bytes()
            bgr = decoded(content)
            if bgr is None:
                yield f"{path} is no image that OpenCV can read; skipped"
            else:
                yield Picture(bgr, content, _FORMATS.get(path.suffix.lower(), ""))


def _given(message: Any, started_ns: int) -> Any:
    """Return the message whenever the pass began."""
    return message


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order. Raises ValueError if there are none."""
    if not folder.is_dir():
        reason = "is no folder" if folder.exists() else "does not exist"
        raise ValueError(f"{folder} {reason}")
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "."]
    if not files:
        raise ValueError(f"{folder} has no images; expected {', '.join(SUFFIXES)}")
    return sorted(files, key=natural_order)


def natural_order(path: Path) -> list[tuple[int, str]]:
    """A sort key by which numbers in names count as numbers."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def pinhole(fov_deg: float) -> Calibration:
    """Return intrinsics without distortion, square pixels, principal point in the middle.

    fov_deg: horizontal field of view. Raises ValueError if it is not within 1..179.
    """
    if not 1 <= fov_deg <= 179:
        raise ValueError(f"fov is {fov_deg} degrees; expected 1..179")

    def calibration(header: Header, width: int, height: int) -> CameraInfo:
        focal_px = width / 2 / math.tan(math.radians(fov_deg) / 2)
        cx, cy = (width - 1) / 2, (height - 1) / 2
        info = CameraInfo(header=header, width=width, height=height, distortion_model="plumb_bob")
        info.d = [0.0] * 5
        info.k = [focal_px, 0.0, cx, 0.0, focal_px, cy, 0.0, 0.0, 1.0]
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        info.p = [focal_px, 0.0, cx, 0.0, 0.0, focal_px, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
        return info

    return calibration


def calibrated_by(info: CameraInfo) -> Calibration:
    """Return the calibration of a file, whatever the size of the image: it names its own."""

    def calibration(header: Header, width: int, height: int) -> CameraInfo:
        del width, height
        found = copy.copy(info)
        found.header = header
        return found

    return calibration


def decoded(content: bytes, *, upright: bool = False) -> np.ndarray | None:
    """BGR [H, W, 3] uint8 of an image file, None where OpenCV cannot read it.

    upright: turned as EXIF says.
    """
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None
