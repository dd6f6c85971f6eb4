# SPDX-License-Identifier: Apache-2.0
"""Load networks: from the name of a variant and its checkpoint files to an eager engine."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.engine.engine import AUTO
from depthforge_ros.engine.fake import FakeEngine
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.weights import WeightsError, load_weights
from depthforge_ros.resources import weights_folder
from depthforge_ros.variant import Variant, models_dir

UNTRAINED = "untrained"
INSTANT = "instant"
UNTRAINED_SEED = 0
ENCODERS_SUFFIX = ".encoders.safetensors"
"""With a variant's name before it: the file of its frozen encoders, without an adapter."""

_log = logging.getLogger(__name__)


def build_engine(
    variant: Variant, checkpoint: str = "", *, device: str = AUTO, precision: str = "fp32"
) -> EagerEngine | FakeEngine:
    """Return an eager engine without a self-check; `select_engine` selects and checks one.

    checkpoint: a file, several files joined by commas (such as frozen encoders and an adapter), ""
    for the weights that ship with the variant or were fetched or converted for it, `untrained` for
    seeded random weights, or `instant` for a FakeEngine. device: `auto` (CUDA if available), or an
    argument of torch.device.

    Raises ValueError naming the device, WeightsError naming the file and every fault.
    """
    if checkpoint == INSTANT:
        return FakeEngine(variant)
    target = pick_device(device)
    return EagerEngine(load_network(variant, checkpoint), target, precision)


def load_network(variant: Variant, checkpoint: str) -> DepthForge:
    """Return the network on the CPU; checkpoint: see `build_engine`, except `instant`.

    Raises WeightsError naming the file and every fault.
    """
    if checkpoint == UNTRAINED:
        _log.warning("variant %s has random weights: its outputs are meaningless", variant.name)
        return untrained_network(variant)
    paths = checkpoint_files(variant, checkpoint)
    with torch.device("meta"):
        network = DepthForge(variant)
    network = network.to_empty(device="cpu")
    network.set_constants()
    load_weights(network, variant, paths)
    return network


def checkpoint_files(variant: Variant, checkpoint: str) -> list[Path]:
    """Return the files that a checkpoint names, ~ expanded; "" means default_checkpoint.

    Raises WeightsError if the variant has no default checkpoint.
    """
    if not checkpoint:
        return [default_checkpoint(variant)]
    return [Path(part.strip()).expanduser() for part in checkpoint.split(",")]


def default_checkpoint(variant: Variant) -> Path:
    """Return the checkpoint that ships with the variant, else the one fetched or converted for it.

    Raises WeightsError if there is none.
    """
    name = f"{variant.name}.safetensors"
    paths = [models_dir() / "checkpoints" / name, weights_folder() / name]
    found = next((path for path in paths if path.is_file()), None)
    if found is not None:
        return found
    encoders = weights_folder() / f"{variant.name}{ENCODERS_SUFFIX}"
    hint = (
        f"{encoders} holds only its encoders; give that file and a trained adapter, joined by "
        "a comma"
        if encoders.is_file()
        else "give a checkpoint file"
    )
    raise WeightsError(
        f"no weights of variant {variant.name!r} at {paths[0]} or {paths[1]}; {hint}, or "
        f"{UNTRAINED!r} for random ones"
    )


def untrained_network(variant: Variant) -> DepthForge:
    """Return the network with seeded random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        return DepthForge(variant)


def pick_device(name: str) -> torch.device:
    """Return a device that works. Raises ValueError naming the device and the available ones."""
    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        available = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device {name!r} is not available ({reason}); available: {', '.join(available)}"
        ) from error
    return device
