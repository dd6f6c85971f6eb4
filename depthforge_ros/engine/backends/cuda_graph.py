# SPDX-License-Identifier: Apache-2.0
"""A compiled program as one launch: every kernel of it recorded once, replayed at each frame.

A frame of DepthForge is some thousand kernels, and on a small network launching them one by one
takes longer than they run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from depthforge_ros.engine.engine import Program

WARM_UPS = 3
"""Runs before the recording: what a library sets up in its first runs must not be recorded."""


class GraphedProgram:
    """A program on CUDA, recorded with buffers of its own for input and outputs.

    The program must do the same work at every call, on the current stream. Raises RuntimeError
    where it does something that cannot be recorded, such as waiting for the device.
    """

    def __init__(self, program: Program, images: Tensor) -> None:
        self._program = program  # keeps weights alive that the recording points to
        self._images = images.clone()
        device = images.device
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                program(self._images)
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = program(self._images)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Replay on images of the recorded shape; the outputs are copies, not the buffers."""
        self._images.copy_(images)
        self._graph.replay()
        scores, depth = self._outputs
        return scores.clone(), depth.clone()
