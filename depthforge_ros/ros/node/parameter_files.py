# SPDX-License-Identifier: Apache-2.0
"""Parameter files of the command line: their faults in a line, and whom they are for."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml


class _AnyTag(yaml.SafeLoader):
    """Reads values by their form, whatever their tag: rcl ignores tags, and launch_ros writes
    `!!python/tuple` before lists.
    """


def _untagged(loader: _AnyTag, suffix: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


_AnyTag.add_multi_constructor("", _untagged)


def parameter_files(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Return the nodes, or patterns of nodes, that each file of a command line names.

    Raises OSError or ValueError for a file that rcl refuses with several lines.
    """
    found: dict[str, list[str]] = {}
    for option, path in itertools.pairwise(arguments):
        if option != "--params-file":
            continue
        if not Path(path).is_file():
            raise OSError(f"parameter file {path} does not exist")
        try:
            nodes = yaml.load(Path(path).read_text("utf-8"), _AnyTag)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"parameter file {path} is no YAML: {error}") from error
        if not isinstance(nodes, dict) or not _has_parameters(nodes):
            raise ValueError(f"parameter file {path}: expected NODE: ros__parameters: NAME: VALUE")
        found[path] = list(_node_names(nodes))
    return found


def is_for_node(pattern: str, node: str) -> bool:
    """Return whether a name of a parameter file is the node's; * is a name, ** any names."""
    parts = ["(/[^/]+)*" if p == "**" else f"/{re.escape(p)}" for p in pattern[1:].split("/")]
    return re.fullmatch("".join(parts).replace(r"\*", "[^/]+"), node) is not None


def _has_parameters(nodes: dict) -> bool:
    """Return whether each node, at any depth of namespaces, has a table of parameters."""
    return all(
        isinstance(value, dict) and (name == "ros__parameters" or _has_parameters(value))
        for name, value in nodes.items()
    )


def _node_names(nodes: dict, prefix: str = "") -> Iterator[str]:
    """Full names of the nodes; names and namespaces may be nested or joined by slashes."""
    for name, value in nodes.items():
        if name == "ros__parameters":
            yield prefix or "/"
        else:
            yield from _node_names(value, f"{prefix}/{str(name).strip('/')}")
