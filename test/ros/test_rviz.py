# SPDX-License-Identifier: Apache-2.0
"""The RViz configuration against the names that RViz reads, and its rewriting at launch."""

from __future__ import annotations

import ast
from typing import Any

import yaml
from paths import ROOT

from depthforge_ros.ros.node.parameters import LATCHED, OUTPUTS

FILE = ROOT / "rviz" / "depthforge.rviz"
SEGMENT = ROOT / "launch" / "segment.launch.py"

QOS = {"Value", "Depth", "History Policy", "Reliability Policy", "Durability Policy"}
DISPLAY = {"Class", "Name", "Enabled", "Value", "Topic"}
NAMES = {
    "rviz_common/Displays": {"Help Height", "Tree Height", "Property Tree Widget"},
    "rviz_common/Time": {"Experimental", "SyncMode", "SyncSource"},
    "rviz_default_plugins/Image": DISPLAY
    | {"Normalize Range", "Min Value", "Max Value", "Median window"},
    "rviz_default_plugins/PointCloud2": DISPLAY
    | {"Position Transformer", "Color Transformer", "Style", "Size (Pixels)", "Alpha"}
    | {"Decay Time", "Selectable"},
    "rviz_default_plugins/Map": DISPLAY
    | {"Alpha", "Color Scheme", "Draw Behind", "Use Timestamp", "Update Topic"},
    "rviz_default_plugins/Orbit": {"Distance", "Focal Point", "Pitch", "Yaw", "Target Frame"},
    "rviz_default_plugins/MoveCamera": set(),
}
"""Classes and the properties that they read, in the sources of RViz 11.2 (Humble), 14.1 (Jazzy) and
14.3 (Rolling), which agree in these."""

VALUES = {
    "Reliability Policy": {"System Default", "Reliable", "Best Effort"},
    "Durability Policy": {"System Default", "Transient Local", "Volatile"},
    "History Policy": {"System Default", "Keep Last", "Keep All"},
    "Style": {"Points", "Squares", "Flat Squares", "Spheres", "Boxes", "Tiles"},
    "Color Scheme": {"map", "costmap", "raw"},
    "Color Transformer": {"RGB8", "RGBF32", "Intensity", "AxisColor", "FlatColor"},
}

CONTENT = yaml.safe_load(FILE.read_text("utf-8"))
MANAGER = CONTENT["Visualization Manager"]
DISPLAYS = {display["Name"]: display for display in MANAGER["Displays"]}
GEOMETRY = CONTENT["Window Geometry"]


def functions(*names: str) -> dict[str, Any]:
    nodes = ast.parse(SEGMENT.read_text("utf-8")).body
    kept = [n for n in nodes if isinstance(n, ast.FunctionDef) and n.name in names]
    found: dict[str, Any] = {}
    exec(compile(ast.Module(kept, []), str(SEGMENT), "exec"), found)
    return found


def test_every_class_and_property_is_one_that_rviz_reads() -> None:
    views = [MANAGER["Views"]["Current"]]
    for entry in [*CONTENT["Panels"], *MANAGER["Displays"], *MANAGER["Tools"], *views]:
        assert set(entry) <= NAMES[entry["Class"]] | {"Class", "Name"}, entry
        for name in ("Topic", "Update Topic"):
            assert set(entry.get(name, QOS)) == QOS
        values = {**entry, **entry.get("Topic", {})}
        assert all(values[name] in VALUES[name] for name in VALUES.keys() & values.keys())
    assert set(MANAGER["Global Options"]) == {"Background Color", "Fixed Frame", "Frame Rate"}


def test_topics_are_those_of_the_node() -> None:
    topics = {name: display["Topic"]["Value"] for name, display in DISPLAYS.items()}
    assert topics.pop("Image") == "/image"
    names = [topic.removeprefix("/depthforge/") for topic in topics.values()]
    assert set(names) <= {*OUTPUTS, *LATCHED}
    assert DISPLAYS["Drivable"]["Update Topic"]["Value"] == f"{topics['Drivable']}_updates"
    policies = {n: d["Topic"]["Reliability Policy"] for n, d in DISPLAYS.items()}
    assert policies.pop("Legend") == "Reliable"  # sent once, so it must not get lost
    assert set(policies.values()) == {"Best Effort"}  # a slow viewer delays no acknowledgement
    latched = {n for n, d in DISPLAYS.items() if d["Topic"]["Durability Policy"] != "Volatile"}
    assert latched == {"Legend"}


def test_float_images_have_a_fixed_range_of_whole_numbers() -> None:
    """RViz casts both ends to uint16 (ros_image_texture.cpp); ends that are equal show nothing."""
    for name in ("Depth 0..80 m", "Inverse depth 0..10"):
        display = DISPLAYS[name]
        low, high = display["Min Value"], display["Max Value"]
        assert not display["Normalize Range"]
        assert {type(low), type(high)} == {int}
        assert 0 <= low < high < 1 << 16
        assert f" {low}..{high}" in name


def is_in_state(name: str) -> bool:
    """Whether the window's state has a dock of that name: UTF-16 after its length in bytes."""
    text = name.encode("utf-16-be")
    state = bytes.fromhex(GEOMETRY["QMainWindow State"])
    return len(text).to_bytes(4, "big") + text in state


def test_the_window_shows_its_docks_and_places_every_one() -> None:
    # Both are read into an uninitialised bool (visualization_frame.cpp of all three).
    assert GEOMETRY["Hide Left Dock"] is False
    assert GEOMETRY["Hide Right Dock"] is False
    images = {n for n, d in DISPLAYS.items() if d["Class"] == "rviz_default_plugins/Image"}
    expected = images | {panel["Name"] for panel in CONTENT["Panels"]}
    assert all(is_in_state(name) for name in expected)
    assert not is_in_state("Drivable")  # a display without a dock
    collapsed = {name for name, value in GEOMETRY.items() if isinstance(value, dict)}
    assert collapsed == expected
    assert all(GEOMETRY[name] == {"collapsed": False} for name in collapsed)


def test_the_launch_file_names_the_topics_of_its_arguments() -> None:
    rewritten = functions("rviz_config")["rviz_config"]
    text = rewritten(FILE.read_text("utf-8"), "/cam/raw/compressed", "/front/depthforge/left/")
    shown = yaml.safe_load(text)["Visualization Manager"]["Displays"]
    topics = [display["Topic"]["Value"] for display in shown]
    assert topics[0] == "/cam/raw/compressed"
    assert topics[1:] == [
        display["Topic"]["Value"].replace("/depthforge/", "/front/depthforge/left/")
        for display in MANAGER["Displays"][1:]
    ]
    assert "/depthforge/" not in text.replace("/front/depthforge/left/", "")
