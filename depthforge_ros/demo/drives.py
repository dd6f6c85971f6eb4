# SPDX-License-Identifier: Apache-2.0
"""Rendered streets to drive through, whose truth is known.

Loaded by every process that renders, so without torch and ROS.
"""

from __future__ import annotations

import functools
import hashlib
import math
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from pathlib import Path

import cv2
import numpy as np

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
    """A folder of images to be played.

    film_hz: images a second at its natural speed. longest_s: it is played faster than the node
    keeps up with rather than longer than that. truth: of each image by `fingerprint`, where known.
    notes: what a person should know of it.
    """

    name: str
    folder: Path
    fov_deg: float
    frames: int
    film_hz: float
    longest_s: float = math.inf
    truth: dict[str, Truth] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def fingerprint(rgb: np.ndarray) -> str:
    """What an image is found by again after its way through the graph, whatever was dropped."""
    return hashlib.sha256(np.ascontiguousarray(rgb)).hexdigest()


def rendered(condition: str, frames: int, folder: Path) -> Drive:
    """A drive down a street, written as PNG by as many processes as there are cores.

    Raises ValueError for a number of frames that cannot be.
    """
    drive = _drive(condition, frames)
    folder.mkdir(parents=True)
    jobs = [(condition, frames, index, folder) for index in range(frames)]
    with _pool(min(len(os.sched_getaffinity(0)), frames)) as pool:
        truths = dict(pool.imap_unordered(_render, jobs, chunksize=4))
    fov_deg = math.degrees(2 * math.atan(WIDTH_PX / 2 / drive.intrinsics[0, 0]))
    return Drive(condition, folder, fov_deg, frames, RATE_HZ, LONGEST_S, truths)


@contextmanager
def _pool(processes: int) -> Iterator[Pool]:
    """Processes that leave Ctrl-C to this one, which ends them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # they inherit it
    try:
        pool = multiprocessing.get_context("spawn").Pool(processes)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with pool:
        yield pool


@functools.lru_cache(maxsize=1)
def _drive(condition: str, frames: int) -> StreetDrive:
    return StreetDrive(SEED, condition, WIDTH_PX, HEIGHT_PX, frames, RATE_HZ)


def _render(job: tuple[str, int, int, Path]) -> tuple[str, Truth]:
    condition, frames, index, folder = job
    frame = _drive(condition, frames)[index]
    write_picture(folder / f"{index:04d}.png", frame.rgb)
    return fingerprint(frame.rgb), Truth(frame.labels, frame.depth_m)


def write_picture(path: Path, rgb: np.ndarray) -> None:
    """Write an rgb image by its suffix. Raises OSError."""
    if not cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path} cannot be written")
