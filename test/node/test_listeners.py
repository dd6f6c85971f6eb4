# SPDX-License-Identifier: Apache-2.0
"""Whether a listener takes what it is sent, with a real one in a process that is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import rclpy
from dds import Listener, environment, own_domain
from nodes import end_politely
from rclpy.qos import QoSProfile
from std_msgs.msg import String

from depthforge_ros.ros.node.statistics import Acknowledgements

LISTENER = """
import rclpy
from std_msgs.msg import String
rclpy.init()
node = rclpy.create_node("planner")
node.create_subscription(String, "/mask", lambda message: None, 1)
rclpy.spin(node)
"""


def is_stopped(pid: int) -> bool:
    """Whether every thread is: the signal is on its way for a while."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


class Clock:
    now_s = 100

    def __call__(self) -> int:
        return self.now_s * 1_000_000_000


def test_a_stopped_listener_is_seen_from_the_moment_it_took_nothing_more() -> None:
    domain, clock = own_domain(), Clock()
    acknowledgements = Acknowledgements(clock)
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENER], env=environment(domain), stderr=subprocess.DEVNULL
    )
    with Listener(domain, "talker") as talker:
        try:
            mask = talker.node.create_publisher(String, "/mask", QoSProfile(depth=1))
            unheard = talker.node.create_publisher(String, "/unheard", QoSProfile(depth=1))
            publishers = {"mask": mask, "unheard": unheard}
            talker.spin_until(lambda: mask.get_subscription_count() == 1)
            unheard.publish(String(data="nobody has to take it"))

            def taken() -> bool:
                mask.publish(String(data="taken"))
                talker.drain()
                return acknowledgements.poll(publishers) == {}

            talker.spin_until(taken)
            process.send_signal(signal.SIGSTOP)
            talker.spin_until(lambda: is_stopped(process.pid))
            clock.now_s += 1
            mask.publish(String(data="not taken"))
            assert acknowledgements.poll(publishers) == {"mask": 1.0}
            clock.now_s += 3
            mask.publish(String(data="not taken either"))
            assert acknowledgements.poll(publishers) == {"mask": 4.0}
            process.send_signal(signal.SIGCONT)
            talker.spin_until(taken)
            clock.now_s += 3
            assert acknowledgements.poll(publishers) == {}
            talker.node.destroy_publisher(mask)
            assert acknowledgements.poll(publishers) == {}
        finally:
            process.send_signal(signal.SIGCONT)
            end_politely(process)
    assert not rclpy.ok()
