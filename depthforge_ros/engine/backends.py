# SPDX-License-Identifier: Apache-2.0
"""What compiles networks, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from depthforge_ros.engine import inductor, tensorrt
from depthforge_ros.engine.cuda_graph import Program
from depthforge_ros.engine.shape import Shape
from depthforge_ros.network.depthforge import DepthForge

EAGER = "eager"


class Backend(Protocol):
    """What a module offers to be a backend; inductor.py says more."""

    def missing(self, device: torch.device) -> str:
        """What is not there to run."""
        ...

    def missing_to_build(self, device: torch.device) -> str:
        """What is not there to build."""
        ...

    def versions(self) -> dict[str, str]:
        """What an engine depends on, beyond PyTorch."""
        ...

    def build(self, network: DepthForge, shape: Shape, precision: str, folder: Path) -> None:
        """Compile into an empty folder."""
        ...

    def load(self, folder: Path, shape: Shape, device: torch.device) -> Program:
        """What `build` left there, ready to run."""
        ...


BACKENDS: Mapping[str, Backend] = {"tensorrt": tensorrt, "inductor": inductor}
"""The fastest first."""
