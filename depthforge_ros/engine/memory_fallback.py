# SPDX-License-Identifier: Apache-2.0
"""Fallbacks for a device whose memory is full, and the end of one that is lost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from depthforge_ros.engine.engine import CropOutput, Engine, Journal

OUT_OF_MEMORY: tuple[type[BaseException], ...] = tuple(
    kind
    for kind in (getattr(torch, "OutOfMemoryError", None), torch.cuda.OutOfMemoryError)
    if kind is not None
)
FULL_TEXTS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
LOST_TEXTS = ("CUDA error", "CUDA driver error", "device-side assert", "cuDNN error")
ACCELERATOR_ERROR: type[BaseException] | None = getattr(torch, "AcceleratorError", None)


class DeviceMemoryError(RuntimeError):
    """No engine can run a single image in the device's memory."""


class DeviceLostError(RuntimeError):
    """The device failed permanently for this process."""


class FallbackEngine:
    """Runs the first of `engines` that fits into the device's memory.

    If memory is short, the batch is halved permanently; if one image is too much, the next engine
    takes over. A lost device is not called again: with CUDA every later call of the process fails
    too, and only a new process can use the device again.
    """

    def __init__(self, engines: Sequence[Engine], journal: Journal) -> None:
        self._engines = list(engines)
        self._journal = journal
        self._max_batch = 1 << 30
        self._lost = ""
        self.variant, self.device = engines[0].variant, engines[0].device

    @property
    def backend(self) -> str:
        """Return that of the engine that runs."""
        return self._engines[0].backend

    @property
    def precision(self) -> str:
        """Return that of the engine that runs."""
        return self._engines[0].precision

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Return scores and depth; see Engine.

        Raises DeviceMemoryError, DeviceLostError, or what else the engine raises.
        """
        if self._lost:
            raise DeviceLostError(self._lost)
        outputs, start = [], 0
        while start < len(crops):
            part = crops[start : start + self._max_batch]
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
            self._reduce_memory(part, reason)
        if len(outputs) == 1:
            return outputs[0]
        depths = [output.depth for output in outputs if output.depth is not None]
        scores = torch.cat([output.scores for output in outputs])
        return CropOutput(scores, torch.cat(depths) if depths else None)

    def _reduce_memory(self, part: Tensor, reason: str) -> None:
        """Reduce the memory use permanently. Raises DeviceMemoryError if that is not possible."""
        batch, _, height, width = part.shape
        if batch > 1:
            self._max_batch = batch // 2
            self._journal.note(
                "memory", f"{self.device} is short of memory: {self._max_batch} images at once"
            )
        elif len(self._engines) > 1:
            failed = self._engines.pop(0)
            self._journal.note(
                "memory",
                f"{self.device} is short of memory for {failed.backend} {failed.precision}: "
                f"{self.backend} {self.precision} from now on",
            )
        else:
            text = (
                f"{self.device} has too little memory for one image of {width}x{height} "
                f"({reason}); set a smaller short_side_px or mode slide, or use a smaller variant"
            )
            raise DeviceMemoryError(text)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _raise_if_lost(self, error: Exception) -> None:
        if not is_device_lost(error):
            return
        reason = str(error).splitlines()[0]
        self._lost = f"{self.device} does not answer any more ({reason}); restart the node"
        self._journal.fail(self._lost)
        raise DeviceLostError(self._lost) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports that memory is short, after which the device still works."""
    if isinstance(error, (*OUT_OF_MEMORY, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in FULL_TEXTS)


def is_device_lost(error: BaseException) -> bool:
    """Return whether an error reports that this process cannot use the device any more."""
    if ACCELERATOR_ERROR is not None and isinstance(error, ACCELERATOR_ERROR):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in LOST_TEXTS)
