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
from depthforge_ros.resources import weights_folder
from depthforge_ros.variant import Variant, models_dir

UNTRAINED = "untrained"
INSTANT = "instant"
UNTRAINED_SEED = 0
ENCODERS_SUFFIX = ".encoders.safetensors"
"""After a variant's name: the file of its frozen encoders, without an adapter."""

_log = logging.getLogger(__name__)


def build_engine(
    variant: Variant, checkpoint: str = "", *, device: str = "auto", precision: str = "fp32"
) -> EagerEngine | InstantEngine:
    """An eager engine for the variant, unchecked; `ready_engine` chooses and checks one.

    checkpoint: a file, several joined by commas (say frozen encoders and an adapter), "" for the
    weights that ship with the variant or were converted for it, `untrained` for seeded random
    weights, whose masks mean nothing, or `instant` for an engine that answers at once without a
    network. device: `auto` (CUDA where there is one), or what torch.device takes.

    Raises ValueError naming the device, WeightsError naming the file and every fault.
    """
    if checkpoint == INSTANT:
        return InstantEngine(variant)
    target = pick_device(device)
    return EagerEngine(load_network(variant, checkpoint), target, precision)


def load_network(variant: Variant, checkpoint: str) -> DepthForge:
    """The network on the CPU, with the weights that `build_engine` describes, but for INSTANT.

    Raises WeightsError naming the file and every fault.
    """
    if checkpoint == UNTRAINED:
        _log.warning("variant %s runs on random weights: its masks mean nothing", variant.name)
        return untrained_network(variant)
    paths = checkpoint_files(variant, checkpoint)
    with torch.device("meta"):
        network = DepthForge(variant)
    network = network.to_empty(device="cpu")
    network.set_constants()
    load_weights(network, variant, paths)
    return network


def checkpoint_files(variant: Variant, checkpoint: str) -> list[Path]:
    """The files that a checkpoint names, ~ expanded; without a name the variant's own.

    Raises WeightsError where there is none of the variant's own.
    """
    if not checkpoint:
        return [default_checkpoint(variant)]
    return [Path(part.strip()).expanduser() for part in checkpoint.split(",")]


def default_checkpoint(variant: Variant) -> Path:
    """The variant's own checkpoint: the one that ships with it, else the one fetched or converted.

    Raises WeightsError where there is none, saying what there is instead.
    """
    name = f"{variant.name}.safetensors"
    places = [models_dir() / "checkpoints" / name, weights_folder() / name]
    found = next((path for path in places if path.is_file()), None)
    if found is not None:
        return found
    encoders = weights_folder() / f"{variant.name}{ENCODERS_SUFFIX}"
    hint = (
        f"{encoders} holds its encoders alone; give that file and a trained adapter, joined by "
        "a comma"
        if encoders.is_file()
        else "give a checkpoint file"
    )
    raise WeightsError(
        f"no weights of variant {variant.name!r} at {places[0]} or {places[1]}; {hint}, or "
        f"{UNTRAINED!r} to try the machinery with random ones"
    )


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
