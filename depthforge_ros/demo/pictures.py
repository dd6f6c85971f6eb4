# SPDX-License-Identifier: Apache-2.0
"""Contact sheet and film of a drive, drawn from the recorded bag alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from depthforge_ros.frame import UNLABELLED, DepthKind
from depthforge_ros.legend import DARK, LINE_PX, caption, legend, write
from depthforge_ros.ros.harness.read_recording import Seen
from depthforge_ros.variant import LabelSet

SHEET_ROWS = 6
TILE_PX = 360  # longest side of a picture on the contact sheet
FILM_TILE_PX = 640  # and in the film, which has four
MIN_TILE_WIDTH_PX = 240
NEAREST_M, FARTHEST_M = 2.0, 100.0
TICKS_M = (2, 5, 10, 20, 50)


def depth_picture(depth: np.ndarray, kind: DepthKind) -> np.ndarray:
    """Return depth [h, w] in colour, near bright, unknown and sky black: [h, w, 3] uint8 rgb.

    Metric depth has fixed colours, those of `depth_bar`; relative depth is stretched to its range.
    """
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


def depth_bar(width_px: int, kind: DepthKind) -> np.ndarray:
    """Return the colours of `depth_picture` with their metres: [26, width, 3] uint8 rgb.

    The scale is logarithmic, from 2 m to 100 m. Relative depth has no unit, and the bar says so.
    """
    share = np.linspace(0, 1, width_px, dtype=np.float32)[None]  # [1, width]
    if kind is DepthKind.METRIC:
        depth = NEAREST_M * (FARTHEST_M / NEAREST_M) ** share
        places = [math.log(m / NEAREST_M) / math.log(FARTHEST_M / NEAREST_M) for m in TICKS_M]
        texts = [f"{m} m" for m in TICKS_M]
    else:
        depth, places, texts = share[:, ::-1], [0.0, 0.5, 0.85], ["near", "no unit", "far"]
    bar = np.repeat(depth_picture(depth, kind), LINE_PX, 0)  # [26, width, 3]
    for place, text in zip(places, texts, strict=True):
        x = round(place * (width_px - 1))
        bar[:8, x] = 255
        write(bar, text, (x + 3, LINE_PX - 8))
    return bar


class Painter:
    """Draws frames in pictures of one size, whatever the sizes of the images: that of the first."""

    def __init__(self, labels: LabelSet, kind: DepthKind, tile_px: int = TILE_PX) -> None:
        self._labels, self._palette, self._kind = labels, labels.palette(), kind
        self._tile_px = tile_px
        self._tile: tuple[int, int] | None = None

    def strip(self, seen: Seen, name: str) -> np.ndarray:
        """Return image, overlay and depth side by side, with a name: [h, 3w, 3] uint8 rgb."""
        strip = np.hstack(self._tiles(seen))
        write(strip, name, (8, strip.shape[0] - 10))
        return strip

    def quad(self, seen: Seen, name: str) -> np.ndarray:
        """Return image and overlay above depth and legend: [2h, 2w, 3] uint8 rgb."""
        image, mask, depth = self._tiles(seen)
        key = np.full_like(image, DARK)
        classes = legend(self._labels, key.shape[1])[: len(key)]
        key[: len(classes)] = classes
        write(key, name, (8, len(key) - 10))
        return np.vstack([np.hstack([image, mask]), np.hstack([depth, key])])

    def _tiles(self, seen: Seen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return image, overlay and depth: [h, w, 3] uint8 rgb each.

        A missing answer is black with the reason.
        """
        if self._tile is None:
            self._tile = tile_size(seen.rgb.shape[0], seen.rgb.shape[1], self._tile_px)
        image = fitted(seen.rgb, self._tile, cv2.INTER_AREA)
        mask = self._missing("dropped") if seen.labels is None else self._mask(seen, image)
        if seen.depth is not None:
            drawn = depth_picture(seen.depth, self._kind)
            depth = fitted(drawn, self._tile, cv2.INTER_NEAREST)
            depth[-LINE_PX:] = depth_bar(self._tile[0], self._kind)
        else:
            depth = self._missing("dropped" if seen.labels is None else "no depth")
        return image, mask, depth

    def _mask(self, seen: Seen, image: np.ndarray) -> np.ndarray:
        assert self._tile is not None
        assert seen.labels is not None
        colors = fitted(self._palette[seen.labels], self._tile, cv2.INTER_NEAREST)
        labels = fitted(seen.labels, self._tile, cv2.INTER_NEAREST, UNLABELLED)
        mixed = cv2.addWeighted(image, 0.35, colors, 0.65, 0)
        return np.where((labels != UNLABELLED)[..., None], mixed, image)

    def _missing(self, text: str) -> np.ndarray:
        assert self._tile is not None
        width, height = self._tile
        black = np.zeros((height, width, 3), np.uint8)
        write(black, text, (8, 18))
        return black


def tile_size(height: int, width: int, tile_px: int) -> tuple[int, int]:
    """Return width and height of an image scaled to a longest side; both even, for films."""
    scale = tile_px / max(height, width)
    return max(MIN_TILE_WIDTH_PX, 2 * round(width * scale / 2)), 2 * max(
        16, round(height * scale / 2)
    )


def fitted(
    image: np.ndarray, tile: tuple[int, int], interpolation: int, fill: int = 0
) -> np.ndarray:
    """Return the image as large as it fits into the tile (width, height), centred on `fill`."""
    height, width = image.shape[:2]
    scale = min(tile[0] / width, tile[1] / height)
    size = min(tile[0], round(width * scale)), min(tile[1], round(height * scale))
    canvas = np.full((tile[1], tile[0], *image.shape[2:]), fill, np.uint8)
    x, y = (tile[0] - size[0]) // 2, (tile[1] - size[1]) // 2
    small = cv2.resize(image, size, interpolation=interpolation)
    canvas[y : y + size[1], x : x + size[0]] = small
    return canvas


class Sheet:
    """Strips of some of `count` answered frames, spread evenly over the drive."""

    def __init__(self, count: int) -> None:
        rows = min(count, SHEET_ROWS)
        self._chosen = {(2 * row + 1) * count // (2 * rows) for row in range(rows)}
        self._offered = 0
        self._rows: list[np.ndarray] = []

    def offer(self, strip: Callable[[], np.ndarray]) -> None:
        """Draw the next answered frame by `strip`, [h, w, 3] uint8, if it is one to show."""
        if self._offered in self._chosen:
            self._rows.append(strip())
        self._offered += 1

    def drawn(self, captions: list[str], labels: LabelSet) -> np.ndarray:
        """Return captions, strips and legend below each other: [h, w, 3] uint8."""
        width_px = self._rows[0].shape[1] if self._rows else 3 * TILE_PX
        bars = [caption(text, width_px) for text in captions]
        return np.vstack([*bars, *self._rows, legend(labels, width_px)])


class Film:
    """An mp4 that browsers play (VP9), of the size of its first frame.

    written: whether the file exists; that takes an OpenCV with the encoder, and one frame.
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
            fourcc = cv2.VideoWriter.fourcc(*"vp09")
            size = (rgb.shape[1], rgb.shape[0])
            self._writer = cv2.VideoWriter(str(self._path), fourcc, self._rate_hz, size)
            self.written = self._writer.isOpened()
        self._writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
