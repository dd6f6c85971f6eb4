# SPDX-License-Identifier: Apache-2.0
"""The user's own pictures as a drive."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from depthforge_ros.demo.drives import Drive
from depthforge_ros.frame import Frame
from depthforge_ros.ros.play.image_folder import decoded, image_files


def own_pictures(images: Path, fov_deg: float, film_hz: float, folder: Path) -> Drive:
    """The pictures in `images`, made ready to be played in the empty `folder`.

    A camera held upright says so in EXIF, which player and node ignore, as no street camera is
    turned: such pictures are turned here. What is no image, or none that the node takes, is noted
    and left out. Raises ValueError where nothing is left.
    """
    files, notes = image_files(images), []
    for index, path in enumerate(files):
        try:
            _make_ready(path, folder / f"{index:06d}")
        except ValueError as error:
            notes.append(f"{path.name} skipped: {error}")
    if len(notes) == len(files):
        raise ValueError(f"no picture in {images} can be used: {'; '.join(notes)}")
    name = re.sub(r"[^\w.-]+", "_", images.resolve().name) or "pictures"
    return Drive(name, folder, fov_deg, len(files) - len(notes), film_hz, notes=tuple(notes))


def _make_ready(path: Path, target: Path) -> None:
    """Raises ValueError saying why the node would not take the picture."""
    content = path.read_bytes()
    stored, upright = decoded(content), decoded(content, upright=True)
    if stored is None or upright is None:
        raise ValueError("no image that OpenCV can read")
    Frame(stored)
    if np.array_equal(stored, upright):
        target.with_suffix(path.suffix).symlink_to(path.resolve())
    elif not cv2.imwrite(f"{target}.png", upright):
        raise OSError(f"{target}.png cannot be written")
