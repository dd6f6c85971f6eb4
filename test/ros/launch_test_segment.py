# SPDX-License-Identifier: Apache-2.0
"""segment.launch.py under launch_testing: launch_test test/ros/launch_test_segment.py

test_launch.py runs it where launch_testing and a colcon build of the package are.
"""

from __future__ import annotations

import time
import unittest
from pathlib import Path

import launch_testing
import launch_testing.actions
import launch_testing.asserts
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchDescription

SEGMENT = Path(__file__).resolve().parents[2] / "launch" / "segment.launch.py"
ARGUMENTS = {
    "checkpoint": "instant",
    "namespace": "front",
    "sigterm_timeout": "60",  # of launch itself: a busy machine needs more than 5 s to end the node
}
TIMEOUT_S = 60


def generate_test_description() -> LaunchDescription:
    segment = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SEGMENT)), launch_arguments=ARGUMENTS.items()
    )
    return LaunchDescription([segment, launch_testing.actions.ReadyToTest()])


class TestRunning(unittest.TestCase):
    def test_the_node_becomes_active_and_reports(self) -> None:
        context = rclpy.Context()
        rclpy.init(context=context)
        node = rclpy.create_node("launch_test", context=context)
        states: list[str] = []

        def receive(message: DiagnosticArray) -> None:
            for status in message.status:
                if status.name == "front/depthforge: inference":
                    states.extend(entry.value for entry in status.values if entry.key == "state")

        node.create_subscription(DiagnosticArray, "/diagnostics", receive, 10)
        executor = rclpy.executors.SingleThreadedExecutor(context=context)
        executor.add_node(node)
        end_s = time.monotonic() + TIMEOUT_S
        while "active" not in states and time.monotonic() < end_s:
            executor.spin_once(timeout_sec=0.1)
        context.try_shutdown()
        assert "active" in states


@launch_testing.post_shutdown_test()
class TestShutdown(unittest.TestCase):
    def test_every_process_ended_cleanly(self, proc_info: object) -> None:
        launch_testing.asserts.assertExitCodes(proc_info)
