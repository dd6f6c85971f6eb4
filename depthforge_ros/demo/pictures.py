# SPDX-License-Identifier: Apache-2.0
"""What a person looks at: contact sheet and film, made from the recorded bag and nothing else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from depthforge_ros.frame import UNLABELLED, DepthKind
from depthforge_ros.ros.recorder import Seen
from depthforge_ros.variant import LabelSet

SHEET_ROWS = 6
TILE_WIDTH_PX = 480
CAPTION_PX = 26
NEAREST_M = 2.0


def depth_picture(depth: np.ndarray, kind: DepthKind) -> np.ndarray:
    """Near is warm, far is dark, unknown and sky are black: [h, w, 3] uint8 rgb."""
    known = np.isfinite(depth)
    if kind is DepthKind.METRIC:
        with np.errstate(divide="ignore", invalid="ignore"):
            nearness = np.where(known, NEAREST_M / np.maximum(depth, NEAREST_M), 0.0) ** 0.5
    else:
        low, high = np.percentile(depth[known], (2, 98)) if known.any() else (0.0, 1.0)
        nearness = np.clip((depth - low) / max(high - low, 1e-6), 0, 1)
    shades = np.where(known, 20 + 235 * nearness, 0).astype(np.uint8)
    colours = cv2.applyColorMap(shades, cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(colours[..., ::-1])


def triptych(seen: Seen, labels: LabelSet, kind: DepthKind, width_px: int) -> np.ndarray:
    """Image, mask over image, depth, side by side: [h, 3·width, 3] uint8 rgb."""
    height_px = 2 * round(width_px * seen.rgb.shape[0] / seen.rgb.shape[1] / 2)
    color = labels.palette()[seen.labels]
    size = (width_px, height_px)
    image = cv2.resize(seen.rgb, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(color, size, interpolation=cv2.INTER_NEAREST)
    known = cv2.resize(seen.labels, size, interpolation=cv2.INTER_NEAREST) != UNLABELLED
    mixed = np.where(known[..., None], cv2.addWeighted(image, 0.35, mask, 0.65, 0), image)
    depth = cv2.resize(depth_picture(seen.depth, kind), size, interpolation=cv2.INTER_NEAREST)
    return np.hstack([image, mixed, depth])


def contact_sheet(rows: list[Seen], labels: LabelSet, kind: DepthKind, title: str) -> np.ndarray:
    """Some frames below each other, with a title above and the legend below: [h, w, 3] uint8."""
    width_px = 3 * TILE_WIDTH_PX
    first_ns = rows[0].stamp_ns if rows else 0
    parts = [caption(title, width_px)]
    for seen in rows:
        strip = triptych(seen, labels, kind, TILE_WIDTH_PX)
        seconds = (seen.stamp_ns - first_ns) / 1e9
        label(strip, f"{seconds:.1f} s", (8, strip.shape[0] - 10))
        parts.append(strip)
    return np.vstack([*parts, legend(labels, width_px)])


def caption(text: str, width_px: int) -> np.ndarray:
    """White text on a dark bar: [26, width, 3] uint8."""
    bar = np.full((CAPTION_PX, width_px, 3), 24, np.uint8)
    label(bar, text, (8, 18))
    return bar


def legend(labels: LabelSet, width_px: int) -> np.ndarray:
    """The colour and name of every class: [h, width, 3] uint8."""
    columns = max(1, width_px // 160)
    rows = -(-len(labels) // columns)
    bar = np.full((rows * CAPTION_PX, width_px, 3), 24, np.uint8)
    for index, entry in enumerate(labels.classes):
        x, y = (index % columns) * 160 + 8, (index // columns) * CAPTION_PX
        bar[y + 6 : y + 20, x : x + 20] = entry.color
        label(bar, entry.name, (x + 26, y + 18))
    return bar


def label(image: np.ndarray, text: str, at: tuple[int, int]) -> None:
    """Write text into an rgb image, readable on any ground."""
    x, y = at
    for origin, colour in (((x + 1, y + 1), (0, 0, 0)), ((x, y), (255, 255, 255))):
        cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)


class Film:
    """An mp4 that browsers play (VP9), opened with the size of its first frame."""

    def __init__(self, path: Path, rate_hz: float) -> None:
        self._path, self._rate_hz = path, rate_hz
        self._writer: cv2.VideoWriter | None = None

    def add(self, rgb: np.ndarray) -> None:
        """Append a frame [H, W, 3] uint8. Raises OSError where no encoder can be opened."""
        if self._writer is None:
            fourcc = cv2.VideoWriter_fourcc(*"vp09")
            size = (rgb.shape[1], rgb.shape[0])
            self._writer = cv2.VideoWriter(str(self._path), fourcc, self._rate_hz, size)
            if not self._writer.isOpened():
                raise OSError(f"{self._path} cannot be written as video by this OpenCV")
        self._writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


def write_picture(path: Path, rgb: np.ndarray) -> None:
    """Write an rgb image by its suffix. Raises OSError."""
    if not cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path} cannot be written")
