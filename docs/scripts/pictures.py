# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of the documents: python docs/scripts/pictures.py"""

from pathlib import Path

import cv2
import numpy as np

from depthforge_ros.demo.pictures import depth_picture
from depthforge_ros.engine import build_engine
from depthforge_ros.frame import DepthKind, Frame
from depthforge_ros.legend import legend
from depthforge_ros.pipeline import Pipeline
from depthforge_ros.street import HELD_OUT_SEEDS, StreetDrive
from depthforge_ros.variant import load_variant

WIDTH_PX = 400
STREETS = (("night", 8), ("snow", 3), ("rain", 5))


def streets() -> np.ndarray:
    """Held-out streets, and what `nano` sees in them, classes and depth: [h, w, 3] uint8."""
    variant = load_variant("nano")
    labels, pipeline = variant.labels, Pipeline(build_engine(variant, "", device="cpu"))
    rows = []
    for condition, index in STREETS:
        frame = StreetDrive(HELD_OUT_SEEDS[index], condition, 640, 384, frames=20)[10]
        seen = pipeline(Frame(frame.rgb, focal_px=float(frame.intrinsics[0, 0])))
        depth = depth_picture(seen.depth, DepthKind.METRIC)
        row = np.hstack([frame.rgb, labels.palette()[seen.labels], depth])
        size = (3 * WIDTH_PX, WIDTH_PX * 384 // 640)
        rows.append(cv2.resize(row, size, interpolation=cv2.INTER_AREA))
    return np.vstack([*rows, legend(labels, 3 * WIDTH_PX)])


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "images" / "streets.jpg"
    picture = cv2.cvtColor(streets(), cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(target), picture, [cv2.IMWRITE_JPEG_QUALITY, 88]):
        raise OSError(f"{target} cannot be written")
