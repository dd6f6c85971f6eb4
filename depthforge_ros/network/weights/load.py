# SPDX-License-Identifier: Apache-2.0
"""Filling a network from files of weights, strictly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from depthforge_ros.network.weights.files import WeightsError, read_weights
from depthforge_ros.network.weights.names import STORED_BUT_UNUSED, aliases_of
from depthforge_ros.variant import Variant, variant_differences


def load_weights(network: nn.Module, variant: Variant, paths: Sequence[Path]) -> None:
    """Fill the network from one file, or from several that complete each other.

    Raises WeightsError listing every missing, unexpected, misshapen and doubled name; the network
    is then unchanged. Half-precision weights are widened to the network's type.
    """
    wanted = dict(network.state_dict())
    aliases = {alias: name for name in wanted for alias in aliases_of(name)}
    found: dict[str, tuple[Tensor, Path]] = {}
    faults: list[str] = []
    for path in paths:
        state, stored = read_weights(path)
        if stored is not None and (differences := variant_differences(stored, variant)):
            raise WeightsError(
                f"{path} holds variant {stored.name!r}, wanted {variant.name!r}: "
                + "; ".join(differences)
            )
        for key, tensor in state.items():
            name = aliases.get(key)
            if name is None:
                if not any(part in key for part in STORED_BUT_UNUSED):
                    faults.append(f"unexpected {key} in {path.name}")
            elif name in found:
                faults.append(f"{key} is in {found[name][1].name} and in {path.name}")
            elif tensor.shape != wanted[name].shape:
                faults.append(f"{key} is {list(tensor.shape)}, wanted {list(wanted[name].shape)}")
                found[name] = (tensor, path)
            else:
                found[name] = (tensor, path)
    faults += [f"missing {name}" for name in wanted if name not in found]
    if faults:
        names = ", ".join(str(path) for path in paths)
        raise WeightsError(
            f"{names} does not fit variant {variant.name!r}, {len(faults)} faults:\n  "
            + "\n  ".join(faults)
        )
    with torch.no_grad():
        for name, (tensor, _) in found.items():
            wanted[name].copy_(tensor)
