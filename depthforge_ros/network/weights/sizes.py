# SPDX-License-Identifier: Apache-2.0
"""Sizes of the network that a file belongs to, from its shapes and its configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping

from depthforge_ros.network.weights.files import WeightsFile
from depthforge_ros.variant import Variant

Shapes = Mapping[str, tuple[int, ...]]


def shapes_by_our_names(shapes: Shapes, names: Mapping[str, tuple[str, ...]]) -> Shapes:
    """Return shapes by our names, also of blocks that only the file has, so they can be counted.

    shapes: by the file's keys. names: ours, for those keys that we have.
    """
    ours = {name: shapes[key] for key, pieces in names.items() for name in pieces}
    begins = {
        key.partition("blocks.")[0]: pieces[0].partition("blocks.")[0]
        for key, pieces in names.items()
        if "blocks." in key
    }
    for key, shape in shapes.items():
        begin, blocks, rest = key.partition("blocks.")
        if key not in names and blocks and begin in begins:
            ours[f"{begins[begin]}blocks.{rest}"] = shape
    return ours


def encoder_sizes(shapes: Shapes, part: str) -> tuple[int, int] | None:
    """Return width and number of blocks of `visual` or `depth`, None if the file has no such part.

    shapes: by our names.
    """
    width = shapes.get(f"{part}.blocks.0.norm1.weight")
    if width is None:
        return None
    numbered = (re.match(rf"{part}\.blocks\.(\d+)\.", name) for name in shapes)
    return width[0], 1 + max(int(match[1]) for match in numbered if match)


def label_count(shapes: Shapes) -> int | None:
    """Return the number of classes of the head, None if the file has no head."""
    classes = shapes.get("mask_decoder.class_head.weight")
    return None if classes is None else classes[0] - 1  # the last is "no object"


def token_sizes(shapes: Shapes) -> tuple[int, int, int] | None:
    """Return layers, tokens a layer and rank of the tokens, None if the file has none."""
    tokens = shapes.get("tokens.a")
    return tokens if tokens is not None and len(tokens) == 3 else None


def configured_levels(config: str) -> tuple[int, ...] | None:
    """Return the blocks that feed the decoder, from the text of an mmengine configuration.

    None if it does not name them; then they are the default of the authors' code.
    """
    found = re.search(r"out_indices\s*=\s*[\[(]([\d,\s]+)[\])]", config)
    return None if found is None else tuple(int(n) for n in re.findall(r"\d+", found[1]))


def configured_kind(config: str) -> str | None:
    """Return the kind of the visual encoder, from the text of an mmengine configuration."""
    names = {"eva02": "EVA2", "dinov2": "DinoVisionTransformer"}
    return next((kind for kind, name in names.items() if name in config), None)


def configured_crop(config: str) -> int | None:
    """Return the side of the training crop, from the text of an mmengine configuration."""
    found = re.search(r"crop_size\s*=\s*[\[(]\s*(\d+)", config)
    return None if found is None else int(found[1])


def other_sizes(file: WeightsFile, shapes: Shapes, variant: Variant) -> list[str]:
    """Return a line for each size that is not the variant's, with both numbers.

    shapes: by our names.
    """
    name, lines = file.path.name, []
    levels = configured_levels(file.config)
    if levels not in (None, variant.levels):
        lines.append(f"{name}: decoder reads blocks {levels}, expected {variant.levels}")
    kind = configured_kind(file.config)
    if kind not in (None, variant.visual.kind):
        lines.append(f"{name}: visual encoder is {kind}, expected {variant.visual.kind}")

    def compare(what: str, held: int, expected: int) -> None:
        if held != expected:
            lines.append(f"{name}: {what} {held}, expected {expected}")

    for part, size in variant.encoders.items():
        if (held := encoder_sizes(shapes, part)) is not None:
            compare(f"width of the {part} encoder is", held[0], size.width)
            compare(f"blocks of the {part} encoder are", held[1], size.blocks)
    if (tokens := token_sizes(shapes)) is not None:
        compare("layers of tokens are", tokens[0], variant.visual.blocks)
        compare("tokens a layer are", tokens[1], variant.tokens)
        compare("rank of the tokens is", tokens[2], variant.token_rank)
    if (token_width := shapes.get("tokens.b")) is not None:
        compare("width of the tokens is", token_width[-1], variant.visual.width)
    if (head := shapes.get("mask_decoder.level_embed")) is not None:
        compare("width of the head is", head[-1], variant.decoder.width)
    if (labels := label_count(shapes)) is not None:
        compare("labels are", labels, len(variant.labels))
    return lines
