# SPDX-License-Identifier: Apache-2.0
"""Builds frozen dataclasses from yaml with strict checks of keys and types, and converts them back.

Variants, label sets and training configurations are read through this module.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

Named = Mapping[type, Callable[[str], Any]]
"""Types that may also be given by name, with the function that loads them."""


def read_yaml(path: Path, kind: type, named: Named) -> Any:
    """Return a `kind` read from a yaml file.

    Raises ValueError naming the file, the key and what was expected.
    """
    try:
        return build(kind, yaml.safe_load(path.read_text("utf-8")), kind.__name__, named)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error


def build(kind: Any, data: Any, where: str, named: Named) -> Any:
    """Return a value of type `kind` built from dicts, lists, numbers and strings.

    where: the name of the value in errors. Raises ValueError, also for a negative int or a float
    that is not finite.
    """
    if isinstance(data, str) and kind in named:
        return named[kind](data)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, data, where, named)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise ValueError(f"{where} is {data!r}; expected a list")
        if arguments[-1] is not Ellipsis and len(arguments) != len(data):
            raise ValueError(f"{where} has {len(data)} entries; expected {len(arguments)}")
        return tuple(build(arguments[0], v, f"{where}[{i}]", named) for i, v in enumerate(data))
    if origin in (types.UnionType, typing.Union):
        return None if data is None else build(arguments[0], data, where, named)
    if isinstance(kind, type) and issubclass(kind, Enum):
        allowed = [member.value for member in kind]
        if data not in allowed:
            raise ValueError(f"{where} is {data!r}; expected one of {allowed}")
        return kind(data)
    if isinstance(data, bool):
        if kind is bool:
            return data
    elif kind is float and isinstance(data, int | float):
        if not math.isfinite(data):
            raise ValueError(f"{where} is {data!r}; expected a finite number")
        return float(data)
    elif kind is int and isinstance(data, int):
        if data < 0:
            raise ValueError(f"{where} is {data}; expected a number of at least 0")
        return data
    elif kind is str and isinstance(data, str):
        return data
    elif kind is Path and isinstance(data, str):
        return Path(data).expanduser()
    raise ValueError(f"{where} is {data!r}; expected {getattr(kind, '__name__', kind)}")


def _build_dataclass(kind: Any, data: Any, where: str, named: Named) -> Any:
    hints = typing.get_type_hints(kind)
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {data!r}; expected a mapping with {', '.join(hints)}")
    required = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }
    unknown, missing = set(data) - set(hints), required - set(data)
    if unknown or missing:
        raise ValueError(
            f"{where}: unknown keys {sorted(map(str, unknown))}, missing {sorted(missing)}"
        )
    fields = {key: build(hints[key], value, f"{where}.{key}", named) for key, value in data.items()}
    return kind(**fields)


def plain(value: Any) -> Any:
    """Return the value as dicts, lists, numbers and strings, the inverse of `build`."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value
