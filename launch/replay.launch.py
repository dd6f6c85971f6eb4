# SPDX-License-Identifier: Apache-2.0
"""Play a bag through the node, in the bag's own time.

ros2 launch depthforge_ros replay.launch.py bag:=DRIVE image:=/camera/image_raw rviz:=true

This file takes every argument of segment.launch.py as well. The end of the bag ends the launch.
"""

from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
    TimerAction,
)
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import ExecutableInPackage

from launch import LaunchContext, LaunchDescription

ARGUMENTS = (
    ("bag", None, "The bag to play: its folder, or one .mcap or .db3 file."),
    ("rate", "1.0", "Speed of playback, times real time."),
    ("loop", "false", "Start over at the end: true or false."),
    (
        "clock",
        "100",
        "Hz of /clock, by which use_sim_time becomes true; 0: none, and stamps become the time "
        "of publication.",
    ),
)

START_TIMEOUT_S = 300
"""Longest wait of the player for the node to be active."""

GRACE_S = 2.0
"""Time between the end of the bag and the end of the launch, for the last image."""


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    simulated = float(given["clock"]) > 0
    command = [ExecutableInPackage(package="depthforge_ros", executable="depthforge")]
    command += ["play", given["bag"], "--speed", given["rate"]]
    # Subscriptions to /clock and to images do not show that the node is active.
    namespace = context.launch_configurations.get("namespace", "").strip("/")
    node = f"/{namespace}/depthforge" if namespace else "/depthforge"
    command += ["--wait-for-node", node, "--timeout", str(START_TIMEOUT_S)]
    command += ["--clock", given["clock"]] if simulated else ["--stamps", "now"]
    command += ["--loop"] if given["loop"].lower() in ("true", "1") else []
    segment = PythonLaunchDescriptionSource(
        str(Path(__file__).resolve().parent / "segment.launch.py")
    )
    ended = TimerAction(period=GRACE_S, actions=[Shutdown()])
    sim_time = [("use_sim_time", "true")] if simulated else []
    return [
        # First, so that the player sends images under the DDS profile that segment.launch.py sets.
        IncludeLaunchDescription(segment, launch_arguments=sim_time),
        ExecuteProcess(cmd=command, name="player", output="screen", on_exit=ended),
    ]


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
