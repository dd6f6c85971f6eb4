# SPDX-License-Identifier: Apache-2.0
"""The node among others: two side by side, and one that takes what another's parameters were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
import yaml
from dds import own_domain
from lifecycle_msgs.srv import GetState
from nodes import Bench, image_message, running_node
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from depthforge_ros.ros.node.node import DepthForgeNode


def test_two_nodes_side_by_side_share_nothing(tmp_path: Path) -> None:
    domain = own_domain()
    sides = ("front", "rear")
    with Bench(domain) as bench:
        cameras = {s: bench.node.create_publisher(Image, f"/cam/{s}", 1) for s in sides}
        heard = {s: bench.subscribe(Image, f"/{s}/depthforge/semantic", 10) for s in sides}
        for side in sides:
            (tmp_path / side).mkdir()

        def node(side: str, **values: Any) -> Any:
            names = (f"__ns:=/{side}", f"image:=/cam/{side}")
            return running_node(domain, tmp_path / side, *names, checkpoint="instant", **values)

        with node("front"), node("rear", confidence_threshold=0.95):
            for number, side in enumerate(sides):
                bench.image = cameras[side]
                answer = bench.exchange(image_message(number), heard[side])
                # Each by its own parameters: road and sky, or nothing certain enough.
                assert set(answer.data) == ({0, 10} if side == "front" else {255})
            seconds = {side: {m.header.stamp.sec for m in heard[side]} for side in sides}
            assert seconds == {"front": {1_700_000_000}, "rear": {1_700_000_001}}
            reported: dict[str, str] = {}

            def both_told() -> bool:
                for report in bench.diagnostics:
                    values = {v.key: v.value for v in report.status[0].values}
                    reported[report.status[0].name] = values["input topic"]
                return len(reported) == 2

            bench.spin_until(both_told)
            assert reported == {f"{s}/depthforge: inference": f"/cam/{s}" for s in sides}
            for side in sides:
                bench.name = f"/{side}/depthforge"
                state = bench.call(GetState, "get_state", GetState.Request())
                assert state.current_state.label == "active"


@contextmanager
def in_process(*arguments: str) -> Iterator[DepthForgeNode]:
    given = ["--ros-args", "-p", "autostart:=false", *arguments]
    rclpy.init(args=given, domain_id=own_domain())
    try:
        node = DepthForgeNode()
        yield node
        assert node.close()
    finally:
        rclpy.try_shutdown()


def dumped(node: DepthForgeNode) -> dict[str, Any]:
    """The file that `ros2 param dump` writes: dots in names become levels."""
    content: dict[str, Any] = {}
    for name, parameter in node.get_parameters_by_prefix("").items():
        *levels, last = name.split(".")
        inner = content
        for level in levels:
            inner = inner.setdefault(level, {})
        value = parameter.value
        inner[last] = list(value) if isinstance(value, list | tuple) else value
    return {node.get_fully_qualified_name(): {"ros__parameters": content}}


def test_what_is_dumped_can_be_loaded(tmp_path: Path) -> None:
    first_values = {
        "confidence_threshold": 0.25,
        "outputs": "semantic,depth",
        "max_depth_m": 60.0,
        "mode": "slide",
        "max_batch": 3,
        "drop_stale": False,
    }
    with in_process("-p", "checkpoint:=instant") as node:
        # Configured, it has parameters for the QoS of its publishers and subscriptions too.
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        results = node.set_parameters([Parameter(n, value=v) for n, v in first_values.items()])
        assert all(result.successful for result in results)
        first = dumped(node)
    file = tmp_path / "dump.yaml"
    file.write_text(yaml.safe_dump(first), "utf-8")
    values = first["/depthforge"]["ros__parameters"]
    assert "/image" in values["qos_overrides"]
    assert values.items() >= first_values.items()
    with in_process("--params-file", str(file)) as node:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        assert dumped(node) == first
