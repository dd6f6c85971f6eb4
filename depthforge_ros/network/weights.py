# SPDX-License-Identifier: Apache-2.0
"""Reading and writing weights: our files and the authors', strictly, and never by unpickling code.

A file is safetensors, or a `.pth` that `torch.load(weights_only=True)` accepts. Its names are ours
(`visual.blocks.0…`) or the authors' (`backbone.blocks.0…`, in files of frozen weights alone
`blocks.0…`); the map between them stands in this file.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from depthforge_ros.variant import (
    Variant,
    variant_differences,
    variant_from_mapping,
    variant_to_mapping,
)

VARIANT_KEY = "depthforge.variant"
"""Metadata key of our safetensors files: the variant as JSON."""

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
"""Within names of ours that begin so: our part -> the authors'."""

STORED_BUT_UNUSED = ("mask_token", "refinenet4.resConfUnit1.")
"""Parts of names that author files hold and no forward pass reads."""


class WeightsError(ValueError):
    """Weights are absent, damaged, or not of this network; the text says which and how."""


def author_name(name: str) -> str:
    """What the authors' checkpoints call one of our parameters."""
    prefix = next((p for p in AUTHOR_PREFIXES if name.startswith(p)), None)
    if prefix is None:
        raise KeyError(f"{name} has no name in the authors' checkpoints")
    translated = AUTHOR_PREFIXES[prefix] + name[len(prefix) :]
    for begin, infixes in AUTHOR_INFIXES.items():
        if name.startswith(begin):
            for ours, theirs in infixes.items():
                translated = translated.replace(ours, theirs)
    return translated


def load_weights(network: nn.Module, variant: Variant, paths: Sequence[Path]) -> None:
    """Fill the network from one file, or from several that complete each other.

    Raises WeightsError listing every missing, unexpected, misshapen and doubled name; the network
    is then unchanged. Half-precision weights are widened to the network's type.
    """
    wanted = dict(network.state_dict())
    aliases = {alias: name for name in wanted for alias in _aliases(name)}
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


def read_weights(path: Path) -> tuple[dict[str, Tensor], Variant | None]:
    """Tensors by name, and the variant where the file is ours and carries it.

    Raises WeightsError where the file is absent, damaged, or would have to run code to load.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                stored = (file.metadata() or {}).get(VARIANT_KEY)
                variant = None if stored is None else variant_from_mapping(json.loads(stored))
                return {key: file.get_tensor(key) for key in file.keys()}, variant  # noqa: SIM118
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds {type(content).__name__}; wanted tensors by name")
    odd = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if odd:
        raise WeightsError(f"{path} holds {odd[0]!r}, which is not a tensor")
    return content, None


def save_weights(
    state: Mapping[str, Tensor],
    variant: Variant,
    path: Path,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write our kind of file: safetensors with the variant inside, whole or not at all.

    notes: further metadata, say training step or figures. Raises OSError; an older file of that
    name is then untouched.
    """
    metadata = {VARIANT_KEY: json.dumps(variant_to_mapping(variant)), **(notes or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file({key: value.contiguous() for key, value in state.items()}, partial, metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _aliases(name: str) -> tuple[str, ...]:
    theirs = author_name(name)
    return name, theirs, theirs.removeprefix("backbone.")
