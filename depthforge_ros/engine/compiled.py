# SPDX-License-Identifier: Apache-2.0
"""Compiled programs, each for one shape, as an engine that takes any."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from depthforge_ros.engine.cuda_graph import Program
from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.engine.journal import Journal
from depthforge_ros.engine.output import CropOutput
from depthforge_ros.engine.shape import Shape


class CompiledEngine:
    """Takes the program that fits; batches are cut and filled up to those that were compiled.

    Images of a size that nothing was compiled for are run by `otherwise`, and the journal says so.
    Depth is always computed, because it is in the program.
    """

    def __init__(
        self,
        backend: str,
        precision: str,
        programs: Mapping[Shape, Program],
        otherwise: EagerEngine,
        journal: Journal,
    ) -> None:
        self.variant = otherwise.variant
        self.device = otherwise.device
        self.backend = backend
        self.precision = precision
        self._programs = dict(programs)
        self._otherwise = otherwise
        self._journal = journal

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What programs there are for."""
        return tuple(sorted(self._programs))

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Scores [B, K, h, w] and depth [B, h, w] float32 for crops [B, 3, h, w] uint8."""
        height, width = crops.shape[2:]
        fitting = [s for s in self.shapes if (s.height, s.width) == (height, width)]
        if not fitting:
            self._journal.note(
                f"{width}x{height}",
                f"no {self.backend} engine for images inferred at {width}x{height}: they run in "
                f"eager {self._otherwise.precision}; `depthforge compile` makes one",
            )
            return self._otherwise(crops, depth=depth)
        outputs = [self._run(part, fitting) for part in crops.split(fitting[-1].batch)]
        scores = torch.cat([scores for scores, _ in outputs])
        return CropOutput(scores, torch.cat([d for _, d in outputs]) if depth else None)

    def _run(self, crops: Tensor, fitting: list[Shape]) -> tuple[Tensor, Tensor]:
        count = len(crops)
        shape = next(shape for shape in fitting if shape.batch >= count)
        if shape.batch > count:
            filling = crops[-1:].expand(shape.batch - count, -1, -1, -1)
            crops = torch.cat([crops, filling])
        with torch.inference_mode():
            scores, depth = self._programs[shape](crops.contiguous())
        return scores[:count].float(), depth[:count].float()
