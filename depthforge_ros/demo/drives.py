# SPDX-License-Identifier: Apache-2.0
"""Drives down rendered streets with exact truth.

Every rendering process imports this module, so it needs neither torch nor ROS.
"""

from __future__ import annotations

import functools
import hashlib
import math
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from depthforge_ros.interrupt import on_signals
from depthforge_ros.street import HELD_OUT_SEEDS, StreetDrive

SEED = HELD_OUT_SEEDS[0]  # a street that no network was trained on
WIDTH_PX, HEIGHT_PX = 640, 384
RATE_HZ = 10.0
LONGEST_S = 30.0
CONDITIONS = ("night", "snow")


@dataclass(frozen=True)
class Truth:
    """labels: [H, W] uint8 trainId. depth_m: [H, W] float32, +Inf in the sky."""

    labels: np.ndarray
    depth_m: np.ndarray


@dataclass(frozen=True)
class Drive:
    """A folder of images to play.

    film_hz: images a second at natural speed. longest_s: longest playing time; a longer drive is
    played faster than the node keeps up with. truth, names: of an image by its `fingerprint`, where
    known. notes: remarks for the report.
    """

    name: str
    folder: Path
    fov_deg: float
    frames: int
    film_hz: float
    longest_s: float = math.inf
    truth: dict[str, Truth] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def fingerprint(rgb: np.ndarray) -> str:
    """Return a hash of the pixels, by which a recorded image is matched with its truth and name."""
    return hashlib.sha256(np.ascontiguousarray(rgb).data).hexdigest()


def rendered(condition: str, frames: int, folder: Path) -> Drive:
    """Render a drive into PNG files, with one process per core.

    Raise ValueError for a number of frames StreetDrive refuses, RuntimeError if a process dies.
    """
    drive = _drive(condition, frames)
    folder.mkdir(parents=True)
    pool = ProcessPoolExecutor(
        min(len(os.sched_getaffinity(0)), frames), multiprocessing.get_context("spawn")
    )
    try:
        # Inherited by the processes; this one ends them.
        with on_signals(signal.SIG_IGN, [signal.SIGINT]):
            jobs = [pool.submit(_render, condition, frames, i, folder) for i in range(frames)]
        found = [job.result() for job in jobs]
    finally:
        pool.shutdown(cancel_futures=True)
    fov_deg = math.degrees(2 * math.atan(WIDTH_PX / 2 / drive.intrinsics[0, 0]))
    names = {mark: f"{index:04d}.png" for index, (mark, _) in enumerate(found)}
    return Drive(condition, folder, fov_deg, frames, RATE_HZ, LONGEST_S, dict(found), names)


@functools.lru_cache(maxsize=1)
def _drive(condition: str, frames: int) -> StreetDrive:
    return StreetDrive(SEED, condition, WIDTH_PX, HEIGHT_PX, frames, RATE_HZ)


def _render(condition: str, frames: int, index: int, folder: Path) -> tuple[str, Truth]:
    frame = _drive(condition, frames)[index]
    write_picture(folder / f"{index:04d}.png", frame.rgb)
    return fingerprint(frame.rgb), Truth(frame.labels, frame.depth_m)


def write_picture(path: Path, rgb: np.ndarray) -> None:
    """Write an RGB image [H, W, 3] in the format of the suffix. Raise OSError."""
    if not cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path} cannot be written")
