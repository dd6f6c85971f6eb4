# SPDX-License-Identifier: Apache-2.0
"""Backends: compilers that turn the network of one shape into a program, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from depthforge_ros.engine.backends import openvino, tensorrt
from depthforge_ros.engine.engine import Program, Shape
from depthforge_ros.network.depthforge import DepthForge


class Backend(Protocol):
    """The functions that the module of a backend defines."""

    def missing(self, device: torch.device) -> str:
        """Return what is missing to run on the device; empty if nothing is."""
        ...

    def missing_to_build(self, device: torch.device) -> str:
        """Return what is missing to build for the device; empty if nothing is."""
        ...

    def versions(self) -> dict[str, str]:
        """Return the versions that an engine depends on, besides PyTorch's, for the cache key."""
        ...

    def build(self, network: DepthForge, shape: Shape, precision: str, folder: Path) -> None:
        """Compile the network into `folder`, which exists and is empty."""
        ...

    def load(self, folder: Path, shape: Shape, device: torch.device) -> Program:
        """Load what `build` wrote into `folder`, ready to run."""
        ...


OPENVINO = "openvino"
BACKENDS: Mapping[str, Backend] = {"tensorrt": tensorrt, OPENVINO: openvino}
"""In the order of preference, the fastest first."""


def backend_on(name: str, target: str = "") -> Backend:
    """Return a backend by its name. target: its device in OpenVINO if that is not the CPU."""
    return openvino.OnTarget(target) if target and name == OPENVINO else BACKENDS[name]
