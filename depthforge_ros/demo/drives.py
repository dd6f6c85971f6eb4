# SPDX-License-Identifier: Apache-2.0
"""What a demo drives through: rendered streets whose truth is known, or the user's own pictures."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from depthforge_ros.demo.pictures import write_picture
from depthforge_ros.street import HELD_OUT_SEEDS, StreetDrive

WIDTH_PX, HEIGHT_PX = 640, 384
ASSUMED_FOV_DEG = 60.0
CONDITIONS = ("night", "snow")


@dataclass(frozen=True)
class Truth:
    """labels: [H, W] uint8 trainId. depth_m: [H, W] float32, +Inf in the sky."""

    labels: np.ndarray
    depth_m: np.ndarray


@dataclass(frozen=True)
class Drive:
    """A folder of images to be played, and the truth of each by `fingerprint`, where known."""

    name: str
    folder: Path
    fov_deg: float
    frames: int
    truth: dict[str, Truth] = field(default_factory=dict)


def fingerprint(rgb: np.ndarray) -> str:
    """What an image is found by again after its way through the graph, whatever was dropped."""
    return hashlib.sha256(np.ascontiguousarray(rgb)).hexdigest()


def pictures_of(folder: Path, fov_deg: float | None) -> Drive:
    """The user's own pictures. Raises ValueError where the folder has none."""
    if not folder.is_dir():
        raise ValueError(f"IMAGES={folder} is no folder")
    frames = sum(cv2.haveImageReader(str(path)) for path in folder.iterdir() if path.is_file())
    if not frames:
        raise ValueError(f"IMAGES={folder} holds no picture that OpenCV can read")
    return Drive(folder.resolve().name, folder, fov_deg or ASSUMED_FOV_DEG, frames)


def rendered(condition: str, frames: int, folder: Path, seed: int = HELD_OUT_SEEDS[0]) -> Drive:
    """A drive down a street that no network was trained on, written as PNG."""
    folder.mkdir(parents=True)
    jobs = [(condition, seed, frames, index, folder) for index in range(frames)]
    with multiprocessing.get_context("spawn").Pool(min(2, multiprocessing.cpu_count())) as pool:
        truths = dict(pool.imap_unordered(_render, jobs, chunksize=8))
    focal_px = _drive(condition, seed, frames).intrinsics[0, 0]
    fov_deg = math.degrees(2 * math.atan(WIDTH_PX / 2 / focal_px))
    return Drive(condition, folder, fov_deg, frames, truths)


def _drive(condition: str, seed: int, frames: int) -> StreetDrive:
    return StreetDrive(seed, condition, WIDTH_PX, HEIGHT_PX, frames)


_DRIVES: dict[tuple[str, int, int], StreetDrive] = {}  # a worker process builds its world once


def _render(job: tuple[str, int, int, int, Path]) -> tuple[str, Truth]:
    condition, seed, frames, index, folder = job
    key = (condition, seed, frames)
    if key not in _DRIVES:
        _DRIVES[key] = _drive(*key)
    frame = _DRIVES[key][index]
    write_picture(folder / f"{index:04d}.png", frame.rgb)
    return fingerprint(frame.rgb), Truth(frame.labels, frame.depth_m)
