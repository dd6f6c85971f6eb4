# SPDX-License-Identifier: Apache-2.0
"""The network as PyTorch runs it: the backend that is always there and the others are held to."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from depthforge_ros.engine.output import CropOutput
from depthforge_ros.engine.precision import DTYPES, PRECISIONS
from depthforge_ros.network.deploy import Folded, tune
from depthforge_ros.network.depthforge import DepthForge


class EagerEngine:
    """Runs a loaded network, folded for inference, on a device.

    precision: of matrix products and convolutions, one of PRECISIONS. The network's own tensors
    are used where no fold changes them, so it must not be trained on meanwhile.
    """

    backend = "eager"

    def __init__(self, network: DepthForge, device: torch.device, precision: str = "fp32") -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
        self.variant = network.variant
        self.device = device
        self.precision = precision
        network = network.to(device).eval().requires_grad_(False)
        folded = tune(Folded(network, None if precision == "fp32" else DTYPES[precision]))
        # A camera has one size, windows another: position tables are made once for each.
        self._at_size = functools.lru_cache(maxsize=4)(folded.at_size)

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Scores [B, K, h, w] and depth [B, h, w] float32 for crops [B, 3, h, w] uint8."""
        with torch.inference_mode():
            scores, depth_map = self._at_size(*crops.shape[2:])(crops, depth=depth)
        return CropOutput(scores.float(), None if depth_map is None else depth_map.float())
