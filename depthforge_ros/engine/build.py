# SPDX-License-Identifier: Apache-2.0
"""From the name of a variant and a checkpoint to an engine that is ready to run."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.engine.instant import InstantEngine
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.weights import WeightsError, load_weights
from depthforge_ros.variant import Variant, models_dir

UNTRAINED = "untrained"
INSTANT = "instant"
UNTRAINED_SEED = 0

_log = logging.getLogger(__name__)


def build_engine(
    variant: Variant, checkpoint: str = "", *, device: str = "auto", precision: str = "fp32"
) -> EagerEngine | InstantEngine:
    """An engine for the variant.

    checkpoint: a file, several joined by commas (say frozen encoders and an adapter), "" for the
    weights that ship with the variant, `untrained` for seeded random weights, whose masks mean
    nothing, or `instant` for an engine that answers at once without a network. device: `auto`
    (CUDA where there is one), or what torch.device takes.

    Raises ValueError naming the device, WeightsError naming the file and every fault.
    """
    if checkpoint == INSTANT:
        return InstantEngine(variant)
    target = pick_device(device)
    if checkpoint == UNTRAINED:
        _log.warning("variant %s runs on random weights: its masks mean nothing", variant.name)
        return EagerEngine(untrained_network(variant), target, precision)
    paths = [Path(part) for part in checkpoint.split(",")] if checkpoint else [shipped(variant)]
    with torch.device("meta"):
        network = DepthForge(variant)
    network = network.to_empty(device="cpu")
    network.set_constants()
    load_weights(network, variant, paths)
    return EagerEngine(network, target, precision)


def shipped(variant: Variant) -> Path:
    """The checkpoint that ships with a variant. Raises WeightsError where none does."""
    path = models_dir() / "checkpoints" / f"{variant.name}.safetensors"
    if not path.is_file():
        raise WeightsError(
            f"no weights ship with variant {variant.name!r}; give a checkpoint file, or "
            f"{UNTRAINED!r} to try the machinery with random ones"
        )
    return path


def untrained_network(variant: Variant) -> DepthForge:
    """Random weights, the same ones every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        return DepthForge(variant)


def pick_device(name: str) -> torch.device:
    """A device that answers. Raises ValueError naming what was asked for and what there is."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device {name!r} is not here ({reason}); here: {', '.join(there)}"
        ) from error
    return device
