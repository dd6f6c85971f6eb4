# SPDX-License-Identifier: Apache-2.0
"""Files of weights: safetensors of ours, or `.pth` that `torch.load(weights_only=True)` accepts.

Opening a file reads names and shapes; a tensor is read when it is requested, so that two copies
of a large network never meet in memory.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from depthforge_ros.variant import Variant, variant_from_mapping, variant_to_mapping

VARIANT_KEY = "depthforge.variant"
"""Metadata key of our safetensors files: the variant as JSON."""

WRAPPERS = ("state_dict", "model", "module")
"""Keys under which training programs keep the weights beside everything else."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before the name of every weight."""

MAPPED_BYTES = 64 << 20
"""Bytes read through one mapping of a file, which is then closed to release its pages."""


class WeightsError(ValueError):
    """Weights are missing, damaged, or of another network; the text says which and why."""


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights, open for reading.

    shapes, dtypes: of every tensor by its name in the file. variant: where the file is ours and
    carries it. notes: further metadata. config: text of the configuration that mmengine stores in
    a training checkpoint, "" if there is none.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    variant: Variant | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, Tensor] | None = field(default=None, repr=False)
    config: str = field(default="", repr=False)

    def numbers(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield these tensors as `tensors` does. Raise WeightsError if one is not all numbers."""
        for name, tensor in self.tensors(names):
            if not tensor.is_floating_point():  # quantised weights need scales that nothing reads
                raise WeightsError(
                    f"{self.path}: {name} is {tensor.dtype}; expected floating-point numbers"
                )
            if not (finite := tensor.isfinite()).all():
                count = finite.numel() - int(finite.sum())
                raise WeightsError(f"{self.path}: {count} numbers of {name} are not finite")
            yield name, tensor

    def tensors(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield these tensors. Copy a tensor that must outlive the next one.

        Raise WeightsError if the file is no longer what was opened.
        """
        if self.content is not None:
            yield from ((name, self.content[name]) for name in names)
            return
        waiting = list(names)
        while waiting:
            with _opened(self.path) as file:
                budget = MAPPED_BYTES
                while waiting and budget > 0:
                    tensor = file.get_tensor(waiting[0])
                    yield waiting.pop(0), tensor
                    budget -= tensor.nbytes
                    del tensor


def open_weights(path: Path) -> WeightsFile:
    """Return names, shapes and variant of a file.

    Raise WeightsError if it is absent, damaged, or would have to run code to load.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    stored = _unpickled(path)
    content = _unwrapped(stored, path)
    meta = stored.get("meta")
    config = meta.get("cfg") if isinstance(meta, dict) else None
    return WeightsFile(
        path,
        {key: tuple(value.shape) for key, value in content.items()},
        {key: value.dtype for key, value in content.items()},
        content=content,
        config=config if isinstance(config, str) else "",
    )


def read_weights(path: Path) -> tuple[dict[str, Tensor], Variant | None]:
    """Return tensors by name, and the variant if the file is ours and stores it.

    Raise WeightsError if the file is absent, damaged, or would have to run code to load.
    """
    file = open_weights(path)
    return dict(file.tensors(file.shapes)), file.variant


def save_weights(
    state: Mapping[str, Tensor],
    variant: Variant,
    path: Path,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file with the variant in its metadata, atomically.

    notes: further metadata, say training step or figures. Raise OSError; an older file of that
    name is then untouched.
    """
    metadata = {VARIANT_KEY: json.dumps(variant_to_mapping(variant)), **(notes or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.touch()
        mode = (
            partial.stat().st_mode & 0o777
        )  # safetensors makes files readable by their owner only
        save_file({key: value.contiguous() for key, value in state.items()}, partial, metadata)
        partial.chmod(mode)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error


def _open_safetensors(path: Path) -> WeightsFile:
    with _opened(path) as file:
        notes = dict(file.metadata() or {})
        shapes, dtypes = {}, {}
        for key in file.keys():  # noqa: SIM118
            view = file.get_slice(key)
            shapes[key] = tuple(view.get_shape())
            dtypes[key] = (view[:0] if shapes[key] else file.get_tensor(key)).dtype
    try:
        stored = notes.pop(VARIANT_KEY, None)
        variant = None if stored is None else variant_from_mapping(json.loads(stored))
    except ValueError as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    return WeightsFile(path, shapes, dtypes, variant, notes)


def _unpickled(path: Path) -> Any:
    try:
        with _inert_training_log():
            return torch.load(
                path,
                map_location="cpu",
                weights_only=True,
                mmap=zipfile.is_zipfile(path),  # files of before PyTorch 1.6 are no archives
            )
    except pickle.UnpicklingError as error:
        needs = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it needs {needs[1]!r} beside tensors, and loading that could run code; "
            "ask its authors for the bare weights, or save them alone if you trust the file"
            if needs
            else " ".join(str(error).split())
        )
        raise WeightsError(f"{path} cannot be read as weights: {reason}") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    except Exception as error:  # whatever other bytes lead the unpickler to
        reason = str(error) if isinstance(error, RuntimeError | ValueError) else ""
        text = reason or "it is no file of torch.save"
        raise WeightsError(f"{path} cannot be read as weights: {text}") from error


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, dict):
        inner = next((content[w] for w in WRAPPERS if isinstance(content.get(w), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds {type(content).__name__}; expected tensors by name")
    odd = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if odd:
        raise WeightsError(f"{path} holds {odd[0]!r}, which is not a tensor")
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in content)), ""):
        content = {key.removeprefix(prefix): value for key, value in content.items()}
    return content


class _Inert:
    """Replaces the objects of a training log; accepts any arguments and ignores them."""

    def __new__(cls, *_: object) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


TRAINING_LOG = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "builtins.getattr",
)
"""Types of the loss curves that mmengine stores with the weights; replaced by `_Inert`."""


def _inert_training_log() -> AbstractContextManager[None]:
    """Return a context in which TRAINING_LOG unpickles to inert objects instead of failing."""
    safe_globals = getattr(torch.serialization, "safe_globals", None)  # from PyTorch 2.5 on
    if safe_globals is None:
        return nullcontext()
    stand_ins = []
    for name in TRAINING_LOG:
        module, _, qualified = name.rpartition(".")
        stand_ins.append(type(qualified, (_Inert,), {"__module__": module}))
    return safe_globals(stand_ins)
