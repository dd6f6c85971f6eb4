# SPDX-License-Identifier: Apache-2.0
"""Draws class colours with names, and text on images. OpenCV only."""

from __future__ import annotations

import cv2
import numpy as np

from depthforge_ros.variant import LabelSet

ENTRY_PX = 160
LINE_PX = 26
DARK = 24


def caption(text: str, width_px: int) -> np.ndarray:
    """Return white text on a dark bar, [26, width, 3] uint8."""
    bar = np.full((LINE_PX, width_px, 3), DARK, np.uint8)
    write(bar, text, (8, 18))
    return bar


def legend(labels: LabelSet, width_px: int) -> np.ndarray:
    """Return a picture of the colour and name of every class, [h, width, 3] uint8."""
    columns = max(1, width_px // ENTRY_PX)
    rows = -(-len(labels) // columns)
    bar = np.full((rows * LINE_PX, width_px, 3), DARK, np.uint8)
    for index, entry in enumerate(labels.classes):
        x, y = (index % columns) * ENTRY_PX + 8, (index // columns) * LINE_PX
        bar[y + 6 : y + 20, x : x + 20] = entry.color
        write(bar, entry.name, (x + 26, y + 18))
    return bar


def write(image: np.ndarray, text: str, at: tuple[int, int]) -> None:
    """Write text with a shadow into an rgb image."""
    x, y = at
    for origin, colour in (((x + 1, y + 1), (0, 0, 0)), ((x, y), (255, 255, 255))):
        cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
