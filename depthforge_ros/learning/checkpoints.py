# SPDX-License-Identifier: Apache-2.0
"""Saving and loading the state of a training run, and its averaged weights.

Files are written atomically: to a temporary file, flushed to the disk, then renamed. A kill or a
full disk leaves the previous file unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthforge_ros import dataclass_yaml
from depthforge_ros.file_sync import sync
from depthforge_ros.learning.config import TrainConfig
from depthforge_ros.variant import Variant, variant_differences, variant_from_mapping

STATE = "state.pt"
RESUMABLE_CHANGES = {
    "output", "workers", "threads", "save_every", "log_every", "validate_every",
    "validate_samples", "tensorboard", "validate",
}  # fmt: skip
"""Settings that may change between a run and its continuation: the loss curve stays the same."""


def remove_partials(folder: Path) -> None:
    """Delete incomplete files of a killed process; only one run may own the folder."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


class ResumeError(ValueError):
    """The saved state belongs to another run; the text names the fields that differ."""


def save_state(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the state of a run. Raise OSError; the previous state is then unchanged."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STATE
    partial = path.with_name(f".{STATE}.{os.getpid()}.partial")
    try:
        try:
            with partial.open("wb") as file:
                torch.save(dict(content), file)
                file.flush()
                os.fsync(file.fileno())
        except RuntimeError as error:  # torch's zip writer hides the disk's error
            raise OSError(f"{path} could not be written: {error}") from error
        partial.replace(path)
        sync(folder)
    finally:
        partial.unlink(missing_ok=True)


def load_state(folder: Path, config: TrainConfig, variant: Variant) -> dict[str, Any] | None:
    """Return the state of the run in `folder`, None if it never saved one.

    Raise ResumeError naming the fields if it is of another variant or configuration.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    differences = variant_differences(variant_from_mapping(state["variant"]), variant)
    if not differences:
        # Built anew, so that a setting which came later has its default in an older state.
        stored = dataclass_yaml.plain(
            dataclass_yaml.build(TrainConfig, state["config"], str(path), {})
        )
        expected = dataclass_yaml.plain(config)
        differences = [
            f"{key}: stored {stored.get(key)}, expected {expected[key]}"
            for key in expected
            if key not in RESUMABLE_CHANGES and stored.get(key) != expected[key]
        ]
    if differences:
        hint = "another `output` starts a new run"
        raise ResumeError(f"{path} is of another run: {'; '.join(differences)}; {hint}")
    return state


class Average:
    """Exponential moving average of the trained parameters, in float32 (or wider)."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Update after `step` steps. The decay starts small, so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        names = list(self.values)
        torch._foreach_lerp_(
            [self.values[name] for name in names],
            [parameters[name].detach() for name in names],
            1 - decay,
        )

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Set the average to stored values."""
        for name, value in self.values.items():
            value.copy_(values[name])


class Swapped:
    """Context in which the network has the averaged weights, if there are any."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], average: Average | None) -> None:
        self.parameters, self.average = parameters, average

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *error: object) -> None:
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        if self.average is None:
            return
        for name, value in self.average.values.items():
            parameter = self.parameters[name]
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)
