# SPDX-License-Identifier: Apache-2.0
"""Which files make a bag or a video. Needs neither rosbags nor mcap."""

from __future__ import annotations

import re
import stat
from pathlib import Path

STORAGE_SUFFIXES = (".mcap", ".db3")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
COMPRESSED = ".zstd"
METADATA = "metadata.yaml"


def storage_suffix(path: Path) -> str:
    """Return .mcap or .db3, also for NAME.db3.zstd; empty for any other file."""
    suffix = path.with_suffix("").suffix if path.suffix == COMPRESSED else path.suffix
    return suffix if suffix in STORAGE_SUFFIXES else ""


def is_bag(path: Path) -> bool:
    """Whether the path is a storage file, or a folder with metadata.yaml or the files of one bag.

    Without metadata.yaml, files belong together if they are named NAME_0, NAME_1 ..., as
    `ros2 bag record` names them.
    """
    if path.is_dir():
        return (path / METADATA).is_file() or bool(split_files(path))
    return path.is_file() and bool(storage_suffix(path))


def split_files(folder: Path) -> list[Path]:
    """Return the storage files of a folder in order if they are one bag, else nothing."""
    files = [path for path in folder.iterdir() if storage_suffix(path) and path.is_file()]
    found = [re.fullmatch(r"(.+)_(\d+)", path.name.partition(".")[0]) for path in files]
    numbered = {path: match for path, match in zip(files, found, strict=True) if match}
    stems = {(match[1], storage_suffix(path)) for path, match in numbered.items()}
    if len(stems) != 1 or len(numbered) != len(files):
        return []
    return sorted(files, key=lambda path: int(numbered[path][2]))


def is_device(path: Path) -> bool:
    """Whether the path is a device such as /dev/video0."""
    return path.exists() and stat.S_ISCHR(path.stat().st_mode)


def is_video(path: Path) -> bool:
    """Whether the path is a video file by its name, or a device."""
    return path.suffix.lower() in VIDEO_SUFFIXES or is_device(path)
