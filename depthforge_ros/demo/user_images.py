# SPDX-License-Identifier: Apache-2.0
"""A folder of the user's pictures as a drive."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from depthforge_ros.demo.drives import Drive, fingerprint
from depthforge_ros.frame import Frame
from depthforge_ros.ros.play.image_folder import decoded, image_files


def user_pictures(images: Path, fov_deg: float, film_hz: float, folder: Path) -> Drive:
    """Return the pictures of `images` as a drive, linked or written into the empty `folder`.

    A picture that EXIF marks as turned is written upright, because the player ignores EXIF. A file
    that is no image, or none that the node accepts, is left out with a note. Raise ValueError if no
    picture is left.
    """
    files, notes, names = image_files(images), [], {}
    for index, path in enumerate(files):
        try:
            rgb = _prepare(path, folder / f"{index:06d}")
            names[fingerprint(rgb)] = path.name
        except ValueError as error:
            notes.append(f"{path.name} skipped: {error}")
    if len(notes) == len(files):
        raise ValueError(f"no picture in {images} can be used: {'; '.join(notes)}")
    name = re.sub(r"[^\w.-]+", "_", images.resolve().name) or "pictures"
    count = len(files) - len(notes)
    return Drive(name, folder, fov_deg, count, film_hz, names=names, notes=tuple(notes))


def _prepare(path: Path, target: Path) -> np.ndarray:
    """Link or write one picture; return it as RGB. Raise ValueError if the node would refuse it."""
    content = path.read_bytes()
    stored, upright = decoded(content), decoded(content, upright=True)
    if stored is None or upright is None:
        raise ValueError("no image that OpenCV can read")
    Frame(stored)
    if np.array_equal(stored, upright):
        target.with_suffix(path.suffix).symlink_to(path.resolve())
    elif not cv2.imwrite(f"{target}.png", upright):
        raise OSError(f"{target}.png cannot be written")
    return upright[..., ::-1]
