# SPDX-License-Identifier: Apache-2.0
"""The backend that is always available, and the reference for the self-check of the others."""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from depthforge_ros.engine.backends.cuda_graph import GraphedProgram
from depthforge_ros.engine.engine import DTYPES, EAGER, PRECISIONS, CropOutput, Operation
from depthforge_ros.engine.memory_fallback import is_device_lost, is_out_of_memory
from depthforge_ros.network.deploy import Folded, tune
from depthforge_ros.network.depthforge import DepthForge

MAX_GRAPHS = 4
"""Shapes with a CUDA graph; each graph keeps the memory of all its intermediate tensors."""

_log = logging.getLogger(__name__)


class EagerEngine:
    """Runs a loaded network in PyTorch, folded for inference.

    precision: of matrix products and convolutions, one of PRECISIONS; TF32 is switched off in this
    process, so fp32 means fp32. graphed: on CUDA, capture each of the first MAX_GRAPHS shapes in a
    CUDA graph. The engine shares the network's tensors, so the network must not be trained
    meanwhile.
    """

    backend = EAGER

    def __init__(
        self,
        network: DepthForge,
        device: torch.device,
        precision: str = "fp32",
        *,
        graphed: bool = False,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False  # PyTorch's default is True
        self.variant = network.variant
        self.device = device
        self.precision = precision
        network = network.to(device).eval().requires_grad_(False)
        folded = tune(Folded(network, None if precision == "fp32" else DTYPES[precision]))
        # A camera has one size, windows have another: position tables are made once for each.
        self._at_size = functools.lru_cache(maxsize=4)(folded.at_size)
        self._graphed = graphed and device.type == "cuda"
        self._graphs: dict[tuple[torch.Size, bool], Operation] = {}

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Return scores [B, K, h, w] and depth [B, h, w] float32 for crops [B, 3, h, w] uint8."""
        key = crops.shape, depth
        if self._graphed and key not in self._graphs and len(self._graphs) < MAX_GRAPHS:
            self._graphs[key] = self._captured(crops, depth)
        run = self._graphs.get(key) or self._operation(crops.shape, depth)
        with torch.inference_mode():
            scores, *depths = run(crops)
        return CropOutput(scores, depths[0] if depths else None)

    def operation(self, sizes: torch.Size, depth: bool) -> Operation:
        """Return the work of a call for crops of sizes [B, 3, h, w], for a capture by the caller.

        The engine's own graph of that shape, which the self-check made, is given up.
        """
        self._graphs.pop((sizes, depth), None)
        return self._operation(sizes, depth)

    def _operation(self, sizes: torch.Size, depth: bool) -> Operation:
        """Return the network for crops of this size; it keeps the position tables of the size."""
        network = self._at_size(*sizes[2:])

        def run(crops: Tensor) -> tuple[Tensor, ...]:
            scores, depth_map = network(crops, depth=depth)
            return (scores.float(),) if depth_map is None else (scores.float(), depth_map.float())

        return run

    def _captured(self, crops: Tensor, depth: bool) -> Operation:
        """Return a CUDA graph for crops of this shape, or the plain operation if capture fails."""
        operation = self._operation(crops.shape, depth)
        try:
            return GraphedProgram(operation, crops)
        except RuntimeError as error:
            if is_out_of_memory(error) or is_device_lost(error, self.device):
                raise
            _log.warning("eager runs without a CUDA graph: %s", str(error).splitlines()[0])
            return operation
