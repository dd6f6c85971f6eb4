# SPDX-License-Identifier: Apache-2.0
"""What makes a folded network fast in eager mode on a CPU. Nothing here changes what it computes.

PyTorch gives fp32 products to MKL, which runs at half speed on processors of other makers, and
attention in bf16 to a kernel that is slower than the products it consists of. Here both go to
oneDNN, by the operators that PyTorch's own compiler calls, with weights laid out once. Maps that no
cache holds are made strip by strip.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from depthforge_ros.network.deploy.encoders import DeployedBlock, FeedForward
from depthforge_ros.network.deploy.layers import Conv, Linear, TransposedConv
from depthforge_ros.network.deploy.network import Folded
from depthforge_ros.network.deploy.pixel_decoder import DeployedAttention
from depthforge_ros.network.deploy.sampling import sample_by_bags
from depthforge_ros.network.deploy.tiled_resize import resized_strip, strips_of

STRIP_ELEMENTS = 2**20
"""Of a strip of a large map: a few such buffers fit a processor's cache."""

WEIGHTS_AT_ONCE = 5 * 2**19
"""Attention weights at once: two heads of ViT-L's 1025 tokens, 5 MB in bf16."""

ONEDNN_TYPES = (torch.float32, torch.bfloat16)

FEW_TOKENS = 256
"""Attention of fewer is too little work to be worth many calls."""


def tune(folded: Folded) -> Folded:
    """The same network, prepared for eager mode on the CPU; not for export any more.

    Elsewhere than on a CPU, or without oneDNN, it stays as it is.
    """
    if folded.tokens.delta.weight.device.type != "cpu":
        return folded
    folded.refinement.strip_elements = STRIP_ELEMENTS
    folded.scores = scores_by_strips
    for module in folded.modules():
        if isinstance(module, DeployedAttention):
            module.sample = sample_by_bags
    if not has_onednn():
        return folded
    for module in folded.modules():
        if isinstance(module, Linear) and module.dtype in ONEDNN_TYPES:
            module.weight = laid_out(module.weight)
            module.multiply = multiply
        elif isinstance(module, Conv | TransposedConv):
            # Maps are channels last; oneDNN follows the weight, and else turns each of them over.
            module.weight = module.weight.contiguous(memory_format=torch.channels_last)
        elif isinstance(module, DeployedBlock) and module.qkv.dtype == torch.bfloat16:
            module.mix = attend_by_heads
        elif isinstance(module, FeedForward) and module.enter.dtype in ONEDNN_TYPES:
            module.enter_gelu = functools.partial(multiply_gelu, module.enter)
    return folded


def has_onednn() -> bool:
    """Whether this PyTorch offers the operators used here."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def laid_out(weight: Tensor) -> Tensor:
    """A matrix [outputs, inputs] in the order in which oneDNN reads it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear with a weight that is laid out."""
    # Strided rows would take oneDNN's reference kernel, which is a thousand times slower.
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def multiply_gelu(enter: Linear, x: Tensor) -> Tensor:
    """F.gelu(enter(x)) with a weight that is laid out, the GELU in the product's registers: in bf16
    it is rounded once.
    """
    x = x.to(enter.dtype).contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, enter.weight, enter.bias, "gelu", [], "none")


def attend_by_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention [B, heads, N, D], a few heads at once, so that their weights stay in the cache."""
    B, heads, N, D = q.shape
    if N < FEW_TOKENS:
        return F.scaled_dot_product_attention(q, k, v)
    q, k, v = (q * D**-0.5).contiguous(), k.contiguous(), v.contiguous()
    result = q.new_empty(B, N, heads, D)  # as the projection behind wants it
    step = max(1, WEIGHTS_AT_ONCE // N**2)
    for image in range(B):
        for first in range(0, heads, step):
            some = slice(first, first + step)
            weights = (q[image, some] @ k[image, some].transpose(1, 2)).softmax(-1)  # [some, N, N]
            result[image, :, some] = (weights @ v[image, some]).transpose(0, 1)
    return result.transpose(1, 2)


def scores_by_strips(class_logits: Tensor, mask_logits: Tensor, size: torch.Size) -> Tensor:
    """`semantic_scores` without a map of every query at full size: [B, K, H, W]."""
    classes = class_logits.softmax(-1)[..., :-1].transpose(1, 2)  # [B, K, Q]
    height, width = size
    result = mask_logits.new_empty(classes.shape[0], classes.shape[1], height, width)
    for strip in strips_of(height, width, mask_logits.shape[1], STRIP_ELEMENTS):
        masks = resized_strip(mask_logits, strip).sigmoid()
        rows = slice(strip.first, strip.first + strip.rows)
        result[:, :, rows] = (classes @ masks.flatten(2)).unflatten(2, (strip.rows, -1))
    return result
