# SPDX-License-Identifier: Apache-2.0
"""An engine without a network, for tests and for benchmarks of the node."""

from __future__ import annotations

import torch
from torch import Tensor

from depthforge_ros.engine.engine import CropOutput
from depthforge_ros.variant import Variant


class FakeEngine:
    """Returns the same scene for every image at once: road below, sky above.

    Metric depth is 10 m on the road and the end of the range in the sky. Relative depth is that of
    a flat road under a level camera: 0 in the sky, rising to 1/2 at the lower edge.
    """

    backend = "instant"
    precision = "none"

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.device = torch.device("cpu")
        self._scenes: dict[tuple[int, int], CropOutput] = {}

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Return scores [B, K, h, w] and depth [B, h, w] for crops [B, 3, h, w]."""
        batch, _, *size = crops.shape
        key = size[0], size[1]
        if key not in self._scenes:
            self._scenes = {key: self._scene(*key)}  # one size only, so that memory stays flat
        scene = self._scenes[key]
        assert scene.depth is not None
        scores = scene.scores.expand(batch, -1, -1, -1)
        return CropOutput(scores, scene.depth.expand(batch, -1, -1) if depth else None)

    def _scene(self, height: int, width: int) -> CropOutput:
        scores = torch.zeros(1, len(self.variant.labels), height, width)
        sky = self.variant.labels.id_of("sky") or 0
        scores[:, sky, : height // 2] = 0.9
        scores[:, 0, height // 2 :] = 0.9
        if self.variant.depth_head.max_depth_m is not None:
            depth = torch.full((1, height, width), 10.0)
            depth[:, : height // 2] = self.variant.depth_head.max_depth_m
            return CropOutput(scores, depth)
        below = (torch.arange(height) + 0.5) / height - 0.5
        return CropOutput(scores, below.clamp_min(0).view(1, -1, 1).expand(1, -1, width))
