# SPDX-License-Identifier: Apache-2.0
"""From files as their makers publish them to one of ours.

Each file's names are brought to ours, 14-pixel patch kernels and position tables are resampled to
the variant's grid, half precision is widened. What needs no change stays a view of the file it
came from, so a conversion holds one copy of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from depthforge_ros.network.depthforge import ADAPTER_PARTS, FROZEN_PARTS, DepthForge
from depthforge_ros.network.weights.files import WeightsError, WeightsFile, open_weights
from depthforge_ros.network.weights.load import refuse_other_networks, refuse_other_variants
from depthforge_ros.network.weights.names import (
    STORED_BUT_UNUSED,
    Layout,
    aliases_of,
    layout_of,
)
from depthforge_ros.network.weights.resample import resample_kernel, resample_positions
from depthforge_ros.network.weights.sizes import other_sizes, shapes_by_our_names
from depthforge_ros.variant import Variant

MADE_FROM = "depthforge.made_from"
"""Metadata key: for each part the file it came from, as JSON."""

PRETRAINING_ONLY = ("head.", "fc_norm.", "lm_head.", "norm.", "rope.")
"""Begins of names in a published visual encoder that only its own training needs."""


@dataclass(frozen=True)
class Conversion:
    """Whole parts of a variant's network by our names, and the file that gave each part."""

    variant: Variant
    state: Mapping[str, Tensor]
    made_from: Mapping[str, str]

    @property
    def complete(self) -> bool:
        """Whether it is the whole network."""
        return set(self.made_from) == {*FROZEN_PARTS, *ADAPTER_PARTS}

    def halved(self) -> Conversion:
        """The same with every weight as float16: half the bytes, widened again when loaded.

        Raises WeightsError where a weight is beyond float16's range.
        """
        state = {name: value.half() for name, value in self.state.items()}
        beyond = [name for name, value in state.items() if not value.isfinite().all()]
        if beyond:
            raise WeightsError(f"{', '.join(beyond)} holds numbers beyond float16's range")
        return replace(self, state=state)

    def notes(self) -> dict[str, str]:
        """Metadata to be stored beside the weights."""
        return {MADE_FROM: json.dumps(dict(self.made_from))}


def convert(
    variant: Variant, paths: Sequence[Path], stored: tuple[int, int] | None = None
) -> Conversion:
    """The parts of the variant that the files hold, each of them whole.

    stored: rows and columns of position tables that are not square. Raises WeightsError naming
    every size and name that does not fit.
    """
    shapes = shapes_of(variant)
    state: dict[str, Tensor] = {}
    made_from: dict[str, str] = {}
    sizes: list[str] = []
    faults: list[str] = []
    for path in paths:
        file = open_weights(path)
        names, unknown = our_names(file, shapes)
        _refuse_others(file, names, variant)
        sizes += other_sizes(file, shapes_by_our_names(file.shapes, names), variant)
        faults += [f"unexpected {key} in {path.name}" for key in unknown]
        for ours, tensor in _fitted(file, names, variant, stored):
            part = ours.partition(".")[0]
            if ours in state:
                faults.append(f"{ours} is in {made_from[part]} and in {path.name}")
            elif tuple(tensor.shape) != shapes[ours]:
                expected = list(shapes[ours])
                faults.append(f"{ours} in {path.name} is {list(tensor.shape)}, expected {expected}")
            state.setdefault(ours, tensor)
            made_from.setdefault(part, path.name)
    started = tuple(f"{part}." for part in made_from)
    faults += [
        f"missing {ours}" for ours in shapes if ours.startswith(started) and ours not in state
    ]
    if faults or not state:
        found = f"cannot become variant {variant.name!r}, {len(faults)} faults:"
        head = f"{', '.join(map(str, paths))} {found}"
        raise WeightsError("\n  ".join([head, *sizes, *faults]))
    parts = (part for part in (*FROZEN_PARTS, *ADAPTER_PARTS) if part in made_from)
    return Conversion(variant, state, {part: made_from[part] for part in parts})


def shapes_of(variant: Variant) -> dict[str, tuple[int, ...]]:
    """Every parameter of the variant's network by our name; no memory is taken for them."""
    with torch.device("meta"):
        network = DepthForge(variant)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def our_names(
    file: WeightsFile, expected: Iterable[str]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """For each key of the file our names of what it holds, and the keys that are nothing of ours.

    expected: all of our names. Several names share a key in equal pieces of its first dimension.
    Raises WeightsError where the keys are nobody's we know.
    """
    layout = layout_of(file.shapes)
    if layout is None:
        first = ", ".join(list(file.shapes)[:3])
        known = ", ".join(known.value for known in Layout if known is not Layout.REIN)
        raise WeightsError(f"{file.path} holds {first}, …; expected weights of one of: {known}")
    aliases = {alias: (name,) for name in expected for alias in aliases_of(name)}
    if layout is Layout.DEPTH_ANYTHING:
        aliases = {
            key.removeprefix("backbone.depth_anything."): name
            for key, name in aliases.items()
            if key.startswith("backbone.depth_anything.")
        }
    if layout is Layout.EVA02:  # its smaller models keep queries, keys and values in one
        for key, name in list(aliases.items()):
            if ".attn.q_proj." in key:
                fused = key.replace(".q_proj.", ".qkv.")
                pieces = ("q_proj", "k_proj", "v_proj")
                aliases[fused] = tuple(name[0].replace("q_proj", piece) for piece in pieces)
    ignored = PRETRAINING_ONLY if layout in (Layout.DINOV2, Layout.EVA02) else ()
    names = {key: aliases[key] for key in file.shapes if key in aliases}
    unknown = [
        key
        for key in file.shapes
        if key not in names
        and not key.startswith(ignored)
        and not any(part in key for part in STORED_BUT_UNUSED)
    ]
    return names, unknown


def _refuse_others(
    file: WeightsFile, names: Mapping[str, tuple[str, ...]], variant: Variant
) -> None:
    refuse_other_networks(file)
    kind = {Layout.DINOV2: "dinov2", Layout.EVA02: "eva02"}.get(layout_of(file.shapes))
    if kind not in (None, variant.visual.kind):
        raise WeightsError(
            f"{file.path} is a visual encoder of kind {kind}, variant {variant.name!r} wants "
            f"{variant.visual.kind}"
        )
    if file.variant is not None:
        ours = (name for pieces in names.values() for name in pieces)
        refuse_other_variants(file, file.variant, variant, ours)


def _fitted(
    file: WeightsFile,
    names: Mapping[str, tuple[str, ...]],
    variant: Variant,
    stored: tuple[int, int] | None,
) -> Iterator[tuple[str, Tensor]]:
    """Tensors by our names, float32, kernels and position tables of the variant's grid."""
    grid = (variant.grid, variant.grid)
    for key, tensor in file.tensors(names):
        pieces, tensor = names[key], tensor.float()
        if pieces[0].endswith(".patch_embed.weight") and tensor.ndim == 4:
            tensor = resample_kernel(tensor)
        elif pieces[0].endswith(".pos_embed") and tensor.ndim == 3:
            size = variant.visual if pieces[0].startswith("visual.") else variant.depth
            try:
                tensor = resample_positions(tensor, grid, stored, antialias=size.registers > 0)
            except ValueError as error:
                raise WeightsError(f"{file.path}: {key}: {error}; give --stored-size") from error
        held = (tensor,) if len(pieces) == 1 else tensor.chunk(len(pieces))
        yield from zip(pieces, held, strict=True)
