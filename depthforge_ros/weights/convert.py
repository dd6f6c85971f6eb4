# SPDX-License-Identifier: Apache-2.0
"""Conversion of files as their authors publish them into one of ours.

Names become ours, 14-pixel patch kernels and position tables are resampled to the variant's grid,
half precision is widened. Unchanged tensors stay views of their file, so a conversion holds one
copy of the weights. Rein's adapters (arXiv 2312.04265) lack the refinement decoder: it becomes
zeros, under which it returns the finest map unchanged.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from depthforge_ros.frame import DepthKind
from depthforge_ros.network.depthforge import ADAPTER_PARTS, DepthForge, frozen_parts
from depthforge_ros.network.weights.files import WeightsError, WeightsFile, open_weights
from depthforge_ros.network.weights.load import (
    listed,
    refuse_other_encoders,
    refuse_other_variants,
    refuse_without_depth,
)
from depthforge_ros.network.weights.names import (
    STORED_BUT_UNUSED,
    Layout,
    aliases_of,
    author_name,
    layout_of,
)
from depthforge_ros.network.weights.resample import resample_kernel, resample_positions
from depthforge_ros.network.weights.sizes import (
    configured_crop,
    encoder_sizes,
    other_sizes,
    shapes_by_our_names,
)
from depthforge_ros.variant import Variant, load_variant, variant_names

MADE_FROM = "depthforge.made_from"
"""Metadata key: for each part the file it came from, as JSON."""

PRETRAINING_ONLY = ("head.", "fc_norm.", "lm_head.", "norm.", "rope.")
"""Prefixes of names in a published visual encoder that only its pretraining needs."""

REFINEMENT_OFF = "nothing: zero, so that it changes nothing"
"""Origin of the refinement decoder of a converted Rein adapter."""


@dataclass(frozen=True)
class Conversion:
    """Complete parts of a variant's network by our names, and the file of each part.

    trained_crop: side of the crops the adapter was trained with, None if no file names it.
    """

    variant: Variant
    state: Mapping[str, Tensor]
    made_from: Mapping[str, str]
    trained_crop: int | None = None

    @property
    def complete(self) -> bool:
        """Return whether it is the complete network."""
        return set(self.made_from) == {*frozen_parts(self.variant), *ADAPTER_PARTS}

    def halved(self) -> Conversion:
        """Return it with every weight as float16: half the bytes, widened again when loaded.

        Raise WeightsError if a weight is beyond float16's range.
        """
        state = {name: value.half() for name, value in self.state.items()}
        beyond = [name for name, value in state.items() if not value.isfinite().all()]
        if beyond:
            raise WeightsError(f"{', '.join(beyond)} holds numbers beyond float16's range")
        return replace(self, state=state)

    def notes(self) -> dict[str, str]:
        """Return the metadata to store with the weights."""
        return {MADE_FROM: json.dumps(dict(self.made_from))}


def convert(
    variant: Variant, paths: Sequence[Path], stored: tuple[int, int] | None = None
) -> Conversion:
    """Return the parts of the variant that the files hold, each complete.

    A part that several files hold comes from the last. stored: rows and columns of position tables
    that are not square. Raise WeightsError naming every size and name that does not fit.
    """
    shapes = shapes_of(variant)
    state: dict[str, Tensor] = {}
    made_from: dict[str, str] = {}
    sizes: list[str] = []
    faults: list[str] = []
    trained_crop = None
    files: list[WeightsFile] = []
    for path in paths:
        file = open_weights(path)
        files.append(replace(file, content=None))
        names, unknown = our_names(file, shapes)
        _refuse_others(file, names, variant)
        differing = other_sizes(file, shapes_by_our_names(file.shapes, names), variant)
        if differing:
            differing.append(f"{path.name}: {nearest_variants(file, names)}")
        sizes += differing
        trained_crop = configured_crop(file.config) or trained_crop
        faults += [f"unexpected {key} in {path.name}" for key in unknown]
        for ours, tensor in _fitted(file, names, variant, stored):
            part = ours.partition(".")[0]
            if made_from.get(part, path.name) != path.name:  # the last file gives the whole part
                state = {n: v for n, v in state.items() if n.partition(".")[0] != part}
                made_from[part] = path.name
            if ours in state:
                faults.append(f"{ours} is in {path.name} twice")
            elif tuple(tensor.shape) != shapes[ours]:
                expected = list(shapes[ours])
                faults.append(f"{ours} in {path.name} is {list(tensor.shape)}, expected {expected}")
            state.setdefault(ours, tensor)
            made_from.setdefault(part, path.name)
        if layout_of(file.shapes) is Layout.REIN and not faults:
            off = {n: torch.zeros(s) for n, s in shapes.items() if n.startswith("refinement.")}
            state |= off
            made_from["refinement"] = REFINEMENT_OFF
    if "mask_decoder" in made_from and {layout_of(f.shapes) for f in files} == {Layout.OURS}:
        refuse_without_depth(files, variant, shapes, state)
    started = tuple(f"{part}." for part in made_from)
    faults += [
        f"missing {ours}" for ours in shapes if ours.startswith(started) and ours not in state
    ]
    if faults or sizes or not state:
        found = f"cannot become variant {variant.name!r}, {len(faults)} faults:"
        head = f"{', '.join(map(str, paths))} {found}"
        raise WeightsError("\n  ".join([head, *sizes, *listed(faults, paths)]))
    parts = (part for part in (*frozen_parts(variant), *ADAPTER_PARTS) if part in made_from)
    return Conversion(variant, state, {part: made_from[part] for part in parts}, trained_crop)


def nearest_variants(file: WeightsFile, names: Mapping[str, tuple[str, ...]]) -> str:
    """Return a hint which shipped variants have the widths and blocks of the file.

    names: ours, of what the file holds.
    """
    shapes = shapes_by_our_names(file.shapes, names)
    held = encoder_sizes(shapes, "visual") or encoder_sizes(shapes, "depth")
    if held is None and {"tokens.a", "tokens.b"} <= shapes.keys():
        held = shapes["tokens.b"][-1], shapes["tokens.a"][0]
    rein = "+rein" if layout_of(file.shapes) is Layout.REIN else ""
    fitting = []
    for name in variant_names():
        variant = load_variant(name)
        if rein and variant.depth is None:  # published for DINOv2 and EVA02
            continue
        if (variant.visual.width, variant.visual.blocks) == held:
            fitting.append(f"{name}{rein}")
    return f"variants of its size: {', '.join(fitting) or 'none'}"


def shapes_of(variant: Variant) -> dict[str, tuple[int, ...]]:
    """Return every parameter of the variant's network by our name, without allocating them."""
    # What changes no shape is left out, so that variants of one size are built once.
    head = replace(variant.depth_head, kind=DepthKind.RELATIVE, max_depth_m=None, focal_px=None)
    visual = replace(variant.visual, licence="", source=None)
    depth = None if variant.depth is None else replace(variant.depth, licence="", source=None)
    same = replace(variant, name="", adapter=None, depth_in_tokens=True, depth_head=head)
    return _shapes(replace(same, visual=visual, depth=depth))


@functools.lru_cache
def _shapes(variant: Variant) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = DepthForge(variant)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def our_names(
    file: WeightsFile, expected: Iterable[str]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return our names of each key of the file, and the keys that have none.

    expected: all of our names. Several names share a key in equal pieces of its first dimension.
    Raise WeightsError if the layout is unknown.
    """
    layout = layout_of(file.shapes)
    if layout is None:
        first = ", ".join(list(file.shapes)[:3])
        known = ", ".join(known.value for known in Layout)
        raise WeightsError(f"{file.path} holds {first}, …; expected weights of one of: {known}")
    aliases: dict[str, tuple[str, ...]] = {
        alias: (name,) for name in expected for alias in aliases_of(name)
    }
    if layout is Layout.DEPTH_ANYTHING:
        if not any(name.startswith("depth.") for name in expected):  # its encoder is the only one
            aliases = {
                author_name(f"depth.{name.removeprefix('visual.')}")
                if name.startswith("visual.")
                else author_name(name): (name,)
                for name in expected
            }
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
    refuse_other_encoders(file, variant)
    layout = layout_of(file.shapes)
    held = {name for pieces in names.values() for name in pieces}
    if (mismatch := token_mismatch(layout, held, variant)) is not None:
        raise WeightsError(f"{file.path} is {mismatch}")
    kinds: dict[Layout | None, str] = {Layout.DINOV2: "dinov2", Layout.EVA02: "eva02"}
    kind = kinds.get(layout)
    if kind not in (None, variant.visual.kind):
        raise WeightsError(
            f"{file.path} is a visual encoder of kind {kind}, variant {variant.name!r} wants "
            f"{variant.visual.kind}"
        )
    if file.variant is not None:
        ours = (name for pieces in names.values() for name in pieces)
        refuse_other_variants(file, file.variant, variant, ours)


def token_mismatch(layout: Layout | None, held: Collection[str], variant: Variant) -> str | None:
    """Return why tokens of this layout are not the variant's, None if they are or if it has none.

    held: our names of what the file holds.
    """
    if layout not in (Layout.REIN, Layout.AUTHORS):
        return None
    if not any(name.startswith("tokens.") for name in held):
        return None
    sees_depth = layout is Layout.AUTHORS
    if variant.depth_in_tokens == sees_depth:
        return None
    what = "depth and visual" if sees_depth else "only visual"
    other = variant.name.partition("+")[0] + ("" if sees_depth else "+rein")
    return (
        f"{layout.value}, whose tokens see {what} features; those of variant {variant.name!r} do "
        f"not, those of {other!r} do"
    )


def _fitted(
    file: WeightsFile,
    names: Mapping[str, tuple[str, ...]],
    variant: Variant,
    stored: tuple[int, int] | None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors by our names in float32, resampled to the variant's grid."""
    grid = (variant.grid, variant.grid)
    for key, tensor in file.numbers(names):
        pieces, tensor = names[key], tensor.float()
        if pieces[0].endswith(".patch_embed.weight") and tensor.ndim == 4:
            tensor = resample_kernel(tensor)
        elif pieces[0].endswith(".pos_embed") and tensor.ndim == 3:
            size = variant.encoders[pieces[0].partition(".")[0]]
            try:
                tensor = resample_positions(tensor, grid, stored, antialias=size.registers > 0)
            except ValueError as error:
                raise WeightsError(f"{file.path}: {key}: {error}; give --stored-size") from error
        held = (tensor,) if len(pieces) == 1 else tensor.chunk(len(pieces))
        yield from zip(pieces, held, strict=True)
