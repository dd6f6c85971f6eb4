# SPDX-License-Identifier: Apache-2.0
"""The backend that is always available, and the reference for the self-check of the others."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from depthforge_ros.engine.engine import DTYPES, EAGER, PRECISIONS, CropOutput
from depthforge_ros.network.deploy import Folded, tune
from depthforge_ros.network.depthforge import DepthForge


class EagerEngine:
    """Runs a loaded network in PyTorch, folded for inference.

    precision: of matrix products and convolutions, one of PRECISIONS. The engine shares the
    network's tensors, so the network must not be trained meanwhile.
    """

    backend = EAGER

    def __init__(self, network: DepthForge, device: torch.device, precision: str = "fp32") -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
        self.variant = network.variant
        self.device = device
        self.precision = precision
        network = network.to(device).eval().requires_grad_(False)
        folded = tune(Folded(network, None if precision == "fp32" else DTYPES[precision]))
        # A camera has one size, windows have another: position tables are made once for each.
        self._at_size = functools.lru_cache(maxsize=4)(folded.at_size)

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Return scores [B, K, h, w] and depth [B, h, w] float32 for crops [B, 3, h, w] uint8."""
        with torch.inference_mode():
            scores, depth_map = self._at_size(*crops.shape[2:])(crops, depth=depth)
        return CropOutput(scores.float(), None if depth_map is None else depth_map.float())
