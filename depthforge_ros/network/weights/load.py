# SPDX-License-Identifier: Apache-2.0
"""Loads files of weights into a network, strictly."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from depthforge_ros.network.weights.files import WeightsError, WeightsFile, open_weights
from depthforge_ros.network.weights.names import (
    OFFICIAL,
    STORED_BUT_UNUSED,
    Layout,
    aliases_of,
    layout_of,
)
from depthforge_ros.network.weights.sizes import other_sizes, shapes_by_our_names
from depthforge_ros.variant import Variant, variant_differences

ENCODER_PARTS = ("visual", "depth", "depth_head")
COMMON_FIELDS = {"name", "crop", "mean", "std"}
"""Fields of a variant that every part depends on."""

MAX_LISTED = 12
"""Faults of names that an error lists."""

DEPTH_ENCODER_NAMES = ("depth.", "depth_anything.pretrained.")

_log = logging.getLogger(__name__)


def load_weights(network: nn.Module, variant: Variant, paths: Sequence[Path]) -> None:
    """Fill the network from one file, or from several that complete each other.

    A part that several files hold comes from the last of them, whole. Logs which part came from
    which file. Raise WeightsError naming widths, depths and label sets that differ and missing,
    unexpected and misshapen names; the network is then unchanged. Also raise it if a weight is not
    finite, with part of the weights loaded. Half-precision weights are widened to the network's
    type.
    """
    expected = dict(network.state_dict())
    aliases = {alias: name for name in expected for alias in aliases_of(name)}
    found: dict[str, tuple[WeightsFile, str]] = {}
    sizes: list[str] = []
    faults: list[str] = []
    files = [open_weights(path) for path in paths]
    held = [{key: aliases[key] for key in file.shapes if key in aliases} for file in files]
    for file, ours in zip(files, last_parts(held), strict=True):
        refuse_other_networks(file)
        refuse_other_encoders(file, variant)
        if file.variant is not None:
            refuse_other_variants(file, file.variant, variant, ours.values())
        shapes = shapes_by_our_names(file.shapes, {key: (name,) for key, name in ours.items()})
        sizes += other_sizes(file, shapes, variant)
        faults += [
            f"unexpected {key} in {file.path.name}"
            for key in file.shapes
            if key not in aliases and not any(part in key for part in STORED_BUT_UNUSED)
        ]
        for key, name in ours.items():
            shape = file.shapes[key]
            if name in found:
                faults.append(f"{name} is in {file.path.name} twice")
            elif shape != tuple(expected[name].shape):
                faults.append(f"{key} is {list(shape)}, expected {list(expected[name].shape)}")
            found.setdefault(name, (file, key))
    if not sizes:
        refuse_without_depth(files, variant, expected, found)
    faults += [f"missing {name}" for name in expected if name not in found]
    if faults:
        raise WeightsError(_refusal(files, variant, sizes, faults))
    with torch.no_grad():
        for file in files:
            keys = {key: name for name, (source, key) in found.items() if source is file}
            for key, tensor in file.numbers(keys):
                expected[keys[key]].copy_(tensor)
    for path, parts in _parts_by_file({name: found[name][0].path for name in expected}).items():
        _log.info("%s from %s", ", ".join(parts), path)


def last_parts(held: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return for each file the parts that no later file holds.

    held: our name of each key, by file.
    """
    kept: list[dict[str, str]] = []
    later: set[str] = set()
    for names in reversed(held):
        kept.insert(0, {k: n for k, n in names.items() if n.partition(".")[0] not in later})
        later |= {name.partition(".")[0] for name in names.values()}
    return kept


def listed(faults: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Return the first faults, and how many more there are and what shows them."""
    if len(faults) <= MAX_LISTED:
        return list(faults)
    more = len(faults) - MAX_LISTED
    files = " or ".join(map(str, paths))
    return [
        *faults[:MAX_LISTED],
        f"… and {more} more; `depthforge weights inspect` shows what {files} holds",
    ]


def _parts_by_file(files: Mapping[str, Path]) -> dict[Path, list[str]]:
    """Return the parts of the network by file. files: by our names."""
    parts: dict[Path, list[str]] = {}
    for name, path in files.items():
        given = parts.setdefault(path, [])
        if (part := name.partition(".")[0]) not in given:
            given.append(part)
    return parts


def refuse_other_networks(file: WeightsFile) -> None:
    """Raise WeightsError for a Rein checkpoint as published."""
    if layout_of(file.shapes) is Layout.REIN:
        raise WeightsError(
            f"{file.path} is a Rein checkpoint as published; "
            "`depthforge weights convert --variant VARIANT+rein` makes an adapter of it"
        )


def refuse_other_encoders(file: WeightsFile, expected: Variant) -> None:
    """Raise WeightsError if a file's masks were trained with another number of encoders, or if it
    is an encoder without depth features for a variant that has no other.
    """
    stored = file.variant
    name = "an unnamed variant" if stored is None else f"variant {stored.name!r}"
    two = any(f"{part}blocks." in key for key in file.shapes for part in DEPTH_ENCODER_NAMES)
    adapter = any("mask_decoder." in key or "decode_head." in key for key in file.shapes)
    one = stored is not None and stored.depth is None
    if expected.depth is None and two:
        use = "a variant with two encoders" if stored is None else f"variant {stored.name!r}"
        raise WeightsError(
            f"{file.path} holds {name} with two encoders, visual and depth; variant "
            f"{expected.name!r} has one. Use {use} for this file, or make a file for one: "
            "config/train/nano_4_joint.yaml says how"
        )
    if expected.depth is None and layout_of(file.shapes) in (Layout.DINOV2, Layout.EVA02):
        raise WeightsError(
            f"{file.path} is {layout_of(file.shapes).value}, which has no depth features; the only "
            f"encoder of variant {expected.name!r} gives depth too. Use Depth Anything V2's file"
        )
    if expected.depth is not None and one and adapter:
        raise WeightsError(
            f"{file.path} holds {name} with one encoder; variant {expected.name!r} has two, visual "
            f"and depth. Use variant {stored.name!r} for this file, or a file trained with both"
        )


def refuse_without_depth(
    files: Sequence[WeightsFile], variant: Variant, expected: Iterable[str], found: Iterable[str]
) -> None:
    """Raise WeightsError if files with a visual encoder lack the depth encoder or its head.

    expected, found: our names that the network has, and that the files hold together.
    """
    held = {name.partition(".")[0] for name in found}
    absent = {name.partition(".")[0] for name in expected} & {"depth", "depth_head"} - held
    if not absent or "visual" not in held:
        return
    paths = ", ".join(str(file.path) for file in files)
    stored = {repr(file.variant.name) for file in files if file.variant is not None}
    name = f"variant {' and '.join(sorted(stored))}" if stored else "an unnamed variant"
    if "depth" in absent:
        raise WeightsError(
            f"{paths}: {name} without a depth encoder; variant {variant.name!r} has two encoders, "
            "visual and depth. Use a variant with one encoder for this checkpoint, or add the file "
            "that holds the depth encoder, joined by a comma"
        )
    raise WeightsError(
        f"{paths}: {name} without a depth head, so without depth features; variant "
        f"{variant.name!r} needs them. Add the file that holds depth_head.*, joined by a comma"
    )


def refuse_other_variants(
    file: WeightsFile, stored: Variant, expected: Variant, names: Iterable[str]
) -> None:
    """Raise WeightsError if the file's variant differs in a field that its parts depend on.

    names: ours, of what the file holds. Encoders serve any adapter, whatever its label set.
    """
    differences = variant_differences(stored, expected)
    parts = {name.partition(".")[0] for name in names}
    if parts and parts <= set(ENCODER_PARTS):
        binding = parts | COMMON_FIELDS
        differences = [d for d in differences if d.partition(":")[0].partition(".")[0] in binding]
    if differences:
        raise WeightsError(
            f"{file.path} holds variant {stored.name!r}, expected {expected.name!r}: "
            + "; ".join(differences)
        )


def _refusal(
    files: Sequence[WeightsFile], variant: Variant, sizes: list[str], faults: list[str]
) -> str:
    hints = [
        f"{file.path.name} is {layout.value} as published: `depthforge weights convert` fits it"
        for file in files
        if (layout := layout_of(file.shapes)) in OFFICIAL
    ]
    return "\n  ".join(
        [
            f"{', '.join(str(file.path) for file in files)} does not fit variant "
            f"{variant.name!r}, {len(faults)} faults:",
            *hints,
            *sizes,
            *listed(faults, [file.path for file in files]),
        ]
    )
