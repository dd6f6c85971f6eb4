# SPDX-License-Identifier: Apache-2.0
"""Road users and signs of one image in another, so that no class belongs to one kind of picture.

ClassMix (arXiv 2007.07936) with depth: what is pasted hides only what is farther away.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from depthforge_ros.learning.label_ids import (
    BICYCLE,
    BUS,
    CAR,
    LIGHT,
    MOTORCYCLE,
    PERSON,
    RIDER,
    SIGN,
    TRAIN,
    TRUCK,
)
from depthforge_ros.learning.relight.relight import DAYLIGHT
from depthforge_ros.learning.samples import Sample

GROUPS = (
    (LIGHT,), (SIGN,), (PERSON,), (CAR,), (TRUCK,), (BUS,), (TRAIN,),
    (RIDER, MOTORCYCLE, BICYCLE),
)  # fmt: skip
"""Classes that are pasted together: a rider comes with what carries it."""
CHANCES = (0.5, 0.5, 0.5, 0.3, 0.8, 0.8, 0.8, 0.7)
FARTHEST_M = 60.0
"""Beyond this the pasted pixels would be a few, with the other image's background at their rim."""
MAX_GAIN = 2.0


def mixes(sample: Sample) -> bool:
    """Return whether the sample can give or take road users: daylight, with depth."""
    return sample.depth_m is not None and sample.condition in DAYLIGHT


def mixed(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Return the sample with some road users and signs of the other, of the same size, in place.

    Only pixels nearer than the sample's own are taken. Their brightness is moved towards the
    sample's by a gain within 1/2..2. Both must pass `mixes`.
    """
    assert sample.depth_m is not None
    assert other.depth_m is not None
    chosen = [
        label
        for group, chance in zip(GROUPS, CHANCES, strict=True)
        if rng.random() < chance
        for label in group
    ]
    own = np.nan_to_num(sample.depth_m, nan=np.inf)  # [H, W]
    nearer = (other.depth_m < own) & (other.depth_m < FARTHEST_M)
    mask = np.isin(other.labels, chosen) & nearer
    if not mask.any():
        return sample
    gain = (sample.rgb.mean() + 1) / (other.rgb.mean() + 1) * np.exp(rng.normal(0, 0.15))
    pasted = other.rgb * np.float32(np.clip(gain, 1 / MAX_GAIN, MAX_GAIN))
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.6)[..., None]
    # Soft towards the inside: the rim of the other's background stays out.
    alpha = alpha * mask[..., None]
    rgb = sample.rgb + alpha * (pasted.clip(0, 255) - sample.rgb)
    return replace(
        sample,
        rgb=rgb.astype(np.uint8),
        labels=np.where(mask, other.labels, sample.labels),
        depth_m=np.where(mask, other.depth_m, sample.depth_m),
    )


def toned(sample: Sample, other: Sample, share: float) -> Sample:
    """Return the sample with the mean and spread of the other's colours, each channel of CIELAB.

    After Reinhard, Adhikhmin, Gooch and Shirley, Color Transfer between Images (2001). share: 0
    leaves the sample as it is, 1 gives it the other's mean and standard deviation.
    """
    own, target = (
        cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        for rgb in (sample.rgb, other.rgb)
    )
    mean, spread = own.mean((0, 1)), own.std((0, 1)) + 1e-3
    wanted, wanted_spread = target.mean((0, 1)), target.std((0, 1)) + 1e-3
    gain = np.clip(wanted_spread / spread, 1 / MAX_GAIN, MAX_GAIN)
    moved = (own - mean) * gain + wanted
    lab = (own + np.float32(share) * (moved - own)).astype(np.float32)
    rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return replace(sample, rgb=(255 * rgb.clip(0, 1) + 0.5).astype(np.uint8))
