# SPDX-License-Identifier: Apache-2.0
"""Identification of files of weights by their names and shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from depthforge_ros.network.weights.files import WeightsFile, open_weights
from depthforge_ros.network.weights.names import Layout, layout_of
from depthforge_ros.network.weights.sizes import other_sizes, shapes_by_our_names
from depthforge_ros.resources import sha256_of
from depthforge_ros.variant import Variant
from depthforge_ros.weights.convert import our_names, shapes_of, token_mismatch

SHOWN_NAMES = 10


@dataclass(frozen=True)
class Report:
    """Findings about one file.

    layout: convention of its names, None if unknown. variant: the one stored in it or nearest to
    its shapes, None if it is no known network. parts: of the network, at least partly in the file.
    missing: our names of those parts that it lacks. unexpected: keys that the variant has not.
    differences: sizes and shapes that are not the variant's. not_finite: keys that hold NaN or
    infinity.
    """

    file: WeightsFile
    sha256: str
    layout: Layout | None
    variant: Variant | None
    parts: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    differences: tuple[str, ...]
    not_finite: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Return whether every part in the file is complete and the variant's."""
        faults = (*self.differences, *self.missing, *self.unexpected)
        return self.variant is not None and not faults


def inspect(path: Path, variants: Iterable[Variant]) -> Report:
    """Read the file. variants: candidates. Raise WeightsError, OSError."""
    file = open_weights(path)
    sha256, layout = sha256_of(path), layout_of(file.shapes)
    not_finite = tuple(
        key
        for key, tensor in file.tensors(file.shapes)
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    )
    if layout is None:
        return Report(file, sha256, layout, None, (), (), (), (), not_finite)
    given = list(variants)
    # Rein's variants and DepthForge's have the same shapes.
    candidates = [v for v in given if v.depth_in_tokens is (layout is not Layout.REIN)] or given
    if layout in (Layout.DINOV2, Layout.EVA02):  # without depth, which an only encoder must give
        candidates = [variant for variant in candidates if variant.depth is not None] or candidates
    if file.variant is not None:
        candidates = [file.variant]
    reports = [_against(file, sha256, layout, variant, not_finite) for variant in candidates]
    return min(reports, key=lambda r: len(r.differences) + len(r.missing) + len(r.unexpected))


def text(report: Report) -> str:
    """Return the report as text."""
    file = report.file
    count = sum(math.prod(shape) for shape in file.shapes.values())
    dtypes = sorted({str(dtype).removeprefix("torch.") for dtype in file.dtypes.values()})
    lines = [
        f"file        {file.path}",
        f"sha256      {report.sha256}",
        f"names of    {report.layout.value if report.layout else 'an unknown layout'}",
        f"tensors     {len(file.shapes)}, {count / 1e6:.1f} million numbers, {', '.join(dtypes)}",
    ]
    if report.variant is not None:
        how = "stored in it" if file.variant is not None else "by its shapes"
        name = report.variant.name
        lines.append(
            f"variant     {name} ({how})"
            if report.fits
            else f"variant     none; the nearest is {name}"
        )
        lines.append(f"parts       {', '.join(report.parts)}")
    lines += [f"note        {key} = {value}" for key, value in file.notes.items()]
    for head, names in (
        ("differs", report.differences),
        ("missing", report.missing),
        ("unexpected", report.unexpected),
        ("not finite", report.not_finite),
    ):
        lines += [f"{head:<10}  {name}" for name in names[:SHOWN_NAMES]]
        if len(names) > SHOWN_NAMES:
            lines.append(f"{head:<10}  … {len(names)} in all")
    return "\n".join(lines)


def _against(
    file: WeightsFile,
    sha256: str,
    layout: Layout,
    variant: Variant,
    not_finite: tuple[str, ...],
) -> Report:
    shapes = shapes_of(variant)
    names, unexpected = our_names(file, shapes)
    held = {name for pieces in names.values() for name in pieces}
    parts = tuple(dict.fromkeys(name.partition(".")[0] for name in shapes if name in held))
    missing = tuple(name for name in shapes if name.partition(".")[0] in parts and name not in held)
    mismatch = token_mismatch(layout, held, variant)
    differences = [
        *([] if mismatch is None else [mismatch]),
        *other_sizes(file, shapes_by_our_names(file.shapes, names), variant),
        *_other_shapes(file, names, shapes),
    ]
    return Report(
        file,
        sha256,
        layout,
        variant,
        parts,
        missing,
        tuple(unexpected),
        tuple(differences),
        not_finite,
    )


def _other_shapes(
    file: WeightsFile,
    names: Mapping[str, tuple[str, ...]],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[str]:
    """Return the shapes that differ from the variant's, of tensors that are not resampled."""
    return [
        f"{key} is {list(file.shapes[key])}, expected {list(shapes[pieces[0]])}"
        for key, pieces in names.items()
        if len(pieces) == 1
        and not pieces[0].endswith((".pos_embed", ".patch_embed.weight"))
        and file.shapes[key] != shapes[pieces[0]]
    ]
