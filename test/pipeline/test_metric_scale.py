# SPDX-License-Identifier: Apache-2.0
"""Metres of the metric variants, with a head that measures apparent size in patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from depthforge_ros.engine import CropOutput
from depthforge_ros.frame import Frame
from depthforge_ros.pipeline import Pipeline
from depthforge_ros.variant import PATCH, Variant, load_variant

POST_M = 1.5
"""Width of the post in every scene."""

TUNED = {  # short side and patch of the tuning, then the camera: height, width and f, pixels
    "outdoor": (518, 14, 375, 1242, 725.0087),
    "indoor": (518, 14, 768, 1024, 886.81),
}


class PatchHead:
    """Depth of a bright post of known width from its width in patches, as tuning taught it.

    It knows nothing but the tuning camera's focal length in patches of the tuning.
    """

    backend, precision, device = "test", "fp32", torch.device("cpu")

    def __init__(self, variant: Variant, tuned: str) -> None:
        self.variant = variant
        short, patch, height, _, focal_px = TUNED[tuned]
        self.focal_patches = focal_px * short / height / patch

    def __call__(self, crops: torch.Tensor, *, depth: bool) -> CropOutput:
        B, _, h, w = crops.shape
        patches = crops[:, 0].float().sum((1, 2)) / 255 / h / PATCH  # [B] width of the post
        metres = self.focal_patches * POST_M / patches
        scores = torch.zeros(B, len(self.variant.labels), h, w)
        return CropOutput(scores, metres[:, None, None].expand(B, h, w) if depth else None)


def post(height: int, width: int, focal_px: float, distance_m: float) -> Frame:
    """A camera's image of the post, with sub-pixel edges."""
    half = focal_px * POST_M / distance_m / 2
    left, right = width / 2 - half, width / 2 + half
    columns = np.arange(width)
    cover = np.minimum(columns + 1, right) - np.maximum(columns, left)  # of each pixel column
    row = np.round(255 * np.clip(cover, 0, 1)).astype(np.uint8)
    rgb = np.repeat(np.broadcast_to(row, (height, width))[..., None], 3, axis=2).copy()
    return Frame(rgb, focal_px=focal_px)


@pytest.mark.parametrize("tuned", list(TUNED))
@pytest.mark.parametrize("base", ["dinov2_s", "eva02_l"])
def test_metres_are_true_for_the_tuning_camera_and_for_others(base: str, tuned: str) -> None:
    variant = load_variant(f"{base}+{tuned}")
    pipeline = Pipeline(PatchHead(variant, tuned))
    _, _, height, width, focal_px = TUNED[tuned]
    for camera in ((height, width, focal_px), (1080, 1920, 960.0), (600, 960, 480.0)):
        for distance_m in (4.0, 7.0):
            frame = post(*camera, distance_m)
            depth_m = pipeline(frame).depth
            assert depth_m is not None
            assert np.unique(depth_m).tolist() == pytest.approx([distance_m], rel=0.01)


def test_the_limit_of_the_head_scales_with_the_camera() -> None:
    pipeline = Pipeline(PatchHead(load_variant("dinov2_s+outdoor"), "outdoor"))
    near, far = (pipeline(post(1080, 1920, 960.0, metres)).depth for metres in (31.0, 32.0))
    assert near is not None
    assert far is not None
    assert near.max() == pytest.approx(31.0, rel=0.01)
    assert np.isposinf(far).all()  # 80 m of the head are 31.6 m of this camera
