# SPDX-License-Identifier: Apache-2.0
"""Print the frame_id of a camera's CameraInfo, from its topic or from a bag, for launch files.

python3 -m depthforge_ros.ros.play.camera_frame TOPIC [--bag BAG] [--timeout SECONDS]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import rclpy
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo

from depthforge_ros.ros.bags.reader import open_bag

INFO_TYPE = "sensor_msgs/msg/CameraInfo"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the frame_id; 0, or 1 with a line on stderr if there is none."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("topic", help="of a sensor_msgs/CameraInfo")
    parser.add_argument("--bag", type=Path, help="bag to read instead of the topic")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS")
    args = parser.parse_args(argv)
    try:
        frame_id = (
            frame_in_bag(args.bag, args.topic)
            if args.bag
            else frame_heard(args.topic, args.timeout)
        )
    except (ValueError, OSError) as error:
        print(f"camera_frame: {error}", file=sys.stderr)
        return 1
    print(frame_id, flush=True)
    return 0


def frame_in_bag(bag: Path, topic: str) -> str:
    """Return the frame_id of the first CameraInfo of the topic. Raise ValueError or OSError."""
    with open_bag(bag) as reader:
        for found, _, raw in reader.messages([topic]):
            if found.kind == INFO_TYPE:
                return _frame_id(deserialize_message(raw, CameraInfo), topic)
    raise ValueError(f"{bag} has no CameraInfo on {topic}; RViz's fixed frame stays 'camera'")


def frame_heard(topic: str, timeout_s: float) -> str:
    """Return the frame_id of the topic's next CameraInfo. Raise ValueError after the timeout."""
    received: list[CameraInfo] = []
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node("depthforge_camera_frame", enable_rosout=False)
        node.create_subscription(CameraInfo, topic, received.append, qos_profile_sensor_data)
        end_s = time.monotonic() + timeout_s
        while not received and time.monotonic() < end_s:
            rclpy.spin_once(node, timeout_sec=0.1)
    finally:
        rclpy.shutdown()
    if not received:
        raise ValueError(
            f"no CameraInfo on {topic} within {timeout_s:g} s; RViz's fixed frame stays 'camera'"
        )
    return _frame_id(received[0], topic)


def _frame_id(info: CameraInfo, topic: str) -> str:
    if not info.header.frame_id:
        raise ValueError(f"CameraInfo on {topic} has no frame_id; RViz's fixed frame is 'camera'")
    return info.header.frame_id


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
