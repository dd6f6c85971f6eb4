# SPDX-License-Identifier: Apache-2.0
"""Fallbacks for a device whose memory is full, and the end of one that is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from depthforge_ros.engine.engine import CapturableEngine, CropOutput, Engine, Journal, Operation

MEMORY_ERRORS: tuple[type[BaseException], ...] = tuple(
    kind
    for kind in (getattr(torch, "OutOfMemoryError", None), torch.cuda.OutOfMemoryError, MemoryError)
    if kind is not None
)
MEMORY_TEXTS = (
    "out of memory",  # CUDA, cuDNN, PyTorch
    "outofmemory",  # TensorRT's error code
    "out_of_memory",
    "allocate memory",  # PyTorch on a CPU
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED
    "has no memory",  # our own, for TensorRT's contexts
    "not enough memory",
    "insufficient memory",
    "bad_alloc",
)


class DeviceMemoryError(RuntimeError):
    """No engine can run a single image in the device's memory."""


class DeviceLostError(RuntimeError):
    """The device failed permanently for this process."""


class FallbackEngine:
    """Runs `engine`, and something smaller if that does not fit into the device's memory.

    If memory is short, the batch is halved permanently; if one image is too much, the engine that
    `fallback` makes takes over. A lost device is not called again: with CUDA every later call of
    the process fails too, and only a new process can use the device again. short_of_memory: whether
    memory was short since the engine was last replaced.
    """

    def __init__(
        self, engine: Engine, journal: Journal, fallback: Callable[[], Engine] | None = None
    ) -> None:
        self._engine = engine
        self._fallback = fallback
        self._journal = journal
        self._max_batch = 1 << 30
        self.short_of_memory = False
        self._lost = ""
        self._on_batch: Callable[[torch.Size], None] = lambda shape: None
        self._on_close: Callable[[], None] = lambda: None
        self.variant, self.device = engine.variant, engine.device

    @property
    def engine(self) -> Engine:
        """Return the engine that runs."""
        return self._engine

    @property
    def backend(self) -> str:
        """Return the backend of the engine that runs."""
        return self._engine.backend

    @property
    def precision(self) -> str:
        """Return the precision of the engine that runs."""
        return self._engine.precision

    def replace(self, engine: Engine) -> None:
        """Run another engine from the next call on."""
        self._engine = engine
        self._max_batch = 1 << 30
        self.short_of_memory = False

    def attach(self, on_batch: Callable[[torch.Size], None], on_close: Callable[[], None]) -> None:
        """Call on_batch with the shape [B, 3, h, w] of every batch, and on_close at the end."""
        self._on_batch, self._on_close = on_batch, on_close

    def close(self) -> None:
        """End what runs in the background."""
        self._on_close()

    def operation(self, sizes: torch.Size, depth: bool) -> Operation | None:
        """Return the work of a call for crops of sizes [B, 3, h, w], for a capture by the caller.

        The engine that runs gives it, and a call counts for it only if made through `captured`.
        None if it cannot be captured or memory is short.
        """
        engine = self._engine
        if self.short_of_memory or not isinstance(engine, CapturableEngine):
            return None
        return engine.operation(sizes, depth)

    @contextlib.contextmanager
    def captured(self, sizes: torch.Size) -> Iterator[None]:
        """Hold a run of a capture of the caller's, for crops of sizes [B, 3, h, w].

        Raises DeviceLostError if the device is lost, before or by what the block raises.
        """
        if self._lost:
            raise DeviceLostError(self._lost)
        self._on_batch(sizes)
        try:
            yield
        except Exception as error:
            self._raise_if_lost(error)
            raise

    def note(self, subject: str, text: str) -> None:
        """Record a condition of the running engine in its journal; see Journal."""
        self._journal.note(subject, text)

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Return scores and depth; see Engine.

        Raises DeviceMemoryError, DeviceLostError, or what else the engine raises.
        """
        if self._lost:
            raise DeviceLostError(self._lost)
        self._on_batch(crops.shape)
        outputs, start = [], 0
        while start < len(crops):
            part = crops[start : start + self._max_batch]
            try:
                outputs.append(self._engine(part, depth=depth))
                start += len(part)
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    self._raise_if_lost(error)
                    raise
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            # Outside of the handler, whose traceback keeps the engine's tensors alive.
            self._reduce_memory(part, reason)
        if len(outputs) == 1:
            return outputs[0]
        depths = [output.depth for output in outputs if output.depth is not None]
        scores = torch.cat([output.scores for output in outputs])
        return CropOutput(scores, torch.cat(depths) if depths else None)

    def _reduce_memory(self, part: Tensor, reason: str) -> None:
        """Reduce the memory use permanently. Raises DeviceMemoryError if that is not possible."""
        self.short_of_memory = True
        batch, _, height, width = part.shape
        text = (
            f"{self.device} has too little memory for one image of {width}x{height} "
            f"({reason}); set a smaller short_side_px or mode slide, or use a smaller variant"
        )
        if batch > 1:
            self._max_batch = batch // 2
            self._journal.note(
                "memory", f"{self.device} is short of memory: {self._max_batch} images at once"
            )
        elif self._fallback is not None:
            failed = f"{self.backend} {self.precision}"
            self.close()  # no build may bring back what does not fit
            try:
                self._engine = self._fallback()
            except Exception as error:
                if is_out_of_memory(error):
                    raise DeviceMemoryError(text) from error
                raise
            self._fallback = None
            self._journal.note(
                "memory",
                f"{self.device} is short of memory for {failed}: {self.backend} "
                f"{self.precision} from now on",
            )
        else:
            raise DeviceMemoryError(text)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _raise_if_lost(self, error: Exception) -> None:
        if not is_device_lost(error, self.device):
            return
        reason = str(error).splitlines()[0]
        self._lost = f"{self.device} does not answer any more ({reason}); restart the node"
        self._journal.fail(self._lost)
        raise DeviceLostError(self._lost) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports that memory is short, after which the device still works."""
    if isinstance(error, MEMORY_ERRORS):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in text for part in MEMORY_TEXTS)


def is_device_lost(error: BaseException, device: torch.device) -> bool:
    """Return whether this process cannot use the device any more.

    The text of an error does not say whether it is permanent ("sticky" in CUDA): a failed capture,
    a missing kernel image and an illegal address are all "CUDA error". So the device is asked.
    """
    if isinstance(error, DeviceLostError):
        return True
    if is_out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    return not device_works(device)


def device_works(device: torch.device) -> bool:
    """Return whether the device still runs an operation."""
    try:
        return torch.ones(1, device=device).add_(1).item() == 2
    except RuntimeError as error:
        return is_out_of_memory(error)
