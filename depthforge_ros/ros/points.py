# SPDX-License-Identifier: Apache-2.0
"""The organised point cloud: a point with its colour, class and confidence for every mask pixel."""

from __future__ import annotations

import array

import cv2
import numpy as np
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from depthforge_ros.frame import Prediction

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
    """Fills one PointCloud2, of 20 bytes a point, again and again.

    The next call overwrites what the last one gave, so publish it first: publishing copies. What is
    assigned to a message's data is copied as well, at 1080p in 27 ms, so its own array is filled.
    """

    def __init__(self) -> None:
        self._message = PointCloud2()
        self._planes: np.ndarray | None = None
        self._rays: tuple[bytes, np.ndarray, np.ndarray] | None = None

    def __call__(
        self,
        header: Header,
        rgb: np.ndarray,
        seen: Prediction,
        depth_m: np.ndarray,
        intrinsics: np.ndarray,
    ) -> PointCloud2:
        """The cloud of a prediction [H, W], row by row like its mask, in the header's frame.

        rgb: [h, w, 3] uint8, resized where it is not of the mask's size. depth_m: [H, W] float32
        metres along the optical axis; where it is NaN or Inf, x, y and z are NaN, and colour, label
        and confidence are the pixel's all the same. intrinsics: [3, 3] K of the mask's size.
        """
        height, width = seen.labels.shape
        if depth_m.shape != seen.labels.shape or depth_m.dtype != np.float32:
            raise ValueError(
                f"depth is {list(depth_m.shape)} {depth_m.dtype}; wanted {[height, width]} float32"
            )
        if rgb.shape[:2] != (height, width):
            rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)  # [H, W, 3]
        if (self._message.height, self._message.width) != (height, width):
            self._message = _empty(height, width)
            # x, y, z, colour and the rest. Bytes of those two that nobody writes stay zero.
            self._planes = np.zeros((5, height, width), np.float32)
        x, y, z, color, rest = self._planes
        ray_x, ray_y = self._rays_of(intrinsics, height, width)
        with np.errstate(invalid="ignore"):  # Inf · 0 is NaN, which is what is wanted
            np.multiply(depth_m, 0, out=z)
        np.add(z, depth_m, out=z)
        np.multiply(z, ray_x, out=x)
        np.multiply(z, ray_y[:, None], out=y)
        # A float's bytes, the lowest first: blue, green, red, 0; and label, confidence, 0, 0.
        cv2.mixChannels([rgb], [_as_bytes(color)], [2, 0, 1, 1, 0, 2])
        cv2.mixChannels([seen.labels, seen.confidence], [_as_bytes(rest)], [0, 0, 1, 1])
        points = np.frombuffer(self._message.data, np.float32).reshape(height, width, 5)
        cv2.merge([x, y, z, color, rest], points)  # copies bits, whatever they mean
        self._message.header = header
        return self._message

    def _rays_of(
        self, intrinsics: np.ndarray, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """x of every column's ray [W] and y of every row's [H], for z = 1; float32."""
        key = intrinsics.tobytes() + bytes(f"{width}x{height}", "ascii")
        if self._rays is None or self._rays[0] != key:
            self._rays = (key, *pixel_rays(intrinsics, height, width))
        return self._rays[1:]


def pixel_rays(intrinsics: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x of every column's ray [W] and y of every row's [H], for z = 1; float32.

    intrinsics: [3, 3] K of a pinhole camera; pixel centres are whole numbers.
    """
    x = (np.arange(width) - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (np.arange(height) - intrinsics[1, 2]) / intrinsics[1, 1]
    return x.astype(np.float32), y.astype(np.float32)


def _as_bytes(plane: np.ndarray) -> np.ndarray:
    """The bytes of an image [H, W] float32, a view: [H, W, 4] uint8."""
    return plane.view(np.uint8).reshape(*plane.shape, 4)


def _empty(height: int, width: int) -> PointCloud2:
    """A cloud whose points are all zeros."""
    fields = [
        PointField(name=name, offset=offset, datatype=_TYPES[kind.str], count=1)
        for name, (kind, offset) in POINT.fields.items()
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
