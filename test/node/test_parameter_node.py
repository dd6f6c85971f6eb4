# SPDX-License-Identifier: Apache-2.0
"""Setting parameters: validated first, acted upon afterwards; and the names of the inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from dds import own_domain
from rcl_interfaces.msg import SetParametersResult
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter

from depthforge_ros.ros.node.camera_names import Topics, input_topics
from depthforge_ros.ros.node.node import DepthForgeNode
from depthforge_ros.ros.node.parameter_node import ParameterNode
from depthforge_ros.ros.node.parameters import Parameters


class Noted(ParameterNode):
    """Notes what it acts upon."""

    def __init__(self) -> None:
        self.acted: list[tuple[Parameters, Parameters]] = []
        super().__init__("depthforge")

    def is_unconfigured(self) -> bool:
        return False

    def parameters_changed(self, before: Parameters) -> None:
        self.acted.append((before, self.values))


@pytest.fixture
def _ros() -> Iterator[None]:
    rclpy.init(args=[], domain_id=own_domain())
    yield
    rclpy.try_shutdown()


@pytest.fixture
def node(_ros: None) -> Iterator[Noted]:
    made = Noted()
    yield made
    made.destroy_node()


@pytest.fixture
def humble(_ros: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Noted]:
    """A node whose rclpy has no callbacks after setting, as Humble's."""
    monkeypatch.delattr(Node, "add_post_set_parameters_callback")
    made = Noted()
    yield made
    made.destroy_node()


def set_to(node: Node, **values: Any) -> SetParametersResult:
    """What rclpy's service does for a request."""
    return node.set_parameters_atomically([Parameter(n, value=v) for n, v in values.items()])


@pytest.mark.parametrize("rclpy_of", ["node", "humble"])
def test_a_parameter_acts_once_it_is_set_and_never_before(
    rclpy_of: str, request: pytest.FixtureRequest
) -> None:
    node = request.getfixturevalue(rclpy_of)
    before = node.values
    assert set_to(node, palette="person=#ff0000", max_batch=3).successful
    assert [after.max_batch for _, after in node.acted] == [3]
    assert node.acted[0][0] is before
    # Another callback refuses what this node would accept: nothing has happened.
    node.add_on_set_parameters_callback(
        lambda _: SetParametersResult(successful=False, reason="not now")
    )
    assert set_to(node, max_batch=4).reason == "not now"
    assert (len(node.acted), node.values.max_batch) == (1, 3)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"camera_height_m": 1}, "camera_height_m is 1, an integer; expected a double: write 1.0"),
        ({"palette": "cow=#ffffff"}, "a colour is given for cow; expected some of road,"),
        ({"variant": "dinov2_s"}, "'variant' takes effect in configure; deactivate and clean up"),
        ({"autostart": False}, "'autostart' is read once at the start; give it when the node"),
        ({"max_batch": 2.5}, "Wrong parameter type"),
    ],
)
def test_a_refusal_says_why_and_changes_nothing(node: Noted, values: dict, reason: str) -> None:
    before = node.values
    result = set_to(node, **values)
    assert not result.successful
    assert result.reason.startswith(reason)
    assert node.values is before
    assert not node.acted


def test_a_dump_can_be_loaded_but_for_what_rclpy_itself_fixes(node: Noted) -> None:
    names = node.list_parameters([], 0).names
    refused = {
        parameter.name
        for parameter in node.get_parameters(names)
        if not node.set_parameters_atomically([parameter]).successful
    }
    stock = {n for n in names if n.startswith("qos_overrides.")} | {
        "start_type_description_service"
    }
    assert refused <= stock
    assert set(Parameters.__dataclass_fields__) <= set(names)


def test_the_private_parts_of_rclpy_that_are_used_are_still_there(node: Noted) -> None:
    """Without them, a wrong transition ends the process, and a typo in a start value is silent."""
    assert isinstance(node._parameter_overrides, dict)
    assert callable(node._service_change_state.callback)
    assert isinstance(node, LifecycleNode)
    assert DepthForgeNode._survive_wrong_transitions


@pytest.mark.parametrize(
    ("remaps", "transport", "camera", "topics"),
    [
        ([], "raw", "", ("/image", "/camera_info")),
        ([], "compressed", "front", ("/front/image/compressed", "/front/camera_info")),
        (["image:=/cam/image_raw"], "raw", "", ("/cam/image_raw", "/cam/camera_info")),
        (
            ["image:=/cam/image_raw"],
            "compressed",
            "",
            ("/cam/image_raw/compressed", "/cam/camera_info"),
        ),
        (
            ["image:=/cam/image_raw", "camera_info:=/calib"],
            "raw",
            "",
            ("/cam/image_raw", "/calib"),
        ),
        (
            ["image:=/a/image", "image/compressed:=/b/jpeg"],
            "compressed",
            "",
            ("/b/jpeg", "/a/camera_info"),
        ),
        (["__ns:=/robot"], "raw", "", ("/robot/image", "/robot/camera_info")),
        (
            ["front/image:=/cams/f/image_rect"],
            "raw",
            "front",
            ("/cams/f/image_rect", "/cams/f/camera_info"),
        ),
    ],
)
def test_inputs_are_beside_the_resolved_image(
    remaps: list[str], transport: str, camera: str, topics: tuple[str, str]
) -> None:
    context = Context()
    rclpy.init(context=context, args=[], domain_id=own_domain())
    arguments = ["--ros-args", *(word for remap in remaps for word in ("-r", remap))]
    node = Node("n", context=context, cli_args=arguments)
    try:
        assert input_topics(node, camera, transport) == Topics(*topics)
    finally:
        node.destroy_node()
        context.try_shutdown()
