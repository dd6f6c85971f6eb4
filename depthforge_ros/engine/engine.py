# SPDX-License-Identifier: Apache-2.0
"""The Engine protocol and the values that every engine shares."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from depthforge_ros.image_size import parse_size
from depthforge_ros.variant import PATCH, Variant

AUTO = "auto"
EAGER = "eager"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = tuple(DTYPES)

SIDE_MULTIPLE_PX = 2 * PATCH
MAX_BATCH = 64

FAST_BF16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}  # Intel, Intel and AMD, ARM
CPUINFO = Path("/proc/cpuinfo")

Program = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images [B, 3, h, w] uint8 of one shape -> scores [B, K, h, w] and depth [B, h, w], float32."""

Operation = Callable[[Tensor], tuple[Tensor, ...]]
"""Work on the current stream of a device, without a wait for it: what a CUDA graph can hold."""

_log = logging.getLogger(__name__)


class CancelledError(Exception):
    """The caller's keep_going returned False."""


@dataclass(frozen=True)
class CropOutput:
    """The output of an engine for a batch of crops.

    scores: [B, K, h, w] float, Σ over queries of class probability times mask probability, K the
    classes of the variant's labels. depth: [B, h, w] float in the variant's depth unit, or None
    if it was not requested.
    """

    scores: Tensor
    depth: Tensor | None


class Engine(Protocol):
    """A network that is ready to run on `device`."""

    variant: Variant
    device: torch.device

    @property
    def backend(self) -> str:
        """Name of the backend that runs."""
        ...

    @property
    def precision(self) -> str:
        """Precision of matrix products and convolutions, one of PRECISIONS."""
        ...

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Run on crops [B, 3, h, w] uint8 RGB on `device`; h and w are multiples of 32."""
        ...


@runtime_checkable
class Capturable(Protocol):
    """A program whose work a CUDA graph of the caller can hold."""

    kernels: Operation


@runtime_checkable
class CapturableEngine(Protocol):
    """An engine whose work a CUDA graph of the caller can hold."""

    def operation(self, sizes: torch.Size, depth: bool) -> Operation | None:
        """Return the work of a call for crops of sizes [B, 3, h, w]; None if there is none.

        It returns scores [B, K, h, w] and, with depth, depth [B, h, w]; both float32.
        """
        ...


@dataclass(frozen=True, order=True)
class Shape:
    """Size of a batch of images. Raises ValueError for sizes that the network does not accept."""

    height: int
    width: int
    batch: int = 1

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if side <= 0 or side % SIDE_MULTIPLE_PX:
                raise ValueError(
                    f"shape is {self.width}x{self.height}; expected WIDTHxHEIGHT, positive "
                    f"multiples of {SIDE_MULTIPLE_PX}"
                )
        if not 1 <= self.batch <= MAX_BATCH:
            raise ValueError(f"batch is {self.batch}; expected 1..{MAX_BATCH}")

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Return the shape of `480x352` or `480x352 batch 8`, width first. Raise ValueError."""
        size, _, batch = text.strip().partition(" batch ")
        width, height = parse_size(size, "shape")
        if batch and not batch.isdecimal():
            raise ValueError(f"batch is {batch!r}; expected 1..{MAX_BATCH}")
        return cls(height, width, int(batch or 1))

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Return the sizes of the input tensor: B, 3, h, w."""
        return self.batch, 3, self.height, self.width

    def __str__(self) -> str:
        return f"{self.width}x{self.height}" + (f" batch {self.batch}" if self.batch > 1 else "")


class Journal:
    """Events of engine selection and execution, for diagnostics and the terminal.

    Engines write it and any thread reads it; every attribute is replaced as a whole.
    progress: the current step, empty if none. self_check: figures of the selected engine.
    refused: name and reason of each candidate that was rejected. notes: by subject, why the engine
    does not run as configured. trouble: why it cannot run at all. on_progress: called with every
    new progress text.
    """

    def __init__(self, on_progress: Callable[[str], None] = lambda text: None) -> None:
        self.progress = ""
        self.self_check = ""
        self.refused: tuple[tuple[str, str], ...] = ()
        self.notes: dict[str, str] = {}
        self.trouble = ""
        self._on_progress = on_progress

    def proceed(self, text: str) -> None:
        """Set the current step; an empty text ends it."""
        self.progress = text
        if text:
            self._on_progress(text)

    def refuse(self, engine: str, reason: str) -> None:
        """Record a candidate that was rejected, and log a warning."""
        self.refused = (*self.refused, (engine, reason))
        _log.warning("engine %s refused: %s", engine, reason)

    def note(self, subject: str, text: str) -> None:
        """Record a condition of the running engine; a changed text is logged once."""
        if self.notes.get(subject) != text:
            self.notes = {**self.notes, subject: text}
            _log.warning("%s", text)

    def resolve(self, subject: str) -> None:
        """Remove the note of a subject."""
        self.notes = {name: text for name, text in self.notes.items() if name != subject}

    def fail(self, text: str) -> None:
        """Record that the engine cannot run any more."""
        self.trouble = text


def fast_precisions(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that are faster than fp32 on the device, the preferred one first."""
    if device.type == "cpu":
        return ("bf16",) if cpu_flags() & FAST_BF16_FLAGS else ()
    if device.type == "cuda":
        # At equal speed fp16 has three more mantissa bits than bf16; bf16 has the larger range.
        return ("fp16", "bf16") if torch.cuda.get_device_capability(device)[0] >= 8 else ("fp16",)
    return ()


@functools.cache
def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Return the processor features that Linux lists; empty if it lists none."""
    try:
        lines = cpuinfo.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    # x86: "flags : fpu …"; ARM: "Features : fp asimd …"
    line = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return frozenset(line.partition(":")[2].split())
