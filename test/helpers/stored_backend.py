# SPDX-License-Identifier: Apache-2.0
"""A backend without a compiler: a build stores the weights, and the program runs them in eager."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from depthforge_ros.engine.backends import BACKENDS
from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.variant import Variant

NAME = "stored"
FILE = "network.safetensors"
variants: list[Variant] = []


def install(patch: pytest.MonkeyPatch, variant: Variant) -> None:
    """Make the backend known for the duration of a test, for networks of one variant."""
    patch.setitem(BACKENDS, NAME, sys.modules[__name__])
    variants[:] = [variant]


def missing(device: torch.device) -> str:
    return ""


def missing_to_build(device: torch.device) -> str:
    return ""


def versions() -> dict[str, str]:
    return {"stored": "1"}


def build(network, shape, precision, folder: Path) -> None:
    save_file(network.state_dict(), folder / FILE, metadata={"precision": precision})


def load(folder: Path, shape, device):
    network = DepthForge(variants[0])
    network.load_state_dict(load_file(folder / FILE))
    engine = EagerEngine(network, device)

    def program(images):
        assert images.shape == shape.sizes
        output = engine(images, depth=True)
        return output.scores, output.depth

    return program
