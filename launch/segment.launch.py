# SPDX-License-Identifier: Apache-2.0
"""Start the node depthforge for one camera, or for several that share a network.

ros2 launch depthforge_ros segment.launch.py image:=/camera/image_raw \
    camera_info:=/camera/camera_info rviz:=true

ros2 launch depthforge_ros segment.launch.py cameras:=front,left \
    image:=/{camera}/image_raw camera_info:=/{camera}/camera_info

An argument that is left empty changes nothing: the parameter file decides.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

SHARE = Path(__file__).resolve().parent.parent
DEFAULTS = SHARE / "config" / "depthforge.yaml"
PRESETS = SHARE / "config" / "presets"

ARGUMENTS = (
    ("cameras", "", "Parameter cameras, joined by commas; {camera} in topics is then the name."),
    ("image", "image", "Topic of the camera; of image_transport compressed, without /compressed."),
    ("camera_info", "camera_info", "Topic of the camera's CameraInfo."),
    ("namespace", "", "Namespace of the node, for example one for every camera."),
    ("params_file", str(DEFAULTS), "Parameters of the node."),
    ("preset", "", "A file of config/presets: cpu, desktop_gpu, orin; params_file overrides it."),
    ("variant", "", "Parameter variant."),
    ("checkpoint", "", "Parameter checkpoint."),
    ("device", "", "Parameter device."),
    ("image_transport", "", "Parameter image_transport: raw or compressed."),
    ("image_size", "", "Parameter image_size, WIDTHxHEIGHT; it sizes DDS's shared memory as well."),
    ("use_sim_time", "", "Parameter use_sim_time: true or false."),
    ("autostart", "", "Parameter autostart; false for a lifecycle manager: true or false."),
    ("rviz", "false", "Show image, overlay, mask, depth and points in RViz: true or false."),
    ("fixed_frame", "", "Fixed frame of RViz; empty: the frame_id of the camera's CameraInfo."),
    (
        "fastdds_profile",
        str(SHARE / "config" / "fastdds.xml"),
        "Fast DDS profile with shared memory for images; an environment that already names one, "
        "and an empty argument, are left alone. The camera driver needs the same.",
    ),
    ("camera_count", "", "With image_size: cameras that one process sends; empty: of cameras."),
    ("log_level", "info", "debug, info, warn, error or fatal."),
)

PARAMETER_ARGUMENTS = {
    "variant": str,
    "checkpoint": str,
    "device": str,
    "image_transport": str,
    "image_size": str,
    "use_sim_time": bool,
    "autostart": bool,
}

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")

FRAME_TIMEOUT_S = 10
"""Seconds that RViz waits for a CameraInfo."""

log = get_logger("depthforge_ros")


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    bag = context.launch_configurations.get("bag", "")  # of replay.launch.py
    overrides = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, kind in PARAMETER_ARGUMENTS.items()
        if given[name]
    }
    files = parameter_files(given["params_file"], given["preset"])
    given = arguments_and_files(given, files)
    cameras = [name for name in given["cameras"].split(",") if name]
    if cameras:
        overrides["cameras"] = cameras
    node = Node(
        package="depthforge_ros",
        executable="depthforge_node",
        name="depthforge",
        namespace=given["namespace"],
        parameters=[*files, overrides],
        remappings=[pair for camera in cameras or [""] for pair in inputs(camera, given)],
        ros_arguments=[
            "--log-level",
            f"{node_name(given['namespace'])[1:].replace('/', '.')}:={given['log_level']}",
        ],
        output="screen",
    )
    return [*fastdds(fastdds_profile(given)), node, *rviz(given, bag)]


def node_name(namespace: str) -> str:
    """Return the fully qualified name of the node: /front/depthforge in namespace front."""
    return "/".join(["", *filter(None, namespace.split("/")), "depthforge"])


def parameter_files(params_file: str, preset: str) -> list[str]:
    """Return the paths of parameter files; a later one overrides those before it."""
    files = [params_file] if params_file else []
    for path in files:
        if not Path(path).is_file():
            raise ValueError(f"params_file is {path!r}, which is no file")
    if not preset:
        return files
    path = PRESETS / f"{preset}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(other.stem for other in PRESETS.glob("*.yaml")))
        raise ValueError(f"preset is {preset!r}; expected one of {names}")
    shipped = files == [str(DEFAULTS)]  # holds every parameter, so it cannot come last
    return [*files, str(path)] if shipped else [str(path), *files]


def parameters_by_node(content: object, prefix: str = "") -> dict[str, dict]:
    """Return the parameters of a parameter file by the node names, or patterns, that it has.

    Names and namespaces may be nested or joined by slashes, as rcl_yaml_param_parser reads them.
    """
    found: dict[str, dict] = {}
    for name, value in (content if isinstance(content, dict) else {}).items():
        if name == "ros__parameters":
            found[prefix or "/"] = value if isinstance(value, dict) else {}
        else:
            found |= parameters_by_node(value, f"{prefix}/{str(name).strip('/')}")
    return found


def is_for_node(pattern: str, node: str) -> bool:
    """Return whether the pattern of a parameter file, where ** is any names, is for the node."""
    parts = ["(/[^/]+)*" if p == "**" else f"/{re.escape(p)}" for p in pattern[1:].split("/")]
    return re.fullmatch("".join(parts).replace(r"\*", "[^/]+"), node) is not None


def arguments_and_files(given: dict[str, str], files: list[str]) -> dict[str, str]:
    """Return the arguments, with what the parameter files have where an argument is empty.

    Warn of a file that has no parameters for this node: ROS would ignore it silently.
    """
    node, result = node_name(given["namespace"]), dict(given)
    for path in files:
        try:
            by_node = parameters_by_node(yaml.safe_load(Path(path).read_text("utf-8")))
        except (yaml.YAMLError, OSError):
            continue  # the node names the fault
        matching = [values for pattern, values in by_node.items() if is_for_node(pattern, node)]
        if not matching:
            names = ", ".join(by_node) or "no node"
            log.warning(
                f"{path} has parameters for {names} and none for {node}, which ignores it; "
                f"expected {node} or /**"
            )
        for values in matching:
            for name in ("image_transport", "cameras"):
                value = values.get(name, "")
                text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
                if text and not given[name]:
                    result[name] = text
    return result


def fastdds_profile(given: dict[str, str]) -> str:
    """Return the path of the profile: the named one, or one for image_size and camera_count."""
    if not given["image_size"] or not given["fastdds_profile"]:
        return given["fastdds_profile"]
    # Only here: launch may run in a Python that does not see the package.
    from depthforge_ros.image_size import parse_size
    from depthforge_ros.transport_command import profile

    sizes = [parse_size(text, "image_size") for text in given["image_size"].split(",")]
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    cameras = len([name for name in given["cameras"].split(",") if name]) or 1
    text = profile(width, height, int(given["camera_count"] or cameras))
    path = Path(tempfile.mkdtemp(prefix="depthforge_")) / "fastdds.xml"
    path.write_text(text, "utf-8")
    return str(path)


def inputs(camera: str, given: dict[str, str]) -> list[tuple[str, str]]:
    """Return the remappings of a camera's topics; camera is empty for one without a name."""
    prefix = f"{camera}/" if camera else ""
    topics = {}
    for name in ("image", "camera_info"):
        topic = prefix + name if given[name] == name else given[name]
        if camera and topic != prefix + name and "{camera}" not in topic:
            raise ValueError(f"{name} is {topic!r}; expected {{camera}} in it for {camera!r}")
        topics[name] = topic.replace("{camera}", camera)
    return [
        (f"{prefix}image", topics["image"]),
        (f"{prefix}image/compressed", f"{topics['image']}/compressed"),
        (f"{prefix}camera_info", topics["camera_info"]),
    ]


def fastdds(profile: str) -> list[LaunchDescriptionEntity]:
    set_already = [name for name in PROFILE_VARIABLES if os.environ.get(name)]
    if set_already:
        return [LogInfo(msg=f"{set_already[0]} is set already; fastdds_profile is not used")]
    return [SetEnvironmentVariable(name, profile) for name in PROFILE_VARIABLES if profile]


def rviz_config(text: str, image: str, outputs: str) -> str:
    """Return the content of rviz/depthforge.rviz for an image topic and a prefix of outputs."""
    text = text.replace("Value: /image\n", f"Value: {image}\n")
    return text.replace("Value: /depthforge/", f"Value: {outputs}")


def rviz(given: dict[str, str], bag: str) -> list[LaunchDescriptionEntity]:
    """Start RViz as soon as the camera's frame_id is known, or after FRAME_TIMEOUT_S."""
    if given["rviz"].lower() not in ("true", "1"):
        return []
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        distribution = os.environ.get("ROS_DISTRO", "DISTRIBUTION")
        log.warning(
            "rviz is true and the package rviz2 is not installed: RViz is not started, the node "
            f"is; sudo apt install ros-{distribution}-rviz2"
        )
        return []
    node = node_name(given["namespace"])
    namespace = node.removesuffix("depthforge")
    camera = given["cameras"].split(",")[0]  # RViz shows the first
    image, compressed, camera_info = (
        topic if topic.startswith("/") else namespace + topic for _, topic in inputs(camera, given)
    )
    shown = compressed if given["image_transport"] == "compressed" else image
    outputs = f"{node}/{camera}/" if camera else f"{node}/"
    config = Path(tempfile.mkdtemp(prefix="depthforge_")) / "depthforge.rviz"
    shipped = SHARE / "rviz" / "depthforge.rviz"
    config.write_text(rviz_config(shipped.read_text("utf-8"), shown, outputs), "utf-8")
    sim_time = [{"use_sim_time": given["use_sim_time"].lower() == "true"}]

    def window(frame: str) -> Node:
        return Node(
            package="rviz2",
            executable="rviz2",
            name="depthforge_rviz",
            arguments=["-d", str(config), *(["-f", frame] if frame else [])],
            parameters=sim_time,
        )

    if given["fixed_frame"]:
        return [window(given["fixed_frame"])]
    command = [sys.executable, "-m", "depthforge_ros.ros.play.camera_frame", camera_info]
    command += ["--timeout", str(FRAME_TIMEOUT_S), *(["--bag", bag] if bag else [])]
    frames: list[str] = []
    probe = ExecuteProcess(cmd=command, name="camera_frame", output={"stderr": "screen"})
    heard = OnProcessIO(
        target_action=probe, on_stdout=lambda event: frames.append(event.text.decode().strip())
    )
    ended = OnProcessExit(target_action=probe, on_exit=lambda *_: [window("".join(frames))])
    return [RegisterEventHandler(heard), RegisterEventHandler(ended), probe]


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
