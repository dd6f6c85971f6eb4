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
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
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

    Raises ValueError for a number of frames that cannot be, RuntimeError where a process dies.
    """
    drive = _drive(condition, frames)
    folder.mkdir(parents=True)
    pool = ProcessPoolExecutor(
        min(len(os.sched_getaffinity(0)), frames), multiprocessing.get_context("spawn")
    )
    try:
        with _ignored(signal.SIGINT):  # by those processes, which this one ends
            jobs = [pool.submit(_render, condition, frames, i, folder) for i in range(frames)]
        truths = dict(job.result() for job in jobs)
    finally:
        pool.shutdown(cancel_futures=True)
    fov_deg = math.degrees(2 * math.atan(WIDTH_PX / 2 / drive.intrinsics[0, 0]))
    return Drive(condition, folder, fov_deg, frames, RATE_HZ, LONGEST_S, truths)


@contextmanager
def _ignored(number: int) -> Iterator[None]:
    """What is started meanwhile ignores the signal for ever."""
    previous = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, previous)


@functools.lru_cache(maxsize=1)
def _drive(condition: str, frames: int) -> StreetDrive:
    return StreetDrive(SEED, condition, WIDTH_PX, HEIGHT_PX, frames, RATE_HZ)


def _render(condition: str, frames: int, index: int, folder: Path) -> tuple[str, Truth]:
    frame = _drive(condition, frames)[index]
    write_picture(folder / f"{index:04d}.png", frame.rgb)
    return fingerprint(frame.rgb), Truth(frame.labels, frame.depth_m)


def write_picture(path: Path, rgb: np.ndarray) -> None:
    """Write an rgb image by its suffix. Raises OSError."""
    if not cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path} cannot be written")
