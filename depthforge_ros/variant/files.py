# SPDX-License-Identifier: Apache-2.0
"""Variants and label sets as files: models/variants/*.yaml, models/labels/*.yaml, and plain data.

A variant's file may hold `alternatives`: what another checkpoint of the same size changes, say
metric depth. `dinov2_s+outdoor` is dinov2_s with its alternative `outdoor`; several are joined
the same way. The alternatives of `EVERY_VARIANT` need no entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from depthforge_ros import dataclass_yaml
from depthforge_ros.resources import shipped_folder
from depthforge_ros.variant.labels import LabelSet
from depthforge_ros.variant.variant import Variant

ALTERNATIVES = "alternatives"
YAML = (".yaml", ".yml")
EVERY_VARIANT: dict[str, dict[str, Any]] = {"rein": {"depth_in_tokens": False}}
"""Alternatives of every variant. rein: the tokens of Rein (arXiv 2312.04265)."""


def models_dir() -> Path:
    """Return the folder `models/`. Raise FileNotFoundError if the installation is broken."""
    return shipped_folder("models")


def variant_names() -> list[str]:
    """Return the names of the variants that ship with the package, sorted."""
    return sorted(path.stem for path in (models_dir() / "variants").glob("*.yaml"))


def load_labels(name: str) -> LabelSet:
    """Return the label set models/labels/NAME.yaml. Raise ValueError naming its fault."""
    path = models_dir() / "labels" / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise ValueError(f"label set {name!r} is unknown; known: {', '.join(known)}")
    return dataclass_yaml.read_yaml(path, LabelSet, {})


def load_variant(name_or_path: str | Path) -> Variant:
    """Return a shipped variant by name, or a variant of your own by the path of its yaml file.

    Either may be followed by alternatives that its file offers: `dinov2_s+outdoor`. Raises
    ValueError naming the file, the key and what was expected.
    """
    name, chosen = _split(str(name_or_path))
    path = _file_of(name)
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
        if isinstance(data, dict):
            data = _with_alternatives(data, chosen)
        return dataclass_yaml.build(Variant, data, Variant.__name__, {LabelSet: load_labels})
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error


def alternative_names(name_or_path: str | Path) -> list[str]:
    """Return the names that may follow `+` after the variant's name, sorted. Raise ValueError."""
    data = yaml.safe_load(_file_of(_split(str(name_or_path))[0]).read_text("utf-8"))
    return sorted({**EVERY_VARIANT, **data.get(ALTERNATIVES, {})})


def _split(text: str) -> tuple[str, list[str]]:
    """Split `name+a+b` into name and [a, b]. A plus sign within a path belongs to the path."""
    chosen: list[str] = []
    while Path(text).suffix not in YAML and "+" in text:
        text, _, last = text.rpartition("+")
        chosen.insert(0, last)
    return text, chosen


def _file_of(name: str) -> Path:
    path = Path(name)
    if path.suffix not in YAML:
        path = models_dir() / "variants" / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(
            f"variant {name!r} is unknown; known: {', '.join(variant_names())}, "
            "or the path of a .yaml file"
        )
    return path


def _with_alternatives(data: dict[str, Any], chosen: Sequence[str]) -> dict[str, Any]:
    data = dict(data)
    offered = data.pop(ALTERNATIVES, {})
    if not isinstance(offered, dict) or not all(isinstance(v, dict) for v in offered.values()):
        raise ValueError(f"{ALTERNATIVES} is {offered!r}; expected a mapping of mappings")
    offered = EVERY_VARIANT | offered
    for name in chosen:
        if name not in offered:
            there = ", ".join(sorted(offered))
            raise ValueError(f"alternative {name!r} is unknown; there are: {there}")
        data = _overlaid(data, offered[name])
    if chosen:
        data["name"] = "+".join([str(data.get("name")), *chosen])
    return data


def _overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge two mappings recursively; values of `above` win."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        result[key] = _overlaid(below[key], value) if both else value
    return result


def variant_from_mapping(data: Any) -> Variant:
    """Return the variant of a mapping from `variant_to_mapping` or yaml. Raise ValueError."""
    return dataclass_yaml.build(Variant, data, "variant", {LabelSet: load_labels})


def variant_to_mapping(variant: Variant) -> dict[str, Any]:
    """Return every field as plain dicts, lists, numbers and strings, to store with weights."""
    return dataclass_yaml.plain(variant)


def variant_differences(stored: Variant, expected: Variant) -> list[str]:
    """Return every difference as `field: stored S, expected W`; names and origins may differ."""
    differences = []

    def compare(where: str, a: Any, b: Any) -> None:
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            for key in a:
                if key not in ("name", "licence", "source", "adapter"):
                    compare(f"{where}.{key}" if where else key, a[key], b[key])
        elif isinstance(a, list) and isinstance(b, list) and a and isinstance(a[0], dict):
            if [entry["name"] for entry in a] != [entry["name"] for entry in b]:
                differences.append(
                    f"{where}: stored {len(a)}, expected {len(b)}, or in another order"
                )
        elif a != b:
            differences.append(f"{where}: stored {a}, expected {b}")

    compare("", dataclass_yaml.plain(stored), dataclass_yaml.plain(expected))
    return differences
