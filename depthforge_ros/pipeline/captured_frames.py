# SPDX-License-Identifier: Apache-2.0
"""Whole frames on CUDA: one copy up, one captured graph, one copy down and one wait.

Frames that no graph takes (windows, a fifth shape, an engine that cannot be captured) are left to
the pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from depthforge_ros.engine import Engine, FallbackEngine, Operation
from depthforge_ros.engine.backends.cuda_graph import GraphedProgram
from depthforge_ros.engine.memory_fallback import DeviceLostError, is_out_of_memory
from depthforge_ros.frame import Frame
from depthforge_ros.pipeline.depth import metres_per_unit
from depthforge_ros.pipeline.frame_program import FrameProgram, FrameShape
from depthforge_ros.pipeline.settings import Mode, PipelineSettings, inference_size
from depthforge_ros.pipeline.transfer import Transfer

MAX_PROGRAMS = 4
"""Shapes with a graph; each graph keeps the memory of all its intermediate tensors."""


class Graphed(Protocol):
    """A captured program: `replay` reads `images` and returns its output buffers."""

    images: Tensor

    def replay(self) -> tuple[Tensor, ...]:
        """Run; the buffers are valid until the next call."""
        ...


Capture = Callable[[Operation, Tensor], Graphed]
"""Captures a program with an example of its input: GraphedProgram, or a test's replacement."""


@dataclass(frozen=True)
class _Kept:
    """engine: that the graph was captured from. graphed: None if it could not be."""

    engine: Engine
    graphed: Graphed | None


class CapturedFrames:
    """Runs groups of frames of one size as one graph each, captured when a shape first appears.

    Depth on or off, the size and number of frames, and settings that change sizes need another
    graph; the confidence threshold and the scale of metres are inputs of the graph. A new graph is
    compared with the same operations run one by one before it is used.
    """

    def __init__(
        self, engine: FallbackEngine, transfer: Transfer, capture: Capture = GraphedProgram
    ) -> None:
        self._engine = engine
        self._transfer = transfer
        self._capture = capture
        self._kept: dict[FrameShape, _Kept] = {}
        self._made_for: tuple[object, ...] = ()

    def __call__(
        self, frames: Sequence[Frame], depth: Sequence[bool], settings: PipelineSettings
    ) -> dict[int, list[np.ndarray]]:
        """Return labels, confidence and, if requested, depth [H, W] of frames, by index.

        Frames that no graph takes are absent. Raises DeviceLostError, ValueError if a frame would
        be inferred at a size that is too large, and what a replay raises.
        """
        if settings.mode is not Mode.WHOLE or self._engine.short_of_memory:
            self._kept.clear()
            return {}
        sizes = settings.short_side_px, settings.antialias, settings.full_size
        if self._made_for != sizes:  # graphs of former settings only take memory
            self._made_for = sizes
            self._kept.clear()
        found: dict[int, list[np.ndarray]] = {}
        for size in dict.fromkeys((frame.height, frame.width) for frame in frames):
            group = [i for i, frame in enumerate(frames) if (frame.height, frame.width) == size]
            for start in range(0, len(group), settings.max_batch):
                part = group[start : start + settings.max_batch]
                wanted = [depth[i] for i in part]
                maps = self._run([frames[i] for i in part], any(wanted), settings)
                for index, one, with_depth in zip(part, maps, wanted, strict=bool(maps)):
                    found[index] = one if with_depth else one[:2]
        return found

    def _run(
        self, frames: Sequence[Frame], depth: bool, settings: PipelineSettings
    ) -> list[list[np.ndarray]]:
        """Return the maps of frames of one size; empty if no graph takes them."""
        height, width = frames[0].height, frames[0].width
        variant = self._engine.variant
        inferred = inference_size(height, width, settings, variant)
        size = (height, width) if settings.full_size else inferred
        shape = FrameShape(len(frames), height, width, inferred, size, settings.antialias, depth)
        kept = self._kept.get(shape)
        if kept is not None and kept.engine is not self._engine.engine:
            self._kept.clear()  # graphs of the engine that was replaced
            kept = None
        operation = None
        if kept is None and len(self._kept) < MAX_PROGRAMS:
            operation = self._engine.operation(shape.network, shape.depth)
        if operation is None and (kept is None or kept.graphed is None):
            return []
        host = self._transfer.buffer(shape.input_bytes)
        metres = [metres_per_unit(frame, *inferred, variant) for frame in frames]
        shape.pack(frames, settings.confidence_threshold, metres, host.numpy())
        if operation is not None:
            kept = self._kept[shape] = self._made(operation, shape, host)
        if kept is None or kept.graphed is None:
            return []
        with self._engine.captured(shape.network):
            self._transfer.fill(kept.graphed.images, host)
            (output,) = self._transfer.download(kept.graphed.replay())
        return shape.unpack(output)

    def _made(self, operation: Operation, shape: FrameShape, host: Tensor) -> _Kept:
        """Capture and check a graph; note why it cannot be used. host: an input."""
        engine, device = self._engine.engine, self._transfer.device
        program = FrameProgram(operation, engine.variant, shape, device)
        try:
            with self._engine.captured(shape.network):
                return _Kept(engine, self._checked(program, host))
        except DeviceLostError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            short = is_out_of_memory(error)
        # Outside of the handler, whose traceback keeps tensors alive.
        self._engine.note("graph", f"frames run without a CUDA graph: {reason}")
        if short and device.type == "cuda":
            torch.cuda.empty_cache()
        return _Kept(engine, None)

    def _checked(self, program: FrameProgram, host: Tensor) -> Graphed:
        """Capture a program. Raises RuntimeError if the graph computes something else."""
        images = self._transfer.upload(host)
        graphed = self._capture(program, images)
        outputs = self._transfer.download([*graphed.replay(), *program(images)])
        if fault := program.fault(*outputs):
            raise RuntimeError(f"the graph disagrees with the operations it captured: {fault}")
        return graphed
