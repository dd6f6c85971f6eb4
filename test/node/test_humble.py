# SPDX-License-Identifier: Apache-2.0
"""What of rclpy the sources use, held against a list of what ROS 2 Humble's has.

The tests run with a later rclpy, which would not notice. data/rclpy_humble.json was checked against
the branch humble of ros2/rclpy; whoever uses more looks there first, and adds it. What only later
ones have is got by getattr with a default, which this test does not see.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator

import pytest
import rclpy.client
import rclpy.clock
import rclpy.context
import rclpy.executors
import rclpy.lifecycle
import rclpy.parameter
import rclpy.publisher
import rclpy.qos
import rclpy.subscription
import rclpy.time
import rclpy.timer
from paths import ROOT

SOURCES = sorted((ROOT / "depthforge_ros" / "ros").rglob("*.py"))
HUMBLE = json.loads((ROOT / "test" / "data" / "rclpy_humble.json").read_text("utf-8"))
CLASSES = (
    rclpy.client.Client,
    rclpy.clock.Clock,
    rclpy.context.Context,
    rclpy.executors.SingleThreadedExecutor,
    rclpy.lifecycle.LifecycleNode,
    rclpy.lifecycle.LifecyclePublisher,
    rclpy.parameter.Parameter,
    rclpy.qos.QoSProfile,
    rclpy.subscription.Subscription,
    rclpy.time.Time,
    rclpy.timer.Timer,
)
MEMBERS = {n for kind in CLASSES for n, _ in inspect.getmembers(kind) if n[0] != "_"}


def name_of(node: ast.Attribute) -> str:
    """`a` of `a.b`, "" where something longer stands before the last point."""
    return getattr(node.value, "id", "")


def imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names below rclpy that a file imports, or reaches through the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rclpy":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("rclpy."))
        elif isinstance(node, ast.Attribute) and name_of(node) in ("rclpy", "rclpy_implementation"):
            yield f"{name_of(node)}.{node.attr}"


def members(tree: ast.Module) -> Iterator[str]:
    """Attributes by whatever object, where rclpy has one of that name."""
    own = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    for node in ast.walk(tree):
        # What argparse parsed is not rclpy's.
        if isinstance(node, ast.Attribute) and name_of(node) != "args":
            yield from {node.attr} & MEMBERS - own


def keywords(tree: ast.Module) -> Iterator[str]:
    """`callable(keyword=)` for every callable of the list."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in HUMBLE["keywords"]:
                yield from (f"{name}({k.arg}=)" for k in node.keywords)


def used() -> dict[str, set[str]]:
    trees = [ast.parse(path.read_text("utf-8")) for path in SOURCES]
    finders = {"names": imported, "members": members, "keywords": keywords}
    return {kind: {n for t in trees for n in find(t)} for kind, find in finders.items()}


def listed() -> dict[str, set[str]]:
    pairs = {f"{name}({k}=)" for name, words in HUMBLE["keywords"].items() for k in words}
    return {"names": {*HUMBLE["names"]}, "members": {*HUMBLE["members"]}, "keywords": pairs}


@pytest.mark.parametrize("kind", ["names", "members", "keywords"])
def test_nothing_is_used_that_humble_does_not_have(kind: str) -> None:
    assert used()[kind] - listed()[kind] == set()


def test_a_later_call_would_be_noticed() -> None:
    tree = ast.parse(
        "import rclpy.event_handler\n"
        "from rclpy.executors import EventsExecutor\n"
        "rclpy.init(domain_id=1, later=2)\n"
        "node.create_subscription(A, 'a', f, 1, content_filter_options=o)\n"
        "node.get_type_description()\n"
        "node.wait_for_node('camera', 1.0)\n"
    )
    names = {"rclpy.event_handler", "rclpy.executors.EventsExecutor", "rclpy.init"}
    assert set(imported(tree)) == names
    assert names - listed()["names"] == names - {"rclpy.init"}
    assert set(keywords(tree)) - listed()["keywords"] == {
        "init(later=)",
        "create_subscription(content_filter_options=)",
    }
    assert set(members(tree)) - listed()["members"] == {"wait_for_node"}
