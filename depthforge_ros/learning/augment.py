# SPDX-License-Identifier: Apache-2.0
"""Random scale, crop, flip and light of training samples. Numpy and OpenCV only.

Everything random comes from the generator that is passed in, so a sample's augmentation depends
on its number in the run alone: not on workers, processes or restarts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from depthforge_ros.frame import UNLABELLED
from depthforge_ros.learning.facades import can_have_displays, with_displays
from depthforge_ros.learning.mix import mixed, toned
from depthforge_ros.learning.relight import relight
from depthforge_ros.learning.samples import Sample
from depthforge_ros.learning.wires import with_wires

CROP_TRIES = 10
CROP_STEP = 16
PAD_COLOR = (124, 116, 104)
"""RGB of padding: the mean that normalisation subtracts (123.675, 116.28, 103.53), rounded."""


@dataclass(frozen=True)
class AugmentSettings:
    """How a labelled image becomes a training crop.

    crop: side of the square, pixels. short_sides_px: the image's short side is set to one of these,
    drawn uniformly, its long side to at most max_long_side_px (no limit: None). Without them
    the image is brought to short_side_px (None: as it is), then scaled by a factor from `scale`,
    log-uniform. antialias: for shrinking. max_class_share: of the labelled pixels of a crop; the
    first of ten random crops below it is taken, else one drawn from all crops below it if
    exhaustive, else the tenth. rare, flip, photometric, relight, adverse: probabilities; rare is
    that a crop is laid over a pixel of a class drawn evenly from those in the image, so that
    bicycles are met as often as road; relight is night, snow, rain or fog by labels and depth, for
    samples that have depth; adverse is what night and weather do to a sensor (darkness, colour
    casts, noise, haze, blur), for those that were not relit; mix is that a daylight sample gets
    road users and signs of another one; tone is that one with another gets its colours, too;
    displays is that facades get shop displays, posters, boards and doorways; wires is that wires
    hang before sky, houses and trees.
    """

    crop: int
    short_side_px: int | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    short_sides_px: tuple[int, ...] = ()
    max_long_side_px: int | None = None
    antialias: bool = True
    max_class_share: float = 0.75
    exhaustive: bool = True
    rare: float = 0.0
    flip: float = 0.5
    photometric: float = 1.0
    relight: float = 0.0
    adverse: float = 0.0
    mix: float = 0.0
    tone: float = 0.0
    displays: float = 0.0
    wires: float = 0.0

    def __post_init__(self) -> None:
        if self.crop < 32 or self.crop % 32:
            raise ValueError(f"crop is {self.crop}; expected a multiple of 32")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}; expected two rising positive numbers")
        if self.short_sides_px and (min(self.short_sides_px) < 32 or self.short_side_px):
            raise ValueError(
                f"short_sides_px is {self.short_sides_px}, short_side_px {self.short_side_px}; "
                "expected one of the two, of at least 32"
            )
        for name in (
            "max_class_share", "rare", "flip", "photometric", "relight", "adverse", "mix", "tone",
            "displays", "wires",
        ):  # fmt: skip
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0..1")


def augment(
    sample: Sample,
    rng: np.random.Generator,
    settings: AugmentSettings,
    other: Sample | None = None,
) -> Sample:
    """Return a training crop of the sample, [crop, crop].

    Too small an image is padded at the right and bottom: unlabelled, in PAD_COLOR. other: a sample
    whose road users and signs appear in the crop, where both crops have the same size.
    """
    sample = resized(sample, scale_factor(sample, rng, settings), settings.antialias)
    height, width = sample.labels.shape
    sample, (top, left) = _cropped(sample, rng, settings)
    if other is not None:
        other = resized(other, scale_factor(other, rng, settings), settings.antialias)
        other, _ = _cropped(other, rng, settings)
        if other.labels.shape == sample.labels.shape:
            sample = mixed(sample, other, rng)
            if settings.tone > 0 and rng.random() < settings.tone:
                sample = toned(sample, other, rng.uniform(0.3, 1.0))
    centre = ((width - 1) / 2 - left, (height - 1) / 2 - top)
    displays = settings.displays > 0 and can_have_displays(sample)
    if displays and rng.random() < settings.displays:
        sample = with_displays(sample, centre, rng)
    relit = None
    if settings.relight > 0 and rng.random() < settings.relight:
        relit = relight(sample, centre, rng)
        sample = relit or sample
    if settings.wires > 0 and rng.random() < settings.wires:
        sample = with_wires(sample, centre, rng)
    if rng.random() < settings.flip:
        sample = _mapped(sample, lambda image: np.ascontiguousarray(image[:, ::-1]))
    if relit is not None:
        return _padded(sample, settings.crop)
    rgb = sample.rgb
    if rng.random() < settings.photometric:
        rgb = photometric(rgb, rng)
    if rng.random() < settings.adverse:
        rgb = adverse(rgb, rng)
    return _padded(dataclasses.replace(sample, rgb=rgb), settings.crop)


def scale_factor(sample: Sample, rng: np.random.Generator, settings: AugmentSettings) -> float:
    """Draw the factor by which to resize the sample."""
    short, long = sorted(sample.labels.shape)
    if settings.short_sides_px:
        factor = int(rng.choice(settings.short_sides_px)) / short
        most = settings.max_long_side_px
        return factor if most is None else min(factor, most / long)
    base = 1.0 if settings.short_side_px is None else settings.short_side_px / short
    return base * float(np.exp(rng.uniform(*np.log(settings.scale))))


def resized(sample: Sample, factor: float, antialias: bool = True) -> Sample:
    """Return the sample at `factor` times its size, labels and depth by nearest neighbour.

    Depth values are unchanged: a camera with another focal length sees the same scene.
    """
    height, width = (max(1, math.floor(side * factor + 0.5)) for side in sample.labels.shape)
    if sample.labels.shape == (height, width):
        return sample
    depth, focal_px = sample.depth_m, sample.focal_px
    smooth = cv2.INTER_AREA if antialias and factor < 1 else cv2.INTER_LINEAR
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


def _cropped(
    sample: Sample, rng: np.random.Generator, settings: AugmentSettings
) -> tuple[Sample, tuple[int, int]]:
    """Return a crop, and where its corner (y, x) was."""
    size = settings.crop
    down, right = (max(0, size - side) for side in sample.labels.shape)
    labels = np.pad(sample.labels, ((0, down), (0, right)), constant_values=UNLABELLED)
    # Nothing is drawn where nothing is asked for: runs started without it see the same samples.
    if settings.rare > 0 and rng.random() < settings.rare:
        top, left = _corner_over_a_class(labels, size, rng)
    else:
        top, left = _corner_of_a_mixture(labels, settings, rng)
    crop = _mapped(sample, lambda image: image[top : top + size, left : left + size])
    return crop, (top, left)


def _corner_of_a_mixture(
    labels: np.ndarray, settings: AugmentSettings, rng: np.random.Generator
) -> tuple[int, int]:
    """Return the corner (y, x) of a random crop of labels [H, W] that no class fills beyond
    max_class_share; of any crop if none is found.
    """
    size, max_class_share = settings.crop, settings.max_class_share
    height, width = labels.shape
    for _ in range(CROP_TRIES):
        top = int(rng.integers(0, height - size + 1))
        left = int(rng.integers(0, width - size + 1))
        inside = labels[top : top + size, left : left + size]
        counts = np.bincount(inside.ravel(), minlength=256)[:UNLABELLED]
        if counts.any() and counts.max() <= max_class_share * counts.sum():
            return top, left
    mixed = mixed_corners(labels, size, max_class_share) if settings.exhaustive else ()
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

    Every 16th position is tested, and the last ones; counts come from summed-area tables.
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


def _padded(sample: Sample, size: int) -> Sample:
    """Return the sample padded to [size, size] at the right and bottom."""
    height, width = sample.labels.shape
    if min(height, width) >= size:
        return sample
    rgb = np.full((size, size, 3), PAD_COLOR, np.uint8)
    rgb[:height, :width] = sample.rgb
    labels = np.full((size, size), UNLABELLED, np.uint8)
    labels[:height, :width] = sample.labels
    depth = None
    if sample.depth_m is not None:
        depth = np.full((size, size), np.nan, np.float32)
        depth[:height, :width] = sample.depth_m
    return dataclasses.replace(sample, rgb=rgb, labels=labels, depth_m=depth)


def _mapped(sample: Sample, change: Callable[[np.ndarray], np.ndarray]) -> Sample:
    depth = sample.depth_m
    return dataclasses.replace(
        sample,
        rgb=change(sample.rgb),
        labels=change(sample.labels),
        depth_m=None if depth is None else change(depth),
    )


def photometric(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness by ±32, contrast and saturation by 0.5..1.5 and hue by -18..17 steps of 2°,
    each with probability 1/2; contrast last with probability 1/2, else after brightness.

    The distortion of SSD (arXiv 1512.02325) as mmsegmentation 1.2.2 applies it
    (PhotoMetricDistortion). rgb: [H, W, 3] uint8, and so is the result.
    """
    contrast_last = rng.random() < 0.5
    brightness = rng.uniform(-32, 32) if rng.random() < 0.5 else 0.0
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-18, 18)) if rng.random() < 0.5 else 0
    steps = np.arange(256, dtype=np.float32)
    levels = (steps + brightness).clip(0, 255).astype(np.uint8)
    contrasts = (steps * contrast).clip(0, 255).astype(np.uint8)
    rgb = cv2.LUT(rgb, levels if contrast_last else contrasts[levels])
    if saturation != 1.0 or hue != 0:
        hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
        table = np.stack([(steps + hue) % 180, (steps * saturation).clip(0, 255), steps], axis=-1)
        hsv = cv2.LUT(hsv, table.astype(np.uint8)[None])  # [1, 256, 3]: one table a channel
        rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return cv2.LUT(rgb, contrasts) if contrast_last else rgb


def adverse(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simulate sensor effects of night and weather, of random strength: [H, W, 3] uint8."""
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
