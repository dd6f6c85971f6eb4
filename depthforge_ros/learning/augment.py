# SPDX-License-Identifier: Apache-2.0
"""Random scale, crop, flip and light of training samples. Numpy and OpenCV only.

Everything random comes from the generator that is passed in, so a sample's augmentation depends
on its number in the run alone: not on workers, processes or restarts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from depthforge_ros.frame import UNLABELLED
from depthforge_ros.learning.samples import Sample

CROP_TRIES = 10
CROP_STEP = 16


@dataclass(frozen=True)
class AugmentSettings:
    """How a labelled image becomes a training crop.

    crop: side of the square, pixels. short_side_px: the image is first brought to this short side
    (None: as it is), then scaled by a factor from `scale`, log-uniform. max_class_share: of the
    labelled pixels of a crop; where ten random crops have more of one class, one is drawn from all
    that have not, if there are any. rare, flip, photometric, adverse: probabilities; rare is that a
    crop is laid over a pixel of a class drawn evenly from those in the image, so that bicycles are
    met as often as road; adverse is what night and weather do to a sensor (darkness, colour casts,
    noise, haze, blur).
    """

    crop: int
    short_side_px: int | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    rare: float = 0.0
    flip: float = 0.5
    photometric: float = 1.0
    adverse: float = 0.0

    def __post_init__(self) -> None:
        if self.crop < 32 or self.crop % 32:
            raise ValueError(f"crop is {self.crop}; expected a multiple of 32")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}; expected two rising positive numbers")
        for name in ("max_class_share", "rare", "flip", "photometric", "adverse"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0..1")


def augment(sample: Sample, rng: np.random.Generator, settings: AugmentSettings) -> Sample:
    """A training crop of the sample: [crop, crop], padded with unlabelled black where too small."""
    height, width = sample.labels.shape
    base = 1.0 if settings.short_side_px is None else settings.short_side_px / min(height, width)
    factor = base * float(np.exp(rng.uniform(*np.log(settings.scale))))
    sample = resized(sample, factor)
    sample = _cropped(sample, rng, settings)
    if rng.random() < settings.flip:
        sample = _mapped(sample, lambda image: np.ascontiguousarray(image[:, ::-1]))
    rgb = sample.rgb
    if rng.random() < settings.photometric:
        rgb = photometric(rgb, rng)
    if rng.random() < settings.adverse:
        rgb = adverse(rgb, rng)
    return dataclasses.replace(sample, rgb=rgb)


def resized(sample: Sample, factor: float) -> Sample:
    """The sample at `factor` times its size: rgb by area or linearly, labels and depth by nearest.

    Depth stays what it was: a camera with another focal length sees the same world.
    """
    height, width = (max(1, round(side * factor)) for side in sample.labels.shape)
    if sample.labels.shape == (height, width):
        return sample
    depth, focal_px = sample.depth_m, sample.focal_px
    smooth = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    nearest = cv2.INTER_NEAREST_EXACT
    return dataclasses.replace(
        sample,
        rgb=cv2.resize(sample.rgb, (width, height), interpolation=smooth),
        labels=cv2.resize(sample.labels, (width, height), interpolation=nearest),
        depth_m=None
        if depth is None
        else cv2.resize(depth, (width, height), interpolation=nearest),
        focal_px=None if focal_px is None else focal_px * factor,
    )


def _cropped(sample: Sample, rng: np.random.Generator, settings: AugmentSettings) -> Sample:
    size = settings.crop
    height, width = sample.labels.shape
    down, right = max(0, size - height), max(0, size - width)
    if down or right:
        depth = sample.depth_m
        sample = dataclasses.replace(
            sample,
            rgb=np.pad(sample.rgb, ((0, down), (0, right), (0, 0))),
            labels=np.pad(sample.labels, ((0, down), (0, right)), constant_values=UNLABELLED),
            depth_m=None
            if depth is None
            else np.pad(depth, ((0, down), (0, right)), constant_values=np.nan),
        )
    # Nothing is drawn where nothing is asked for: runs started without it see the same samples.
    if settings.rare > 0 and rng.random() < settings.rare:
        top, left = _corner_over_a_class(sample.labels, size, rng)
    else:
        top, left = _corner_of_a_mixture(sample.labels, size, settings.max_class_share, rng)
    return _mapped(sample, lambda image: image[top : top + size, left : left + size])


def _corner_of_a_mixture(
    labels: np.ndarray, size: int, max_class_share: float, rng: np.random.Generator
) -> tuple[int, int]:
    """Corner (y, x) of a random crop of labels [H, W] that no class fills beyond the share; of any
    crop where there is none such.
    """
    height, width = labels.shape
    for _ in range(CROP_TRIES):
        top = int(rng.integers(0, height - size + 1))
        left = int(rng.integers(0, width - size + 1))
        inside = labels[top : top + size, left : left + size]
        counts = np.bincount(inside.ravel(), minlength=256)[:UNLABELLED]
        if counts.any() and counts.max() <= max_class_share * counts.sum():
            return top, left
    mixed = mixed_corners(labels, size, max_class_share)
    if len(mixed):
        top, left = mixed[rng.integers(len(mixed))].tolist()
    return top, left


def _corner_over_a_class(
    labels: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Corner (y, x) of a random crop that holds some pixel of a class drawn evenly from those in
    labels [H, W]; of any crop where nothing is labelled.
    """
    classes = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[:UNLABELLED])
    candidates = labels == rng.choice(classes) if len(classes) else np.ones(labels.shape, bool)
    y, x = divmod(int(rng.choice(np.flatnonzero(candidates))), labels.shape[1])
    lowest = (max(0, y - size + 1), max(0, x - size + 1))
    highest = (min(y, labels.shape[0] - size), min(x, labels.shape[1] - size))
    top, left = rng.integers(lowest, np.array(highest) + 1).tolist()
    return top, left


def mixed_corners(labels: np.ndarray, size: int, max_class_share: float) -> np.ndarray:
    """Corners (y, x), [n, 2], of the crops of labels [H, W] that no class fills beyond the share.

    Every 16th position is looked at, and the last ones; counts come from summed-area tables.
    """
    starts = [np.unique([*range(0, side - size, CROP_STEP), side - size]) for side in labels.shape]

    top, left = starts[0][:, None], starts[1][None]  # [y, 1], [1, x]

    def inside(mask: np.ndarray) -> np.ndarray:
        """How many pixels of the mask each crop holds: [y, x]."""
        table = cv2.integral(mask.astype(np.uint8))  # [H + 1, W + 1]
        below, right = top + size, left + size
        return table[below, right] - table[top, right] - table[below, left] + table[top, left]

    known = inside(labels != UNLABELLED)
    fits = known > 0
    for class_id in np.unique(labels[labels != UNLABELLED]):
        fits &= inside(labels == class_id) <= max_class_share * known
    y, x = fits.nonzero()
    return np.stack([starts[0][y], starts[1][x]], axis=-1)


def _mapped(sample: Sample, change: Callable[[np.ndarray], np.ndarray]) -> Sample:
    depth = sample.depth_m
    return dataclasses.replace(
        sample,
        rgb=change(sample.rgb),
        labels=change(sample.labels),
        depth_m=None if depth is None else change(depth),
    )


def photometric(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness ±32, contrast and saturation ×0.5..1.5, hue ±18°·2, each with probability 1/2.

    The distortion of SSD (arXiv 1512.02325). rgb: [H, W, 3] uint8, and so is the result.
    """
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    brightness = rng.uniform(-32, 32) if rng.random() < 0.5 else 0.0
    levels = np.arange(256, dtype=np.float32) * contrast + brightness
    rgb = cv2.LUT(rgb, levels.clip(0, 255).astype(np.uint8))
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-18, 19)) if rng.random() < 0.5 else 0
    if saturation == 1.0 and hue == 0:
        return rgb
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    steps = np.arange(256)
    table = np.stack([(steps + hue) % 180, (steps * saturation).clip(0, 255), steps], axis=-1)
    hsv = cv2.LUT(hsv, table.astype(np.uint8)[None])  # [1, 256, 3]: one table a channel
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def adverse(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What night and weather do to a sensor, in random strength. [H, W, 3] uint8 to the same."""
    height, width = rgb.shape[:2]
    image = (rgb.astype(np.float32) / 255) ** 2.2  # linear light
    if rng.random() < 0.5:  # haze or falling snow lifts the dark and flattens the rest
        veil, air = rng.uniform(0.0, 0.6), rng.uniform(0.3, 0.9)
        image = image * (1 - veil) + air * veil
    if rng.random() < 0.7:  # darkness, with the colour of street lamps or moonlight
        image = image * rng.uniform(0.05, 0.6) * rng.uniform(0.6, 1.4, 3).astype(np.float32)
        ramp = np.linspace(rng.uniform(0.3, 1), rng.uniform(0.5, 1.5), height, dtype=np.float32)
        image *= ramp[:, None, None]  # headlights reach the lower part
    electrons = rng.uniform(60, 2000)  # at full scale: shot noise, then read noise
    noise = rng.standard_normal((height, width, 3), dtype=np.float32)
    image = image + noise * np.sqrt(np.maximum(image, 0) / electrons + rng.uniform(0, 0.01) ** 2)
    image = image * (rng.uniform(0.3, 0.9) / max(float(np.percentile(image, 97)), 0.02))  # exposure
    image = (255 * np.clip(image, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.5))
    return image
