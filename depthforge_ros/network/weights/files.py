# SPDX-License-Identifier: Apache-2.0
"""Files of weights: safetensors of ours, or `.pth` that `torch.load(weights_only=True)` accepts."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from depthforge_ros.variant import Variant, variant_from_mapping, variant_to_mapping

VARIANT_KEY = "depthforge.variant"
"""Metadata key of our safetensors files: the variant as JSON."""


class WeightsError(ValueError):
    """Weights are absent, damaged, or not of this network; the text says which and how."""


def read_weights(path: Path) -> tuple[dict[str, Tensor], Variant | None]:
    """Tensors by name, and the variant where the file is ours and carries it.

    Raises WeightsError where the file is absent, damaged, or would have to run code to load.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                stored = (file.metadata() or {}).get(VARIANT_KEY)
                variant = None if stored is None else variant_from_mapping(json.loads(stored))
                return {key: file.get_tensor(key) for key in file.keys()}, variant  # noqa: SIM118
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds {type(content).__name__}; wanted tensors by name")
    odd = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if odd:
        raise WeightsError(f"{path} holds {odd[0]!r}, which is not a tensor")
    return content, None


def save_weights(
    state: Mapping[str, Tensor],
    variant: Variant,
    path: Path,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write our kind of file: safetensors with the variant inside, whole or not at all.

    notes: further metadata, say training step or figures. Raises OSError; an older file of that
    name is then untouched.
    """
    metadata = {VARIANT_KEY: json.dumps(variant_to_mapping(variant)), **(notes or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file({key: value.contiguous() for key, value in state.items()}, partial, metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
