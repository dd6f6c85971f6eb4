# SPDX-License-Identifier: Apache-2.0
"""Which operators of a network TensorRT would leave to PyTorch, found without TensorRT or a GPU.

An operator that is not converted cuts the graph in two, with a trip through PyTorch between. The
names of what torch-tensorrt converts are data, models/engines/torch_tensorrt.yaml. They are names:
an operator may still be refused for its arguments, which only a build tells.
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
    """Names of operators by what a version of torch-tensorrt does with them; see the file."""

    torch_tensorrt: str
    source: str
    converted: tuple[str, ...]
    rewritten: tuple[str, ...]
    decomposed: tuple[str, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]

    @classmethod
    def load(cls) -> ConvertedOperators:
        """What ships with the package. Raises ValueError or OSError naming the file."""
        return read_yaml(shipped_folder("models") / "engines" / FILE, cls, {})


@dataclass(frozen=True)
class Audit:
    """operators: how many of each a graph has once decomposed. fallbacks: those left to PyTorch."""

    operators: dict[str, int]
    fallbacks: dict[str, int]


def audit(program: ExportedProgram, table: ConvertedOperators | None = None) -> Audit:
    """Decompose a program as torch-tensorrt would and look every operator up.

    What does not depend on the images is folded into constants before the conversion, so it is
    not looked up. Works on the meta device.
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
    """Composite operators by PyTorch's own ways, but for those that are kept."""
    chosen = {
        op: way for op, way in default_decompositions().items() if _is_composite(op)
    } | get_decompositions(_resolved(table.decomposed))
    whole = {*table.kept, *table.rewritten}
    return {
        op: way
        for op, way in chosen.items()
        if _name(op) not in whole and _name(op).rpartition(".")[0] not in whole
    }


def _is_composite(op: Any) -> bool:
    """Whether an operator consists of others by nature (CompositeImplicitAutograd)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd")


def _resolved(names: tuple[str, ...]) -> list[Any]:
    """The operators of the names; ones that this PyTorch does not have are left out."""
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
    """aten.linear.default, or operator.getitem."""
    name = getattr(target, "__name__", "")
    if name and getattr(operator, name, None) is target:
        return f"operator.{name}"
    return str(target)
