# SPDX-License-Identifier: Apache-2.0
"""`depthforge view`: image, classes, depth, points and diagnostics of a node in Rerun's viewer."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import String

from depthforge_ros.ros.harness.node_process import interruptible
from depthforge_ros.ros.monitor.listener import listening, spin

if TYPE_CHECKING:
    from rclpy.node import Node

    from depthforge_ros.ros.monitor.rerun_log import RerunLog

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge view`."""
    parser.add_argument("--node", default="/depthforge", help="fully qualified name of the node")
    parser.add_argument("--camera", default="", help="one of the node's cameras, if it has several")
    parser.add_argument(
        "--image",
        default="",
        metavar="TOPIC",
        help="of the camera (that in the diagnostics)",
    )
    parser.add_argument("--no-points", action="store_true", help="leave out ~/points, the largest")
    parser.add_argument(
        "--max-depth", type=float, default=80.0, metavar="METRES", help="end of the colour bar"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--web", action="store_true", help="serve the viewer to a browser")
    where.add_argument("--save", type=Path, metavar="FILE.rrd", help="record into a file instead")
    parser.add_argument(
        "--memory", default="512MB", help="of recent data that the viewer keeps, 512MB or 25%%"
    )
    parser.add_argument("--seconds", type=float, help="end after so long (when interrupted)")


def run(args: argparse.Namespace) -> int:
    """Show or record until interrupted; 0, or 1 if nothing of the node arrived.

    Raise ValueError for bad arguments, ModuleNotFoundError without Rerun.
    """
    for name in ("max_depth", "seconds"):
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected a number above 0")
    if args.save and args.save.exists():
        raise ValueError(f"--save is {args.save}, which exists already")
    window = not (args.save or args.web)
    if window and sys.platform == "linux" and not any(map(os.environ.get, DISPLAYS)):
        raise ValueError(
            f"no window without {' or '.join(DISPLAYS)}; give --web or --save FILE.rrd"
        )
    try:
        from depthforge_ros.ros.monitor.rerun_log import RerunLog
    except ModuleNotFoundError as error:
        if error.name != "rerun":
            raise
        raise ValueError("needs Rerun: pip install 'depthforge_ros[view]', or rerun-sdk") from None
    name = f"/{args.node.strip('/')}"
    log = RerunLog(name, args.camera, args.max_depth)
    if args.save:
        log.save(args.save)
    elif args.web:
        print(f"depthforge view: {log.serve(args.memory)}", flush=True)
    else:
        log.spawn(args.memory)
    end_s = None if args.seconds is None else time.monotonic() + args.seconds
    with interruptible(), listening("depthforge_view") as node:
        try:
            subscribe(node, log, name, args)
            spin(node, lambda: True, 0.5, end_s)
        except KeyboardInterrupt:
            pass
        finally:
            log.close()
    if not log.count:
        print(f"depthforge view: nothing of {name} arrived; depthforge status", file=sys.stderr)
        return 1
    return 0


def subscribe(node: Node, log: RerunLog, name: str, args: argparse.Namespace) -> None:
    """Subscribe to everything that is shown; the camera's image as soon as its topic is known."""
    own = f"{name}/{args.camera}" if args.camera else name
    node.create_subscription(Image, f"{own}/semantic", log.classes, NEWEST)
    node.create_subscription(Image, f"{own}/depth", log.depth, NEWEST)
    node.create_subscription(Image, f"{own}/inverse_depth", log.inverse_depth, NEWEST)
    node.create_subscription(String, f"{name}/labels", log.labels, LATCHED)
    if not args.no_points:
        node.create_subscription(PointCloud2, f"{own}/points", log.points, NEWEST)
    shown: list[str] = []

    def show_image(topic: str) -> None:
        if topic and not shown:
            shown.append(topic)
            kind = CompressedImage if topic.endswith("/compressed") else Image
            node.create_subscription(kind, topic, log.image, NEWEST)

    def report(message: DiagnosticArray) -> None:
        show_image(log.diagnostics(message))

    show_image(args.image)
    node.create_subscription(DiagnosticArray, "/diagnostics", report, 10)
