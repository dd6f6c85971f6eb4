# SPDX-License-Identifier: Apache-2.0
"""Names of our parameters in the authors' checkpoints, and detection of a file's layout."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

_DPT = "backbone.depth_anything.depth_head."
_SCRATCH = _DPT + "scratch."

AUTHOR_PREFIXES: dict[str, str] = {
    "visual.patch_embed.": "backbone.patch_embed.proj.",
    "visual.": "backbone.",
    "depth.patch_embed.": "backbone.depth_anything.pretrained.patch_embed.proj.",
    "depth.": "backbone.depth_anything.pretrained.",
    "depth_head.projects.": _DPT + "projects.",
    "depth_head.resizes.": _DPT + "resize_layers.",
    **{f"depth_head.skips.{i}.": f"{_SCRATCH}layer{i + 1}_rn." for i in range(4)},
    **{f"depth_head.fusions.{i}.": f"{_SCRATCH}refinenet{i + 1}." for i in range(4)},
    "depth_head.out1.": _SCRATCH + "output_conv1.",
    "depth_head.out2.": _SCRATCH + "output_conv2.0.",
    "depth_head.out3.": _SCRATCH + "output_conv2.2.",
    "tokens.a": "backbone.depthforge.learnable_tokens_a",
    "tokens.b": "backbone.depthforge.learnable_tokens_b",
    "tokens.scale": "backbone.depthforge.scale",
    "tokens.token_to_feature.": "backbone.depthforge.mlp_token2feat.",
    "tokens.delta.": "backbone.depthforge.mlp_delta_f.",
    "tokens.to_query.": "backbone.depthforge.transform.",
    "tokens.merge.": "backbone.depthforge.merge.",
    "refinement.channel_gate.": "decode_head.DQCM.attention_gate.channel_attention.",
    "refinement.spatial_gate.0.": "decode_head.DQCM.attention_gate.spatial_attention.",
    "refinement.fuse.": "decode_head.DQCM.linear_fuse.",
    "pixel_decoder.layers.": "decode_head.pixel_decoder.encoder.layers.",
    "pixel_decoder.level_encoding": "decode_head.pixel_decoder.level_encoding.weight",
    "pixel_decoder.lateral_conv.": "decode_head.pixel_decoder.lateral_convs.0.",
    "pixel_decoder.output_conv.": "decode_head.pixel_decoder.output_convs.0.",
    "pixel_decoder.": "decode_head.pixel_decoder.",
    "mask_decoder.query_content.": "decode_head.querys2feat.",
    "mask_decoder.level_embed": "decode_head.level_embed.weight",
    "mask_decoder.layers.": "decode_head.transformer_decoder.layers.",
    "mask_decoder.norm.": "decode_head.transformer_decoder.post_norm.",
    "mask_decoder.class_head.": "decode_head.cls_embed.",
    "mask_decoder.mask_head.": "decode_head.mask_embed.",
}
"""Our prefix -> the authors', the first match wins."""

AUTHOR_INFIXES: dict[str, dict[str, str]] = {
    "depth_head.": {".skip_unit.": ".resConfUnit1.", ".unit.": ".resConfUnit2."},
    "pixel_decoder.": {
        ".norm.": ".gn.",
        ".norm1.": ".norms.0.",
        ".norm2.": ".norms.1.",
        ".ffn.0.": ".ffn.layers.0.0.",
        ".ffn.2.": ".ffn.layers.1.",
    },
    "mask_decoder.layers.": {
        ".norm1.": ".norms.0.",
        ".norm2.": ".norms.1.",
        ".norm3.": ".norms.2.",
        ".ffn.0.": ".ffn.layers.0.0.",
        ".ffn.2.": ".ffn.layers.1.",
        "_attn.in_proj.": "_attn.attn.in_proj_",
        "_attn.out_proj.": "_attn.attn.out_proj.",
    },
}
"""By prefix of our names: our substring -> the authors'."""

STORED_BUT_UNUSED = ("mask_token", "refinenet4.resConfUnit1.", "rope.freqs_")
"""Parts of names that author files hold and no forward pass reads: ours computes its rotations."""


class Layout(Enum):
    """Convention of the names in a file; the value describes it."""

    OURS = "depthforge_ros"
    AUTHORS = "a DepthForge training checkpoint"
    FROZEN = "DepthForge's frozen encoders"
    DEPTH_ANYTHING = "Depth Anything V2"
    DINOV2 = "DINOv2"
    EVA02 = "EVA02"
    REIN = "a Rein training checkpoint"


OFFICIAL = (Layout.DEPTH_ANYTHING, Layout.DINOV2, Layout.EVA02)
"""Published encoders: 14-pixel patches, and names without the part of the network."""


def layout_of(names: Collection[str]) -> Layout | None:
    """Return the layout of these names, None if unknown."""

    def any_begins(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if any_begins("backbone.reins."):
        return Layout.REIN
    if any_begins("backbone.depthforge.", "backbone.blocks.", "decode_head."):
        return Layout.AUTHORS
    if any_begins("depth_anything."):
        return Layout.FROZEN
    if any_begins("pretrained.blocks."):
        return Layout.DEPTH_ANYTHING
    if any_begins("blocks."):
        eva = any(".mlp.ffn_ln." in name or ".attn.q_bias" in name for name in names)
        return Layout.EVA02 if eva else Layout.DINOV2
    if any_begins("visual.", "depth.", "depth_head.", "tokens.", "mask_decoder."):
        return Layout.OURS
    return None


def author_name(name: str) -> str:
    """Return the name of one of our parameters in the authors' checkpoints."""
    prefix = next((p for p in AUTHOR_PREFIXES if name.startswith(p)), None)
    if prefix is None:
        raise KeyError(f"{name} has no name in the authors' checkpoints")
    translated = AUTHOR_PREFIXES[prefix] + name[len(prefix) :]
    for begin, infixes in AUTHOR_INFIXES.items():
        if name.startswith(begin):
            for ours, theirs in infixes.items():
                translated = translated.replace(ours, theirs)
    return translated


def aliases_of(name: str) -> tuple[str, ...]:
    """Return our name, the authors', theirs in files of frozen weights alone, and Rein's."""
    theirs = author_name(name)
    rein = theirs.replace("backbone.depthforge.", "backbone.reins.")
    return name, theirs, theirs.removeprefix("backbone."), rein
