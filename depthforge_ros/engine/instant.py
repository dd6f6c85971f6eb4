# SPDX-License-Identifier: Apache-2.0
"""An engine that answers at once with the same scene: measures everything around a network."""

from __future__ import annotations

import torch
from torch import Tensor

from depthforge_ros.engine.output import CropOutput
from depthforge_ros.variant import Variant


class InstantEngine:
    """Road below, sky above, at 10 m (or 0.1 for relative depth); deterministic.

    For benchmarks and tests of the node. It never looks at the image.
    """

    backend = "instant"
    precision = "none"

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.device = torch.device("cpu")
        self._outputs: dict[tuple[int, ...], CropOutput] = {}

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Scores [B, K, h, w] and depth [B, h, w] for crops [B, 3, h, w]."""
        batch, _, height, width = crops.shape
        key = (batch, height, width)
        if key not in self._outputs:
            self._outputs = {
                key: self._scene(*key)
            }  # one size at a time, so that memory stays flat
        output = self._outputs[key]
        return output if depth else CropOutput(output.scores, None)

    def _scene(self, batch: int, height: int, width: int) -> CropOutput:
        scores = torch.zeros(batch, len(self.variant.labels), height, width)
        sky = self.variant.labels.id_of("sky") or 0
        scores[:, sky, : height // 2] = 0.9
        scores[:, 0, height // 2 :] = 0.9
        near = 10.0 if self.variant.depth_head.max_depth_m else 0.1
        return CropOutput(scores, torch.full((batch, height, width), near))
