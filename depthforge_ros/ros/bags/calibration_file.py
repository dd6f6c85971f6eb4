# SPDX-License-Identifier: Apache-2.0
"""Reads the YAML files that ROS's camera_calibration and camera_info_manager write."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml
from sensor_msgs.msg import CameraInfo

_MATRICES = {  # key, field of CameraInfo, numbers
    "camera_matrix": ("k", 9),
    "rectification_matrix": ("r", 9),
    "projection_matrix": ("p", 12),
    "distortion_coefficients": ("d", None),
}


def read_camera_info(path: Path) -> CameraInfo:
    """Return the calibration of a file; its header is empty.

    http://wiki.ros.org/camera_calibration_parsers, YAML. Without projection_matrix, P is K with a
    zero column, and R is the identity. Raises ValueError naming the file and the faulty value,
    OSError if it cannot be read.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no calibration; expected image_width, camera_matrix, ...")
    info = CameraInfo(distortion_model=str(content.get("distortion_model", "plumb_bob")))
    for name in ("width", "height"):
        side = content.get(f"image_{name}")
        if not isinstance(side, int) or not 0 < side < 1 << 16:
            raise ValueError(f"{path}: image_{name} is {side!r}; expected a number of pixels")
        setattr(info, name, side)
    for key, (field, length) in _MATRICES.items():
        if key not in content and key != "camera_matrix":
            continue
        setattr(info, field, _numbers(path, key, content.get(key), length))
    if "rectification_matrix" not in content:
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    if "projection_matrix" not in content:
        info.p = [*info.k[:3], 0.0, *info.k[3:6], 0.0, *info.k[6:], 0.0]
    if not (info.k[0] > 0 and info.k[4] > 0):
        raise ValueError(f"{path}: camera_matrix has focal lengths {info.k[0]:g}, {info.k[4]:g}")
    return info


def _numbers(path: Path, key: str, matrix: object, length: int | None) -> list[float]:
    data: Any = matrix.get("data") if isinstance(matrix, dict) else None
    try:
        numbers = [float(value) for value in data]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {key} has no list `data` of numbers") from error
    if not all(map(math.isfinite, numbers)) or len(numbers) != (length or len(numbers)):
        raise ValueError(f"{path}: {key} is {numbers}; expected {length} finite numbers")
    return numbers
