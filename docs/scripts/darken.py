# SPDX-License-Identifier: Apache-2.0
"""A copy of CamVid darkened to night, for measuring; no training uses it.

    python docs/scripts/darken.py datasets/camvid datasets/camvid_night --only 0006R0
    depthforge evaluate --data camvid:datasets/camvid_night --origin altered

It shares no code with the training augmentation (depthforge_ros/learning/relight) and knows neither
depth nor the places of lamps. sRGB bytes become linear light; the sky (by its label) is nearly
black. A pool of headlights, up to three cones of street lamps and a dim ambient light are painted
in the image plane and tinted; the exposure is fixed; a Poisson sensor of 150 to 600 electrons with
read noise makes bytes again. The same file name gives the same image.
"""

from __future__ import annotations

import argparse
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

CAMVID_SKY = 0


def darkened(rgb: np.ndarray, sky: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A night version of rgb [H, W, 3] uint8. sky: [H, W] bool."""
    height, width = sky.shape
    value = rgb.astype(np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = np.minimum(linear, 0.6)  # what the sun had clipped
    v, u = np.mgrid[:height, :width] / np.array((height, width)).reshape(2, 1, 1)  # 0..1
    pool = np.exp(-(((u - 0.5) / 0.35) ** 2) - ((v - 0.85) / 0.28) ** 2)
    light = rng.uniform(0.004, 0.02) + rng.uniform(0.1, 0.5) * pool
    for _ in range(int(rng.integers(0, 4))):
        at, top = rng.uniform(0, 1), rng.uniform(0, 0.4)
        spread = 0.03 + 0.35 * np.maximum(v - top, 0)
        cone = np.exp(-(((u - at) / spread) ** 2)) * (v > top) * (0.1 / (0.1 + (v - top).clip(0)))
        light = light + rng.uniform(0.05, 0.4) * cone
    green = rng.uniform(0.55, 0.95)
    tint = np.array((1.0, green, green * rng.uniform(0.3, 1.0)))  # sodium to nearly white
    scene = linear * light[..., None] * tint
    scene[sky] = rng.uniform(0.0002, 0.004) * (0.6 + 0.4 * tint)
    scene = scene * rng.uniform(4, 14)
    scene = scene + 0.15 * cv2.GaussianBlur(np.maximum(scene - 0.9, 0), (0, 0), 0.03 * height)
    electrons = rng.uniform(150, 600)
    counted = rng.poisson(scene.clip(0, 1) * electrons) + rng.normal(0, 2.0, scene.shape)
    scene = (counted / electrons).clip(0, 1)
    encoded = np.where(
        scene <= 0.0031308, 12.92 * scene, 1.055 * np.maximum(scene, 1e-9) ** (1 / 2.4) - 0.055
    )
    return np.rint(255 * encoded).astype(np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the darkened images and copies of their labels."""
    parser = argparse.ArgumentParser(description="CamVid darkened to night, for measuring")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--only", default="", metavar="A,B", help="sequences; default: all")
    args = parser.parse_args(argv)
    names = tuple(args.only.split(",")) if args.only else ("",)
    paths = sorted(p for p in (args.source / "images").glob("*.jpg") if p.name.startswith(names))
    if not paths:
        parser.error(f"no image of {args.only or 'any sequence'} below {args.source / 'images'}")
    for folder in ("images", "labels"):
        (args.target / folder).mkdir(parents=True, exist_ok=True)
    for path in paths:
        label = args.source / "labels" / f"{path.stem}.png"
        sky = cv2.imread(str(label), cv2.IMREAD_UNCHANGED) == CAMVID_SKY
        rgb = cv2.imread(str(path))[..., ::-1]
        night = darkened(rgb, sky, np.random.default_rng(zlib.crc32(path.stem.encode())))
        target = args.target / "images" / path.name
        cv2.imwrite(str(target), night[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        shutil.copyfile(label, args.target / "labels" / label.name)
    print(f"wrote {len(paths)} images below {args.target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
