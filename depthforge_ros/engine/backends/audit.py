# SPDX-License-Identifier: Apache-2.0
"""The operators of a network that torch-tensorrt would leave to PyTorch, without TensorRT or a GPU.

An operator that is not converted splits the graph, with PyTorch between the parts. The names of
the converted operators are data, models/engines/torch_tensorrt.yaml. An operator can still be
refused for its arguments, which only a build shows.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._decomp import get_decompositions
from torch.export import ExportedProgram, default_decompositions

from depthforge_ros.dataclass_yaml import read_yaml
from depthforge_ros.resources import shipped_folder

FILE = "torch_tensorrt.yaml"


@dataclass(frozen=True)
class ConvertedOperators:
    """Names of operators by what a release of torch-tensorrt does with them; see the file."""

    torch_tensorrt: str
    source: str
    converted: tuple[str, ...]
    rewritten: tuple[str, ...]
    decomposed: tuple[str, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]

    @classmethod
    def load(cls) -> ConvertedOperators:
        """Load the shipped file. Raises ValueError or OSError naming it."""
        return read_yaml(shipped_folder("models") / "engines" / FILE, cls, {})


@dataclass(frozen=True)
class Audit:
    """operators: counts in the decomposed graph, by name. fallbacks: those left to PyTorch."""

    operators: dict[str, int]
    fallbacks: dict[str, int]


def audit(program: ExportedProgram, table: ConvertedOperators | None = None) -> Audit:
    """Decompose a program as torch-tensorrt does and look every operator up.

    Operators that do not depend on the images are folded into constants before the conversion, so
    they are left out. Works on the meta device.
    """
    table = table or ConvertedOperators.load()
    supported = {*table.converted, *table.rewritten, *table.removed}
    graph = program.run_decompositions(_decompositions(table)).graph
    found = [_name(node.target) for node in _depending_on_inputs(program, graph)]
    operators = Counter(found)
    fallbacks = {
        name: count
        for name, count in operators.items()
        if name not in supported and name.rpartition(".")[0] not in supported
    }
    return Audit(dict(operators), fallbacks)


def _decompositions(table: ConvertedOperators) -> dict[Any, Callable[..., Any]]:
    """Return PyTorch's decompositions of composite operators, except those that are kept."""
    chosen = {
        op: way for op, way in default_decompositions().items() if _is_composite(op)
    } | get_decompositions(_resolved(table.decomposed))
    kept = {*table.kept, *table.rewritten}
    return {
        op: way
        for op, way in chosen.items()
        if _name(op) not in kept and _name(op).rpartition(".")[0] not in kept
    }


def _is_composite(op: Any) -> bool:
    """Return whether an operator is composite (CompositeImplicitAutograd)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd")


def _resolved(names: tuple[str, ...]) -> list[Any]:
    """Return the operators of the names, without those that this PyTorch lacks."""
    found = []
    for name in names:
        value: Any = torch.ops
        for part in name.split("."):
            value = getattr(value, part, None)
            if value is None:
                break
        else:
            found.append(value)
    return found


def _depending_on_inputs(program: ExportedProgram, graph: fx.Graph) -> list[fx.Node]:
    inputs = set(program.graph_signature.user_inputs)
    reached: set[fx.Node] = set()
    calls = []
    for node in graph.nodes:
        if node.op == "placeholder" and node.name in inputs:
            reached.add(node)
        elif any(argument in reached for argument in node.all_input_nodes):
            reached.add(node)
            if node.op == "call_function":
                calls.append(node)
    return calls


def _name(target: Any) -> str:
    """Return the name, such as aten.linear.default or operator.getitem."""
    name = getattr(target, "__name__", "")
    if name and getattr(operator, name, None) is target:
        return f"operator.{name}"
    return str(target)
