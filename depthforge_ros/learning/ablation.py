# SPDX-License-Identifier: Apache-2.0
"""Does depth help? The method with parts of it made ineffective, by weights and nothing else.

A part that is switched off has weights under which it changes nothing, exactly, and they are never
trained. So all three models cost the same, their files are ordinary weights of the variant, and
the code that runs them is the code that drives.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import nn

from depthforge_ros.network.depthforge import DepthForge


class Ablation(Enum):
    """What the method may use."""

    NONE = "none"
    """Neither tokens in the encoder nor the refinement decoder: a Mask2Former head on frozen
    features. The tokens still make the head's queries."""
    TOKENS = "tokens"
    """Tokens that see visual features only; no refinement decoder."""
    DEPTH = "depth"
    """Depth-aware tokens and the refinement decoder: the paper."""


def switch_off(network: DepthForge, ablation: Ablation) -> None:
    """Make ineffective what the ablation leaves out, and exclude it from training.

    To be called once the frozen weights are loaded and the adapter parts are set to be trained.
    """
    if ablation is Ablation.DEPTH:
        return
    # finest + fuse(...) = finest
    _freeze(network.refinement)
    _zero(network.refinement.fuse)
    if ablation is Ablation.NONE:
        # f + s·W_f(...) = f for s = 0
        tokens = network.tokens
        tokens.scale.requires_grad_(False)
        tokens.scale.data.zero_()
        _freeze(tokens.token_to_feature)
        _freeze(tokens.delta)
    else:
        # An encoder without weights gives d = 0, so w = softmax(f·Tᵀ / √C). Its depth head is
        # left with nothing to say.
        _zero(network.depth)


def _freeze(module: nn.Module) -> None:
    module.requires_grad_(False)


@torch.no_grad()
def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.zero_()
