# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: the kernels of a program recorded once and launched together for every frame.

A frame of DepthForge is some thousand kernels; on a small network launching them one by one takes
longer than running them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from depthforge_ros.engine.engine import Operation

WARM_UPS = 3
"""Runs before the capture: libraries initialize in their first calls, which must not be captured.
"""
CAPTURE_MODE = "thread_local"
"""The default, "global", makes CUDA calls of other threads fail during a capture."""


class GraphedProgram:
    """A program on CUDA, captured with its own buffers for input and outputs.

    images: the buffer of the input, which `replay` reads. The program must do the same work at
    every call, on the current stream. Raises RuntimeError if it does something that cannot be
    captured, such as waiting for the device.
    """

    def __init__(self, program: Operation, images: Tensor) -> None:
        self._program = program  # keeps the weights alive that the graph points to
        device = images.device
        with torch.cuda.device(device), torch.inference_mode():
            self.images = images.clone()
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    program(self.images)
            stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode=CAPTURE_MODE):
                self._outputs = program(self.images)
            torch.cuda.current_stream(device).wait_stream(stream)

    def replay(self) -> tuple[Tensor, ...]:
        """Run on what `images` holds; return the output buffers, valid until the next replay."""
        self._graph.replay()
        return self._outputs

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run on images of the captured shape; return copies of the output buffers."""
        with torch.inference_mode():
            self.images.copy_(images)
            return tuple(output.clone() for output in self.replay())
