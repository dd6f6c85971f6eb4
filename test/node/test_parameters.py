# SPDX-License-Identifier: Apache-2.0
"""Every parameter: declared once, documented, read by the node, and refused where it is wrong."""

from __future__ import annotations

import ast
import dataclasses
import math
from typing import Any

import pytest
import yaml
from paths import ROOT
from rcl_interfaces.msg import ParameterType

from depthforge_ros.ground import GroundSettings
from depthforge_ros.pipeline import Mode, PipelineSettings
from depthforge_ros.ros.node.parameter_descriptors import changed, declarations
from depthforge_ros.ros.node.parameter_field import Effect
from depthforge_ros.ros.node.parameters import Parameters

FIELDS = {field.name: field for field in dataclasses.fields(Parameters)}
OTHER_VALUES: dict[str, Any] = {
    "variant": "dinov2_s",
    "checkpoint": "instant",
    "device": "cpu",
    "backend": "eager",
    "precision": "bf16",
    "image_size": "1920x1080, 640x480",
    "threads": 2,
    "image_transport": "compressed",
    "cameras": ("front", "left"),
    "encoding": "bayer_rggb8",
    "sample_bits": 12,
    "rectified": "true",
    "complete_sets": True,
    "camera_poses": "front 1 0.5 1.4 0 0.1 -1.57",
    "mode": "slide",
    "short_side_px": 256,
    "max_batch": 3,
    "confidence_threshold": 0.5,
    "full_size": False,
    "outputs": "semantic, depth",
    "max_depth_m": 80.0,
    "depth_confidence_threshold": 0.5,
    "palette": "person=#ff0000, traffic light=#00FF80",
    "overlay_opacity": 0.25,
    "camera_height_m": 1.4,
    "base_frame": "base_link",
    "camera_x_m": 1.5,
    "camera_y_m": -0.5,
    "camera_roll_rad": 0.01,
    "camera_pitch_rad": 0.1,
    "camera_yaw_rad": -1.5,
    "drivable_classes": "road,terrain",
    "obstacle_classes": "person,car",
    "drivable_cell_m": 0.5,
    "drivable_range_m": 20.0,
    "obstacle_height_m": 3.0,
    "ground_tolerance_m": 0.1,
    "max_rate_hz": 5.0,
    "stall_after_s": 9.0,
    "stall_error_after_s": 19.0,
    "max_inference_s": 3.0,
    "max_frame_age_s": 0.0,
    "drop_stale": False,
    "degradation_warn": 0.5,
    "depth_scale_warn": 0.5,
    "degradation_error": 0.6,
    "autostart": False,
}


def test_the_parameter_file_holds_every_parameter_with_its_default() -> None:
    content = yaml.safe_load((ROOT / "config" / "depthforge.yaml").read_text("utf-8"))
    values = content["/**"]["ros__parameters"]
    values["cameras"] = tuple(values["cameras"])
    assert values == dataclasses.asdict(Parameters())
    assert {k: type(v) for k, v in values.items()} == {
        k: type(v) for k, v in dataclasses.asdict(Parameters()).items()
    }


def test_every_parameter_is_read() -> None:
    """As an attribute that is no method, in a file other than the one that declares it or in what
    it offers.
    """
    read, readers = set(), ("pipeline_settings", "image_sizes", "colors", "poses")
    for path in (ROOT / "depthforge_ros" / "ros").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        if path.name == "parameters.py":
            own = [
                n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in readers
            ]
            tree = ast.Module(own, [])
        methods = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        read |= {node.attr for node in attributes if id(node) not in methods}
    assert set(FIELDS) - read == set()


def test_what_concerns_the_pipeline_reaches_it() -> None:
    expected = Parameters(
        mode="slide",
        short_side_px=256,
        confidence_threshold=0.25,
        full_size=False,
        max_batch=3,
    )
    assert expected.pipeline_settings() == PipelineSettings(
        mode=Mode.SLIDE,
        short_side_px=256,
        confidence_threshold=0.25,
        full_size=False,
        max_batch=3,
    )
    assert Parameters().pipeline_settings() == PipelineSettings()


def test_descriptors_carry_type_range_and_description() -> None:
    described = {name: (default, d) for name, default, d in declarations()}
    assert set(described) == set(FIELDS)
    default, threshold = described["confidence_threshold"]
    assert default == 0.0
    assert threshold.type == ParameterType.PARAMETER_DOUBLE
    (allowed,) = threshold.floating_point_range
    assert (allowed.from_value, allowed.to_value, allowed.step) == (0.0, 1.0, 0.0)
    assert threshold.description.endswith("Takes effect at the next frame.")
    _, batch = described["max_batch"]
    assert (batch.integer_range[0].from_value, batch.integer_range[0].to_value) == (1, 64)
    assert described["mode"][1].additional_constraints == "One of whole, slide."
    # A dump must be loadable, so read-only is only what rclpy declares so.
    assert not any(d.read_only for _, d in described.values())
    assert all(len(d.description) > 30 for _, d in described.values())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"mode": "fast"}, "mode is 'fast'; expected one of whole, slide"),
        (
            {"image_transport": "theora"},
            "image_transport is 'theora'; expected one of raw, compress",
        ),
        ({"image_size": "1920*1080"}, "image_size is '1920*1080'; expected WIDTHxHEIGHT"),
        ({"backend": "onnx"}, "backend is 'onnx'; expected one of auto, eager, openvino, tensorrt"),
        ({"short_side_px": 63}, "short_side_px is 63; expected 0 or 64..4096"),
        ({"short_side_px": 4097}, "short_side_px is 4097; expected 0..4096"),
        ({"confidence_threshold": 1.01}, "confidence_threshold is 1.01; expected 0.0..1.0"),
        ({"confidence_threshold": math.nan}, "confidence_threshold is nan; expected 0.0..1.0"),
        ({"max_batch": 0}, "max_batch is 0; expected 1..64"),
        ({"camera_height_m": 0.05}, "camera_height_m is 0.05; expected 0 or 0.1..10"),
        (
            {"outputs": "semantic,dept"},
            "outputs is 'semantic,dept'; expected all, or some of semant",
        ),
        ({"outputs": " , "}, "outputs is ' , '; expected all, or some of semantic, confidence"),
        (
            {"palette": "person=red"},
            "palette is 'person=red'; expected CLASS=#RRGGBB, like person",
        ),
        ({"palette": "person=#ff00000"}, "palette is 'person=#ff00000'; expected CLASS=#RRGGBB"),
        (
            {"palette": "car=#ff0000,car=#00ff00"},
            "palette is 'car=#ff0000,car=#00ff00'; expected CLASS",
        ),
        ({"palette": "car==#ff0000"}, "palette is 'car==#ff0000'; expected CLASS=#RRGGBB"),
        (
            {"depth_confidence_threshold": 1.5},
            "depth_confidence_threshold is 1.5; expected 0.0..1.0",
        ),
        ({"encoding": "rgb24"}, "encoding is 'rgb24'; expected nothing, or one of rgb8, bgr8"),
        ({"camera_poses": "front 1 2"}, "camera_poses has 'front 1 2'; expected CAMERA x y z roll"),
        (
            {"camera_poses": "rear 0 0 1 0 0 0, rear 0 0 1 0 0 0"},
            "camera_poses has 'rear' twice; expected it once",
        ),
        (
            {"cameras": ("front",), "camera_poses": "front 0 0 0 0 0 0"},
            "camera_poses has 'front 0 0 0 0 0 0'; expected CAMERA x y z roll pitch yaw, several "
            "joined by commas: height_m is 0.0; expected 0.1..10",
        ),
        ({"sample_bits": 8}, "sample_bits is 8; expected 0 or 9..16"),
        ({"max_rate_hz": -1.0}, "max_rate_hz is -1.0; expected 0.0..1000.0"),
        ({"full_size": False, "overlay_opacity": 2.0}, "overlay_opacity is 2.0; expected 0.0..1.0"),
    ],
)
def test_a_wrong_value_is_refused_with_a_reason_and_changes_nothing(
    values: dict[str, Any], reason: str
) -> None:
    current = Parameters(max_batch=4)
    after, answer = changed(current, values, unconfigured=True)
    assert after is current
    assert not answer.successful
    assert answer.reason.startswith(reason)


def test_a_palette_names_classes_and_their_colours() -> None:
    values = Parameters(palette="person=#ff0000, traffic light=#00FF80,")
    assert values.colors() == {"person": (255, 0, 0), "traffic light": (0, 255, 128)}
    assert Parameters().colors() == {}


def allows(kind: type, **values: float) -> bool:
    try:
        kind(**values)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("short_side_px", [1, 63, 64, 4096, 4097])
def test_parameters_and_pipeline_allow_the_same_short_sides(short_side_px: int) -> None:
    allowed = [allows(kind, short_side_px=short_side_px) for kind in (Parameters, PipelineSettings)]
    assert allowed == [64 <= short_side_px <= 4096] * 2


@pytest.mark.parametrize("height_m", [0.001, 0.0999, 0.1, 10.0, 10.1, math.nan])
def test_parameters_and_ground_allow_the_same_heights(height_m: float) -> None:
    allowed = [allows(kind, camera_height_m=height_m) for kind in (Parameters, GroundSettings)]
    assert allowed == [0.1 <= height_m <= 10.0] * 2


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("unconfigured", [True, False])
def test_a_value_acts_when_it_says_so(name: str, unconfigured: bool) -> None:
    current = Parameters()
    assert OTHER_VALUES[name] != getattr(current, name)
    after, answer = changed(current, {name: OTHER_VALUES[name]}, unconfigured=unconfigured)
    effect = FIELDS[name].metadata["effect"]
    if effect is Effect.STARTUP:
        assert not answer.successful
        assert (
            answer.reason == f"'{name}' is read once at the start; give it when the node is started"
        )
        assert after is current
    elif effect is Effect.LIVE or unconfigured:
        assert answer.successful
        assert after == dataclasses.replace(current, **{name: OTHER_VALUES[name]})
    else:
        assert not answer.successful
        assert answer.reason == f"'{name}' takes effect in configure; deactivate and clean up first"
        assert after is current


def test_setting_what_is_set_already_is_no_change() -> None:
    current = Parameters(variant="nano")
    after, answer = changed(current, {"variant": "nano", "max_batch": 2}, unconfigured=False)
    assert answer.successful
    assert after.max_batch == 2


def test_parameters_of_others_are_not_judged() -> None:
    after, answer = changed(Parameters(), {"use_sim_time": True}, unconfigured=False)
    assert answer.successful
    assert after == Parameters()
