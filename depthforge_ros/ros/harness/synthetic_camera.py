# SPDX-License-Identifier: Apache-2.0
"""A camera that costs little: one picture, serialized once, published again with new stamps.

With several topics it is as many cameras, which shoot at the same time.

    python -m depthforge_ros.ros.harness.synthetic_camera --width 1920 --height 1080

Prints at the end, as JSON: number of images, seconds, largest delay, and the stamps of each topic.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from depthforge_ros.ros.messages import rgb8_message
from depthforge_ros.ros.serialized import set_stamp

FRAME_ID = "camera"
SENSOR_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT
)
MATCH_TIMEOUT_S = 30.0
# A reader learns of a writer after the writer learns of it, and until then drops best-effort data.
MATCHING_S = 0.5


def main(argv: list[str] | None = None) -> int:
    """Publish until the time is over; return 0, or 1 if there is no subscriber."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--topic", action="append", help="/camera/image_raw; may come repeatedly")
    args = parser.parse_args(argv)
    topics = args.topic or ["/camera/image_raw"]
    rclpy.init()
    node = Node("depthforge_camera", enable_rosout=False, start_parameter_services=False)
    publishers = [node.create_publisher(Image, topic, SENSOR_QOS) for topic in topics]
    last = time.monotonic() + MATCH_TIMEOUT_S
    while not all(publisher.get_subscription_count() for publisher in publishers):
        if time.monotonic() > last:
            print(f"no subscriber of {' or '.join(topics)}", file=sys.stderr)
            return 1
        time.sleep(0.01)
    time.sleep(MATCHING_S)
    rows, columns = np.mgrid[0 : args.height, 0 : args.width]
    picture = np.stack([rows, columns, rows + columns], axis=-1).astype(np.uint8)  # [H, W, 3]
    raw = bytearray(serialize_message(rgb8_message(Header(frame_id=FRAME_ID), picture)))
    count = round(args.rate * args.seconds)
    stamps_ns: list[list[int]] = [[] for _ in topics]
    started_s, late_s = time.monotonic(), 0.0
    for index in range(count):
        due_s = started_s + index / args.rate
        time.sleep(max(0.0, due_s - time.monotonic()))
        late_s = max(late_s, time.monotonic() - due_s)
        for publisher, stamps in zip(publishers, stamps_ns, strict=True):
            stamps.append(time.time_ns())
            set_stamp(raw, stamps[-1])
            publisher.publish(bytes(raw))
    seconds = time.monotonic() - started_s
    figures = {
        "sent": count * len(topics),
        "seconds": round(seconds, 3),
        "late_ms": round(late_s * 1e3, 1),
        "stamps_ns": stamps_ns,
    }
    print(json.dumps(figures))
    time.sleep(0.5)  # what is on its way gets there before the publisher is gone
    node.destroy_node()
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
