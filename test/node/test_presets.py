# SPDX-License-Identifier: Apache-2.0
"""The presets of config/presets, over the parameter file and through the node's declarations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml
from dds import own_domain
from paths import ROOT

from depthforge_ros.ros.node.node import DepthForgeNode
from depthforge_ros.ros.node.parameters import Parameters

CONFIG = ROOT / "config"
DEFAULTS = CONFIG / "depthforge.yaml"
PRESETS = sorted((CONFIG / "presets").glob("*.yaml"))
WANTED = {
    "cpu": {"device": "cpu", "max_frame_age_s": 3.0},
    "desktop_gpu": {"device": "cuda", "mode": "slide"},
    "orin": {"device": "cuda", "max_batch": 4},
}


def values_of(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text("utf-8"))["/**"]["ros__parameters"]


def test_there_is_a_preset_for_each_kind_of_computer() -> None:
    assert [path.stem for path in PRESETS] == sorted(WANTED)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_holds_what_differs_and_nothing_else(path: Path) -> None:
    defaults, preset = dataclasses.asdict(Parameters()), values_of(path)
    assert {n: (type(v), v != defaults[n]) for n, v in preset.items()} == {
        n: (type(defaults[n]), True) for n in preset
    }
    assert preset.items() >= WANTED[path.stem].items()


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_node_takes_a_preset_over_the_parameter_file(path: Path) -> None:
    files = ["--params-file", str(DEFAULTS), "--params-file", str(path)]
    rclpy.init(args=["--ros-args", *files, "-p", "autostart:=false"], domain_id=own_domain())
    try:
        node = DepthForgeNode()
        there = {name: node.get_parameter(name).value for name in values_of(DEFAULTS)}
        assert node.close()
    finally:
        rclpy.try_shutdown()
    assert there == {**values_of(DEFAULTS), **values_of(path), "autostart": False}
