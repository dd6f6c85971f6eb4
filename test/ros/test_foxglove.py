# SPDX-License-Identifier: Apache-2.0
"""The Foxglove layout: its topics, titles and cameras."""

from __future__ import annotations

import json
import math

import numpy as np
import yaml
from paths import ROOT

RVIZ = ROOT / "rviz" / "depthforge.rviz"


def panels(tree: dict | str) -> list[str]:
    """The panels of a Foxglove layout, from left to right and top to bottom."""
    if isinstance(tree, str):
        return [tree]
    assert tree["direction"] in ("row", "column")
    return panels(tree["first"]) + panels(tree["second"])


def test_the_foxglove_layout_names_topics_and_titles() -> None:
    content = json.loads((ROOT / "config" / "foxglove_layout.json").read_text("utf-8"))
    configs = content["configById"]
    assert sorted(panels(content["layout"])) == sorted(configs)
    assert {name.partition("!")[0] for name in configs} == {"Image", "3D", "DiagnosticSummary"}
    shown = [c["imageMode"]["imageTopic"] for n, c in configs.items() if n.startswith("Image!")]
    assert shown == ["/image"] + [
        f"/depthforge/{n}" for n in ("overlay", "semantic_color", "legend")
    ]
    assert configs["DiagnosticSummary!diagnostics"]["topicToRender"] == "/diagnostics"
    # Foxglove and Lichtblick read the title by a key of their own.
    assert all(c["foxglovePanelTitle"] == c["lichtblickPanelTitle"] for c in configs.values())
    # Lichtblick has no colour mode for 32FC1, so depth is the cloud, coloured by z, seen from the
    # camera: both honour that.
    points, depth = (
        configs[f"3D!{n}"]["topics"]["/depthforge/points"] for n in ("points", "depth")
    )
    assert points["colorMode"] == "rgb"
    kept = ("colorField", "colorMode", "minValue", "maxValue")
    assert [depth[k] for k in kept] == ["z", "colormap", 0, 80]


def eye(camera: dict) -> tuple[np.ndarray, np.ndarray]:
    """Position and upward direction of a Foxglove camera (CameraStateSettings.ts of Lichtblick)."""
    phi, theta = (math.radians(camera[key]) for key in ("phi", "thetaOffset"))
    assert theta == 0
    back = np.array([0, -math.sin(phi), math.cos(phi)])
    up = np.array([0, math.cos(phi), math.sin(phi)])
    return np.array(camera["targetOffset"]) + camera["distance"] * back, up


def test_both_views_are_from_behind_the_camera_and_upright() -> None:
    """In an optical frame: x right, y down, z ahead (REP 103)."""
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text("utf-8"))
    place, up = eye(layout["configById"]["3D!points"]["cameraState"])
    view = yaml.safe_load(RVIZ.read_text("utf-8"))["Visualization Manager"]["Views"]["Current"]
    pitch, yaw, distance = view["Pitch"], view["Yaw"], view["Distance"]
    offset = [math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)]
    focus = np.array([view["Focal Point"][axis] for axis in "XYZ"])
    assert np.allclose(place, focus + distance * np.array(offset), atol=0.3)
    assert max(place[1], place[2], up[1]) < 0
    place, up = eye(layout["configById"]["3D!depth"]["cameraState"])
    assert np.allclose(place, 0)
    assert np.allclose(up, [0, -1, 0])
