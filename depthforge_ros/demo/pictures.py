# SPDX-License-Identifier: Apache-2.0
"""What a person looks at: contact sheet and film, made from the recorded bag and nothing else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from depthforge_ros.frame import UNLABELLED, DepthKind
from depthforge_ros.legend import caption, legend, write
from depthforge_ros.ros.harness.read_recording import Seen
from depthforge_ros.variant import LabelSet

SHEET_ROWS = 6
TILE_PX = 360  # longest side of one picture; a film takes long to encode
MIN_TILE_WIDTH_PX = 240
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


class Painter:
    """Draws frames as strips of one size, whatever the sizes of the images: that of the first."""

    def __init__(self, labels: LabelSet, kind: DepthKind) -> None:
        self._palette, self._kind = labels.palette(), kind
        self._tile: tuple[int, int] | None = None

    def strip(self, seen: Seen, name: str) -> np.ndarray:
        """Image, classes over the image, depth, side by side, with a name: [h, 3w, 3] uint8 rgb.

        What did not come back is black and says so.
        """
        if self._tile is None:
            self._tile = tile_size(*seen.rgb.shape[:2])
        image = fitted(seen.rgb, self._tile, cv2.INTER_AREA)
        mask = self._missing("dropped") if seen.labels is None else self._mask(seen, image)
        if seen.depth is not None:
            drawn = depth_picture(seen.depth, self._kind)
            depth = fitted(drawn, self._tile, cv2.INTER_NEAREST)
        else:
            depth = self._missing("dropped" if seen.labels is None else "no depth")
        strip = np.hstack([image, mask, depth])
        write(strip, name, (8, strip.shape[0] - 10))
        return strip

    def _mask(self, seen: Seen, image: np.ndarray) -> np.ndarray:
        colors = fitted(self._palette[seen.labels], self._tile, cv2.INTER_NEAREST)
        labels = fitted(seen.labels, self._tile, cv2.INTER_NEAREST, UNLABELLED)
        mixed = cv2.addWeighted(image, 0.35, colors, 0.65, 0)
        return np.where((labels != UNLABELLED)[..., None], mixed, image)

    def _missing(self, text: str) -> np.ndarray:
        width, height = self._tile
        black = np.zeros((height, width, 3), np.uint8)
        write(black, text, (8, 18))
        return black


def tile_size(height: int, width: int) -> tuple[int, int]:
    """Width and height of an image scaled into the tile, both even as films want them."""
    scale = TILE_PX / max(height, width)
    return max(MIN_TILE_WIDTH_PX, 2 * round(width * scale / 2)), 2 * max(
        16, round(height * scale / 2)
    )


def fitted(
    image: np.ndarray, tile: tuple[int, int], interpolation: int, fill: int = 0
) -> np.ndarray:
    """The image as large as it fits into the tile (width, height), in the middle of `fill`."""
    height, width = image.shape[:2]
    scale = min(tile[0] / width, tile[1] / height)
    size = min(tile[0], round(width * scale)), min(tile[1], round(height * scale))
    canvas = np.full((tile[1], tile[0], *image.shape[2:]), fill, np.uint8)
    x, y = (tile[0] - size[0]) // 2, (tile[1] - size[1]) // 2
    small = cv2.resize(image, size, interpolation=interpolation)
    canvas[y : y + size[1], x : x + size[0]] = small
    return canvas


class Sheet:
    """Some of `count` answered frames, spread evenly over the drive, below each other."""

    def __init__(self, count: int) -> None:
        rows = min(count, SHEET_ROWS)
        self._chosen = {(2 * row + 1) * count // (2 * rows) for row in range(rows)}
        self._offered = 0
        self._rows: list[np.ndarray] = []

    def offer(self, strip: np.ndarray) -> None:
        """Show the next answered frame, if it is one of those to be shown."""
        if self._offered in self._chosen:
            self._rows.append(strip)
        self._offered += 1

    def drawn(self, captions: list[str], labels: LabelSet) -> np.ndarray:
        """Captions, strips and legend: [h, w, 3] uint8."""
        width_px = self._rows[0].shape[1] if self._rows else 3 * TILE_PX
        bars = [caption(text, width_px) for text in captions]
        return np.vstack([*bars, *self._rows, legend(labels, width_px)])


class Film:
    """An mp4 that browsers play (VP9), opened with the size of its first frame.

    written: whether there is one, which takes an OpenCV with that encoder, and a frame.
    """

    def __init__(self, path: Path, rate_hz: float) -> None:
        self._path, self._rate_hz = path, rate_hz
        self._writer: cv2.VideoWriter | None = None
        self.written = False

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()

    def add(self, rgb: np.ndarray) -> None:
        """Append a frame [H, W, 3] uint8."""
        if self._writer is None:
            fourcc = cv2.VideoWriter_fourcc(*"vp09")
            size = (rgb.shape[1], rgb.shape[0])
            self._writer = cv2.VideoWriter(str(self._path), fourcc, self._rate_hz, size)
            self.written = self._writer.isOpened()
        self._writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
