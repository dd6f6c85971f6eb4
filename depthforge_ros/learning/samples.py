# SPDX-License-Identifier: Apache-2.0
"""One labelled image, and reading it from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image

from depthforge_ros.frame import UNLABELLED

REFUSED = -1
"""Entry of a label table for an id the data set does not define."""


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    rgb: [H, W, 3] uint8. labels: [H, W] uint8 trainId, 255 unlabelled. depth_m: [H, W] float32
    metres along the optical axis, +Inf in the sky, NaN unknown, or None where the data set has
    none. domain: the data set; condition: the weather or light it was taken in. name: unique
    within the domain. focal_px: focal length in pixels of this image, None where not known.
    """

    rgb: np.ndarray
    labels: np.ndarray
    depth_m: np.ndarray | None
    domain: str
    condition: str
    name: str
    focal_px: float | None = None


class SampleSource(Protocol):
    """A data set: samples by position. `domain` names it."""

    @property
    def domain(self) -> str:
        """Name of the data set."""
        ...

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Return a sample. Raise UnreadableImageError, or ValueError for an unknown label id."""
        ...


class UnreadableImageError(Exception):
    """A file that is missing, truncated, not an image, or whose label has another size."""


@dataclass
class Skipped:
    """The images that could not be read, by name, for a summary at the end."""

    names: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, error: UnreadableImageError) -> None:
        """Count one image; `error` names it."""
        self.names.append(str(error))

    def summary(self) -> str:
        """Return one line with the number and the first names."""
        return f"skipped {len(self)} unreadable images: " + "; ".join(self.names[:5])


def readable_samples(source: SampleSource, skipped: Skipped) -> Iterator[Sample]:
    """Yield every readable sample in order; add the others to `skipped`."""
    for index in range(len(source)):
        try:
            yield source[index]
        except UnreadableImageError as error:
            skipped.add(error)


def label_table(train_ids: Mapping[int, int], known: int) -> np.ndarray:
    """Return the table [256] int16 from a data set's label id to trainId.

    train_ids: the ids that have a trainId. Other ids below `known`, and 255, are unlabelled; all
    else is REFUSED.
    """
    table = np.full(256, REFUSED, np.int16)
    table[:known] = UNLABELLED
    table[UNLABELLED] = UNLABELLED
    for label_id, train_id in train_ids.items():
        table[label_id] = train_id
    return table


def read_rgb(path: Path) -> np.ndarray:
    """Return an image file as [H, W, 3] uint8 RGB. Raise UnreadableImageError."""
    data = _file_bytes(path)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise UnreadableImageError(f"{path}: not a readable image ({data.size} bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _file_bytes(path: Path) -> np.ndarray:
    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise UnreadableImageError(f"{path}: {error.strerror}") from error


def read_ids(path: Path) -> np.ndarray:
    """Return a label image as ids [H, W] uint8; a paletted file gives its indices, not colours.

    Raise UnreadableImageError, or ValueError if the file is not 8-bit single channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                raise ValueError(f"{path}: label image has mode {image.mode}; expected 8-bit ids")
            return np.asarray(image)  # [H, W]
    except (OSError, SyntaxError) as error:  # Pillow reports broken PNG chunks as SyntaxError
        raise UnreadableImageError(f"{path}: {error}") from error


def read_ids_16bit(path: Path) -> np.ndarray:
    """Return the first (red) channel of a 16-bit RGB label image [H, W], as SYNTHIA stores ids.

    Raise UnreadableImageError, or ValueError if the file has another format.
    """
    image = cv2.imdecode(_file_bytes(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UnreadableImageError(f"{path}: not a readable image")
    if image.dtype != np.uint16 or image.ndim != 3:
        raise ValueError(
            f"{path}: label image is {image.dtype} {list(image.shape)}; expected 16-bit RGB"
        )
    return image[..., 2].clip(0, 255).astype(np.uint8)  # OpenCV's order is blue, green, red


def read_labels(
    path: Path, table: np.ndarray, read: Callable[[Path], np.ndarray] = read_ids
) -> np.ndarray:
    """Return a label image as [H, W] uint8 trainId. read: reads the file as ids.

    Raise UnreadableImageError for the file, ValueError for an id that `table` refuses.
    """
    ids = read(path)
    labels = table[ids]  # [H, W] int16
    if (labels == REFUSED).any():
        refused = sorted(set(ids[labels == REFUSED].tolist()))
        allowed = np.flatnonzero(table != REFUSED)
        raise ValueError(
            f"{path}: label ids {refused} are out of range; allowed: "
            f"{allowed[0]}..{allowed[allowed < UNLABELLED].max()} and 255"
        )
    return labels.astype(np.uint8)
