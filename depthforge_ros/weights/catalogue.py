# SPDX-License-Identifier: Apache-2.0
"""Parts of the variants: sizes, licences, sources, and files that are here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from depthforge_ros.network.depthforge import ADAPTER_PARTS
from depthforge_ros.network.weights.files import open_weights
from depthforge_ros.variant import Source, Variant, models_dir
from depthforge_ros.weights.convert import shapes_of

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Row:
    """One part of one variant. file: the file here that holds it, None if there is none."""

    variant: str
    part: str
    size_mb: float
    licence: str
    file: Path | None


def exchanged_parts(variant: Variant) -> dict[str, tuple[str, ...]]:
    """Return what is published and exchanged as one, with the parts of the network it holds: each
    encoder, the one that gives depth with its head, and all that the method trains.
    """
    encoders = {name: (name,) for name in variant.encoders}
    last = tuple(encoders)[-1]
    return {**encoders, last: (last, "depth_head"), "adapter": ADAPTER_PARTS}


def rows(variant: Variant, folder: Path) -> Iterator[Row]:
    """Yield every part of the variant: size in float32 (10⁶ bytes), licence and file."""
    shapes = shapes_of(variant)
    present = _present(variant, folder)
    licences = {part: size.licence for part, size in variant.encoders.items()}
    if variant.adapter is not None:
        licences["adapter"] = variant.adapter.licence
    for part, names in exchanged_parts(variant).items():
        begins = tuple(f"{name}." for name in names)
        count = sum(math.prod(s) for name, s in shapes.items() if name.startswith(begins))
        file = next((present[name] for name in names if name in present), None)
        licence = licences.get(part, "its trainer's")
        yield Row(variant.name, part, count * FLOAT32_BYTES / 1e6, licence, file)


def table(rows_: list[Row]) -> str:
    """Return the rows as aligned text under a header line."""
    cells = [("variant", "part", "MB", "licence", "present")]
    for row in rows_:
        licence = row.licence + (" (non-commercial)" if is_noncommercial(row.licence) else "")
        cells.append((row.variant, row.part, f"{row.size_mb:.0f}", licence, str(row.file or "no")))
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    return "\n".join(
        f"{v:<{widths[0]}}  {p:<{widths[1]}}  {m:>{widths[2]}}  {li:<{widths[3]}}  {file}"
        for v, p, m, li, file in cells
    )


def sources(variant: Variant) -> dict[str, tuple[Source, str]]:
    """Return source and licence of every part whose weights are published."""
    parts = {**variant.encoders, "adapter": variant.adapter}
    return {
        part: (origin.source, origin.licence)
        for part, origin in parts.items()
        if origin is not None and origin.source is not None
    }


def is_noncommercial(licence: str) -> bool:
    """Return whether an SPDX name has the part NC (non-commercial), as Creative Commons' do."""
    return "NC" in licence.split("-")


def _present(variant: Variant, folder: Path) -> dict[str, Path]:
    """Return for each part of the network the first file that holds it."""
    whole = f"{variant.name}.safetensors"
    files = [models_dir() / "checkpoints" / whole, folder / whole]
    files += sorted(folder.glob(f"{variant.name}.*.safetensors"))  # parts of it
    present: dict[str, Path] = {}
    for file in files:
        if file.is_file():
            for name in open_weights(file).shapes:
                present.setdefault(name.partition(".")[0], file)
    return present
