# SPDX-License-Identifier: Apache-2.0
"""Ways to run one network that can be compared."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from depthforge_ros.network.deploy import Deployed, Folded, tune
from depthforge_ros.network.depthforge import DepthForge

SETTINGS = {
    "plain": "as the authors compute it: nothing folded, softmax attention written out, fp32",
    "unfolded": "nothing folded, PyTorch's attention, fp32",
    "fp32": "the eager engine in fp32",
    "bf16": "the eager engine in bf16",
}


class WrittenOutAttention(TorchFunctionMode):
    """While active, attention is softmax(q·kᵀ / √D)·v in three steps."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return written_out(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def written_out(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Attention [..., N, D]; attn_mask: True where to look."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, float("-inf"))
    return logits.softmax(-1) @ v


@dataclass(frozen=True)
class Prepared:
    """A network as a setting runs it. countable: the same one as torch can count its operations."""

    network: DepthForge | Deployed
    written_out: bool
    dtype: torch.dtype

    def mode(self) -> AbstractContextManager[Any]:
        """What has to be active while the network runs."""
        return WrittenOutAttention() if self.written_out else nullcontext()


def prepare(name: str, network: DepthForge, height: int, width: int) -> Prepared:
    """The network as SETTINGS name it, for one size. Raises ValueError naming the setting."""
    if name not in SETTINGS:
        raise ValueError(f"setting is {name!r}; expected one of {', '.join(SETTINGS)}")
    if name in ("plain", "unfolded"):
        return Prepared(network.at_size(height, width), name == "plain", torch.float32)
    half = torch.bfloat16 if name == "bf16" else None
    folded = tune(Folded(network, half))
    return Prepared(folded.at_size(height, width), False, half or torch.float32)


def countable(name: str, variant_network: DepthForge, height: int, width: int) -> Prepared:
    """The same setting without weights, on the meta device, for counting operations."""
    if name in ("plain", "unfolded"):
        return Prepared(variant_network.at_size(height, width), name == "plain", torch.float32)
    return Prepared(Folded(variant_network).at_size(height, width), False, torch.float32)
