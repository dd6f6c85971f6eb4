# SPDX-License-Identifier: Apache-2.0
"""The node depthforge for one camera, or for several that share a network.

ros2 launch depthforge_ros segment.launch.py image:=/camera/image_raw \
    camera_info:=/camera/camera_info rviz:=true

ros2 launch depthforge_ros segment.launch.py cameras:=front,left \
    image:=/{camera}/image_raw camera_info:=/{camera}/camera_info

An argument that is left empty changes nothing: the parameter file decides.
"""

import os
import tempfile
from pathlib import Path

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.launch_description_entity import LaunchDescriptionEntity
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
    ("use_sim_time", "", "Parameter use_sim_time: true or false."),
    ("rviz", "false", "Show image, overlay, mask, depth and points in RViz: true or false."),
    (
        "fastdds_profile",
        str(SHARE / "config" / "fastdds.xml"),
        "Fast DDS profile with shared memory for images; an environment that already names one, "
        "and an empty argument, are left alone. The camera driver needs the same.",
    ),
    ("image_size", "", "WIDTHxHEIGHT by which the profile's shared memory is sized; empty: not."),
    ("camera_count", "", "With image_size: cameras that one process sends; empty: of cameras."),
    ("log_level", "info", "debug, info, warn, error or fatal."),
)

PARAMETER_ARGUMENTS = {
    "variant": str,
    "checkpoint": str,
    "device": str,
    "image_transport": str,
    "use_sim_time": bool,
}

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")

RVIZ_TOPICS = ("overlay", "semantic_color", "depth", "inverse_depth", "points", "legend")


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    overrides = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, kind in PARAMETER_ARGUMENTS.items()
        if given[name]
    }
    cameras = [name for name in given["cameras"].split(",") if name]
    if cameras:
        overrides["cameras"] = cameras
    logger = ".".join([*given["namespace"].strip("/").split("/"), "depthforge"]).lstrip(".")
    node = Node(
        package="depthforge_ros",
        executable="depthforge_node",
        name="depthforge",
        namespace=given["namespace"],
        parameters=[*parameter_files(given["params_file"], given["preset"]), overrides],
        remappings=[pair for camera in cameras or [""] for pair in inputs(camera, given)],
        ros_arguments=["--log-level", f"{logger}:={given['log_level']}"],
        output="screen",
    )
    return [*fastdds(fastdds_profile(given)), node, *rviz(given)]


def parameter_files(params_file: str, preset: str) -> list[str]:
    """Paths, of which a later one overrides those before it."""
    files = [params_file] if params_file else []
    if not preset:
        return files
    path = PRESETS / f"{preset}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(other.stem for other in PRESETS.glob("*.yaml")))
        raise ValueError(f"preset is {preset!r}; expected one of {there}")
    shipped = files == [str(DEFAULTS)]  # holds every parameter, so it cannot come last
    return [*files, str(path)] if shipped else [str(path), *files]


def fastdds_profile(given: dict[str, str]) -> str:
    """Path of the profile: the one that is named, or one for image_size and camera_count."""
    if not given["image_size"] or not given["fastdds_profile"]:
        return given["fastdds_profile"]
    # Only here: launch may run in a Python that does not see the package.
    from depthforge_ros.transport_command import image_size, profile

    cameras = len([name for name in given["cameras"].split(",") if name]) or 1
    count = int(given["camera_count"] or cameras)
    text = profile(*image_size(given["image_size"]), count)
    path = Path(tempfile.mkdtemp(prefix="depthforge_")) / "fastdds.xml"
    path.write_text(text, "utf-8")
    return str(path)


def inputs(camera: str, given: dict[str, str]) -> list[tuple[str, str]]:
    """Remappings of a camera's topics; camera is empty where there is one without a name."""
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
    named = [name for name in PROFILE_VARIABLES if os.environ.get(name)]
    if named:
        return [LogInfo(msg=f"{named[0]} is set already; fastdds_profile is not used")]
    return [SetEnvironmentVariable(name, profile) for name in PROFILE_VARIABLES if profile]


def rviz(given: dict[str, str]) -> list[LaunchDescriptionEntity]:
    if given["rviz"].lower() not in ("true", "1"):
        return []
    namespace = given["namespace"].strip("/")
    prefix = f"/{namespace}/" if namespace else "/"
    camera = given["cameras"].split(",")[0]  # RViz shows the first
    image = inputs(camera, given)[0][1]
    image = image if image.startswith("/") else prefix + image
    own = f"{prefix}depthforge/{camera}/" if camera else f"{prefix}depthforge/"
    # The displays name the topics of a node without a namespace.
    remappings = [("/image", image)]
    remappings += [(f"/depthforge/{t}", f"{own}{t}") for t in RVIZ_TOPICS]
    sim_time = [{"use_sim_time": given["use_sim_time"].lower() == "true"}]
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            name="depthforge_rviz",
            arguments=["-d", str(SHARE / "rviz" / "depthforge.rviz")],
            parameters=sim_time,
            remappings=[pair for pair in remappings if pair[0] != pair[1]],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
