# SPDX-License-Identifier: Apache-2.0
"""What becomes of a frame when the device's memory is full, or the device is gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from depthforge_ros.engine.journal import Journal
from depthforge_ros.engine.output import CropOutput
from depthforge_ros.variant import Variant

OUT_OF_MEMORY: tuple[type[BaseException], ...] = tuple(
    kind
    for kind in (getattr(torch, "OutOfMemoryError", None), torch.cuda.OutOfMemoryError)
    if kind is not None
)
FULL_TEXTS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
LOST_TEXTS = ("CUDA error", "CUDA driver error", "device-side assert", "cuDNN error")
ACCELERATOR_ERROR: type[BaseException] | None = getattr(torch, "AcceleratorError", None)


class DeviceMemoryError(RuntimeError):
    """A single image does not fit into the device's memory, with any engine."""


class DeviceLostError(RuntimeError):
    """The device does not answer any more, and will not to this process."""


class Runs(Protocol):
    """An engine, as pipeline.Engine describes it."""

    variant: Variant
    device: torch.device
    backend: str
    precision: str

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """See pipeline.Engine."""
        ...


class GuardedEngine:
    """The first of `engines` that gets along with the memory there is.

    Where memory does not suffice, the batch is halved, and remains so; where one image is too
    much, the next engine takes over. A device that is lost is not asked again: with CUDA every
    later call of the process fails too, and only a new process gets it back.
    """

    def __init__(self, engines: Sequence[Runs], journal: Journal) -> None:
        self._engines = list(engines)
        self._journal = journal
        self._most = 1 << 30
        self._lost = ""
        self.variant, self.device = engines[0].variant, engines[0].device

    @property
    def backend(self) -> str:
        """Of the engine at work."""
        return self._engines[0].backend

    @property
    def precision(self) -> str:
        """Of the engine at work."""
        return self._engines[0].precision

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Scores and depth; see pipeline.Engine.

        Raises DeviceMemoryError, DeviceLostError, or what else the engine raises.
        """
        if self._lost:
            raise DeviceLostError(self._lost)
        outputs, start = [], 0
        while start < len(crops):
            part = crops[start : start + self._most]
            try:
                outputs.append(self._engines[0](part, depth=depth))
                start += len(part)
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    self._raise_if_lost(error)
                    raise
                reason = str(error).splitlines()[0]
            # Outside of the handler, whose traceback keeps the engine's tensors alive.
            self._relieve(part, reason)
        if len(outputs) == 1:
            return outputs[0]
        depths = [output.depth for output in outputs if output.depth is not None]
        scores = torch.cat([output.scores for output in outputs])
        return CropOutput(scores, torch.cat(depths) if depths else None)

    def _relieve(self, part: Tensor, reason: str) -> None:
        """Want less memory from now on. Raises DeviceMemoryError where nothing less is left."""
        batch, _, height, width = part.shape
        if batch > 1:
            self._most = batch // 2
            self._journal.note(
                "memory", f"{self.device} is short of memory: {self._most} images at once"
            )
        elif len(self._engines) > 1:
            left = self._engines.pop(0)
            self._journal.note(
                "memory",
                f"{self.device} is short of memory for {left.backend} {left.precision}: "
                f"{self.backend} {self.precision} from now on",
            )
        else:
            text = (
                f"{self.device} has not the memory for one image of {width}x{height} ({reason}); "
                "set a smaller short_side_px, mode slide, or take a smaller variant"
            )
            raise DeviceMemoryError(text)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _raise_if_lost(self, error: Exception) -> None:
        if not is_device_lost(error):
            return
        reason = str(error).splitlines()[0]
        self._lost = f"{self.device} does not answer any more ({reason}); start the node anew"
        self._journal.fail(self._lost)
        raise DeviceLostError(self._lost) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice; nothing is broken then."""
    if isinstance(error, (*OUT_OF_MEMORY, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in FULL_TEXTS)


def is_device_lost(error: BaseException) -> bool:
    """Whether an error says that the device, or this process's hold on it, is gone."""
    if ACCELERATOR_ERROR is not None and isinstance(error, ACCELERATOR_ERROR):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in LOST_TEXTS)
