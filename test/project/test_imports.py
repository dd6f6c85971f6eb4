# SPDX-License-Identifier: Apache-2.0
"""Imports go one way, ROS stays in ros/ and TensorRT in engine/: read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = "depthforge_ros"
PACKAGE = Path(__file__).resolve().parents[2] / ROOT

# A part may import itself and the parts above it in this table; those of one row never each other.
ORDER = (
    ("__init__",),
    ("frame",),
    (
        *("dataclass_yaml", "resources", "cpu_tuning", "file_lock", "image_size", "interrupt"),
        *("file_sync", "pixel_rays"),
    ),
    ("variant",),
    ("ground", "occupancy", "condition", "legend", "network_arguments", "transport_command"),
    ("network",),
    ("engine", "street"),
    ("pipeline",),
    ("learning", "ros"),
    ("demo", "benchmark", "doctor", "weights"),
    ("cli",),
)
RANK = {part: rank for rank, row in enumerate(ORDER) for part in row}

# The same inside ros/: the node imports no tool, and no tool imports the node.
ROS_ORDER = (
    ("__init__", "jpeg_png", "serialized"),
    ("images",),
    ("messages",),
    ("calibration",),
    ("metric", "qos_check"),
    ("node", "bags"),
    ("play", "harness"),
    ("monitor",),
)
ROS_RANK = {room: rank for rank, row in enumerate(ROS_ORDER) for room in row}
VEHICLE = "node"

WITHOUT_TORCH = {
    "__init__",
    "frame",
    "image_size",
    "pixel_rays",
    "resources",
    "dataclass_yaml",
    "variant",
    "street",
    "ground",
    "cli",
}
WITHOUT_TORCH |= {"transport_command", "occupancy", "condition", "legend"}
WITHOUT_TORCH |= {"cpu_tuning", "file_lock", "file_sync", "network_arguments"}
ROS_PACKAGES = {
    "ament_index_python",
    "builtin_interfaces",
    "cv_bridge",
    "launch",
    "launch_ros",
    "message_filters",
    "rcl_interfaces",
    "rclpy",
    "rosbag2_py",
    "rosbags",
    "std_srvs",
    "tf2_ros",
}
TENSORRT = {"tensorrt", "torch_tensorrt"}


@dataclass(frozen=True)
class Import:
    """`line` of a file imports the dotted module `target`; lazy: not when the file is loaded."""

    target: str
    line: int
    lazy: bool


def imports_of(path: Path, package: str) -> Iterator[Import]:
    """Every import in the file, relative ones resolved against `package`."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, lazy)
            elif isinstance(child, ast.ImportFrom):
                base = resolve_name("." * child.level + (child.module or ""), package)
                for alias in child.names:
                    yield Import(f"{base}.{alias.name}", child.lineno, lazy)
            elif isinstance(child, ast.Call):
                called = child.func
                name = getattr(called, "attr", getattr(called, "id", ""))
                if name in ("import_module", "__import__"):
                    yield Import("<a string>", child.lineno, lazy)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, lazy or inside)

    yield from walk(ast.parse(path.read_text("utf-8"), str(path)), lazy=False)


def part_of(module: str, root: Path) -> str:
    """The row entry that a dotted name below the package belongs to."""
    part = module.split(".")[1] if "." in module else "__init__"
    exists = (root / part).is_dir() or (root / f"{part}.py").is_file()
    return part if exists else "__init__"  # `from depthforge_ros import __version__`


def why_not_in_ros(room: str, found: Import) -> str | None:
    """The rule inside ros/ that forbids `room` this import, None if it is allowed."""
    other = found.target.split(".")[2]
    if room not in ROS_RANK or other not in ROS_RANK:
        return f"ros/{room if room not in ROS_RANK else other} has no place in the order"
    if other != room and (other == VEHICLE or ROS_RANK[other] >= ROS_RANK[room]):
        return f"ros/{room} may not import ros/{other}"
    return None


def why_not(inner: Path, found: Import, root: Path) -> str | None:
    """The rule that forbids the file at `inner` this import, None if it is allowed."""
    part = inner.parts[0].removesuffix(".py")
    top = found.target.split(".")[0]
    if found.target == "<a string>":
        return None if part == "cli" else "an import must not be a string"
    if found.target.startswith(f"{ROOT}.ros.") and part == "ros":
        return why_not_in_ros(inner.parts[1].removesuffix(".py"), found)
    if top == ROOT:
        other = part_of(found.target, root)
        if other not in RANK:
            return f"{other} has no place in the order"
        if other != part and RANK[other] >= RANK[part]:
            return f"{part} may not import {other}"
    elif top == "torch" and part in WITHOUT_TORCH:
        return f"{part} does without torch"
    elif (top in ROS_PACKAGES or top.endswith("_msgs")) and part != "ros":
        return "ROS is imported in ros only"
    elif top in TENSORRT and part != "engine":
        return "TensorRT is imported in engine only"
    elif top in TENSORRT and not found.lazy:
        return "TensorRT is imported inside functions only"
    return None


def forbidden(root: Path) -> list[str]:
    """One line for everything below the package folder `root` that breaks a rule."""
    problems = []
    for path in sorted(root.rglob("*.py")):
        inner = path.relative_to(root)
        part = inner.parts[0].removesuffix(".py")
        if part not in RANK:
            problems.append(f"{inner.as_posix()}: {part} has no place in the order")
            continue
        package = ".".join([ROOT, *inner.parts[:-1]])
        for found in imports_of(path, package):
            reason = why_not(inner, found, root)
            if reason:
                where = f"{inner.as_posix()}:{found.line}"
                problems.append(f"{where}: imports {found.target}: {reason}")
    return problems


def test_the_package_keeps_the_order() -> None:
    read = {
        path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")
    }
    assert {"frame", "variant", "network", "engine", "pipeline", "ros", "cli"} <= read
    assert forbidden(PACKAGE) == []


def tree(root: Path, files: dict[str, str]) -> Path:
    """A package with every part of the order empty, and `files` on top."""
    names = {f"{part}.py" for row in ORDER for part in row} - {"ros.py", "learning.py", "engine.py"}
    empty = dict.fromkeys(
        names | {"ros/__init__.py", "learning/__init__.py", "engine/__init__.py"}, ""
    )
    for name, text in (empty | files).items():
        path = root / ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root / ROOT


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "ros/node.py",
            "import depthforge_ros.learning.loop\n",
            "ros/node.py:1: imports depthforge_ros.learning.loop: ros may not import learning",
        ),
        (
            "learning/train.py",
            "from ..ros import node\n",
            "learning/train.py:1: imports depthforge_ros.ros.node: learning may not import ros",
        ),
        (
            "engine/eager.py",
            "def f():\n    from depthforge_ros import pipeline\n",
            "engine/eager.py:2: imports depthforge_ros.pipeline: engine may not import pipeline",
        ),
        (
            "engine/self_check.py",
            "from depthforge_ros.street import StreetDrive\n",
            "engine/self_check.py:1: imports depthforge_ros.street.StreetDrive: "
            "engine may not import street",
        ),
        (
            "network.py",
            "from .engine.output import X\n",
            "network.py:1: imports depthforge_ros.engine.output.X: network may not import engine",
        ),
        (
            "frame.py",
            "from depthforge_ros import __version__, variant\n",
            "frame.py:1: imports depthforge_ros.variant: frame may not import variant",
        ),
        ("street.py", "import torch\n", "street.py:1: imports torch: street does without torch"),
        (
            "variant.py",
            "def f():\n    import torch.nn\n",
            "variant.py:2: imports torch.nn: variant does without torch",
        ),
        (
            "pipeline.py",
            "from sensor_msgs.msg import Image\n",
            "pipeline.py:1: imports sensor_msgs.msg.Image: ROS is imported in ros only",
        ),
        (
            "learning/data.py",
            "if True:\n    import rosbags.highlevel\n",
            "learning/data.py:2: imports rosbags.highlevel: ROS is imported in ros only",
        ),
        (
            "ros/node.py",
            "def f():\n    import tensorrt\n",
            "ros/node.py:2: imports tensorrt: TensorRT is imported in engine only",
        ),
        (
            "engine/trt.py",
            "try:\n    import torch_tensorrt\nexcept ImportError:\n    pass\n",
            "engine/trt.py:2: imports torch_tensorrt: TensorRT is imported inside functions only",
        ),
        (
            "pipeline.py",
            "import importlib\nf = importlib.import_module('torch')\n",
            "pipeline.py:2: imports <a string>: an import must not be a string",
        ),
        (
            "ros/node/node.py",
            "from depthforge_ros.ros.bags import reader\n",
            "ros/node/node.py:1: imports depthforge_ros.ros.bags.reader: "
            "ros/node may not import ros/bags",
        ),
        (
            "ros/harness/graph.py",
            "from depthforge_ros.ros.node.parameters import Parameters\n",
            "ros/harness/graph.py:1: imports depthforge_ros.ros.node.parameters.Parameters: "
            "ros/harness may not import ros/node",
        ),
        ("utils.py", "", "utils.py: utils has no place in the order"),
    ],
)
def test_a_forbidden_arrow_is_reported(tmp_path: Path, name: str, text: str, problem: str) -> None:
    assert forbidden(tree(tmp_path, {name: text})) == [problem]


def test_allowed_arrows_are_not_reported(tmp_path: Path) -> None:
    files = {
        "variant.py": "from depthforge_ros.frame import Frame\nimport numpy\n",
        "engine/trt.py": "import torch\nfrom .. import network\ndef f():\n    import tensorrt\n",
        "engine/__init__.py": "from .trt import f\n",
        "ros/node.py": "import rclpy\nfrom std_msgs.msg import String\nfrom ..pipeline import P\n",
        "learning/train.py": "import torch\nfrom depthforge_ros.engine import trt\n",
        "cli.py": "from depthforge_ros import __version__\ndef f():\n    from .ros import node\n",
    }
    assert forbidden(tree(tmp_path, files)) == []
