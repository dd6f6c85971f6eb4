# SPDX-License-Identifier: Apache-2.0
"""`depthforge play PATH`: images, a video or a bag, published over DDS as if it were live."""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from depthforge_ros.interrupt import on_signals
from depthforge_ros.ros.bags.calibration_file import read_camera_info
from depthforge_ros.ros.bags.layout import is_bag, is_video
from depthforge_ros.ros.play.image_folder import ImageFolder, calibrated_by, pinhole
from depthforge_ros.ros.play.publisher import Source, play
from depthforge_ros.transport_command import use_shipped_profile

PARTIAL = 3
"""Exit status: something was left out."""

MIN_SPEED, MAX_SPEED = 1e-3, 1e6
"""Times real time: beyond them a bag of a second takes a quarter of an hour, or no time at all."""

_BAG_OPTIONS = ("speed", "topics", "stamps")
_IMAGE_OPTIONS = ("rate", "topic", "frame_id", "compressed", "fov", "camera_info")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge play`."""
    parser.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="folder of images, video file, webcam (/dev/video0) or bag",
    )
    parser.add_argument("--loop", action="store_true", help="start over at the end")
    parser.add_argument(
        "--clock", type=float, metavar="HZ", help="publish /clock with the time of what is played"
    )
    parser.add_argument(
        "--wait-for-subscribers",
        type=int,
        default=0,
        metavar="N",
        help="start once all topics together have N subscriptions",
    )
    parser.add_argument(
        "--wait-for-node",
        default="",
        metavar="NAME",
        help="start once the node of this full name, say /depthforge, subscribes to an image topic",
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="wait no longer than that"
    )
    # None is "not given", so that an option of the other kind is refused and not ignored.
    folder = parser.add_argument_group("images and videos")
    folder.add_argument(
        "--rate", type=float, metavar="HZ", help="images a second (10, or as the video says)"
    )
    folder.add_argument("--topic", help="image topic (/camera/image_raw)")
    folder.add_argument("--frame-id", help="optical frame of the images (camera)")
    folder.add_argument(
        "--compressed",
        action="store_true",
        default=None,
        help="CompressedImage on TOPIC/compressed",
    )
    folder.add_argument(
        "--fov", type=float, metavar="DEGREES", help="horizontal; publishes camera_info too"
    )
    folder.add_argument(
        "--camera-info",
        type=Path,
        metavar="FILE",
        help="YAML of ROS camera_calibration; publishes camera_info too",
    )
    bag = parser.add_argument_group("bags")
    bag.add_argument("--speed", type=float, metavar="FACTOR", help="times real time (1)")
    bag.add_argument("--topics", nargs="+", metavar="TOPIC", help="only these (all)")
    bag.add_argument(
        "--stamps",
        choices=("original", "now"),
        help="keep header stamps, or move them to the time of publication (original)",
    )


def run(args: argparse.Namespace) -> int:
    """Play; return 0 at the end or if interrupted, 1 if nothing was published.

    3: something could not be read or was left out, and is named on stderr.
    """
    for name in ("rate", "speed", "clock", "timeout"):
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name} is {value}; expected a number above 0")
    if args.speed is not None and not MIN_SPEED <= args.speed <= MAX_SPEED:
        raise ValueError(f"--speed is {args.speed}; expected {MIN_SPEED:g}..{MAX_SPEED:g}")
    if args.wait_for_subscribers < 0:
        raise ValueError(
            f"--wait-for-subscribers is {args.wait_for_subscribers}; expected 0 or more"
        )
    if args.wait_for_node and not args.wait_for_node.startswith("/"):
        raise ValueError(f"--wait-for-node is {args.wait_for_node!r}; expected a name from / on")
    stop = threading.Event()
    with on_signals(lambda *_: stop.set()), _opened(args) as source:
        use_shipped_profile()
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        try:
            node = Node("depthforge_play", enable_rosout=False, start_parameter_services=False)
            started_s = time.monotonic()
            report = play(
                node,
                source,
                stop,
                loop=args.loop,
                clock_hz=args.clock or 0.0,
                wait_for_subscribers=args.wait_for_subscribers,
                wait_for_node=args.wait_for_node,
                timeout_s=args.timeout,
            )
            elapsed_s = time.monotonic() - started_s
        finally:
            rclpy.shutdown()
    topics = ", ".join(f"{topic} {count}" for topic, count in report.published.items()) or "none"
    print(
        f"published {report.published.total()} messages in {elapsed_s:.1f} s ({topics}), "
        f"skipped {source.skipped}, at most {report.latest_s * 1000:.0f} ms late"
        + (", interrupted" if report.interrupted else "")
    )
    losses = source.losses()
    for text in losses:
        print(text, file=sys.stderr)
    if losses or source.skipped:
        return PARTIAL
    return 0 if report.published or report.interrupted else 1


@contextmanager
def _opened(args: argparse.Namespace) -> Iterator[Source]:
    """The source that the arguments describe. Raises ValueError if an option does not fit it."""
    video = is_video(args.path)
    bag = not video and (is_bag(args.path) or args.path.is_file())
    kind, foreign = ("bag", _IMAGE_OPTIONS) if bag else ("folder", _BAG_OPTIONS)
    kind = "video" if video else kind
    given = [name for name in foreign if getattr(args, name, None) is not None]
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{args.path} is a {kind}; {options} is not for it")
    if bag:
        # Only here: a vehicle plays folders without the rosbags library.
        from depthforge_ros.ros.play.bag_source import open_bag_source

        with open_bag_source(
            args.path, args.topics, args.speed or 1.0, args.stamps == "now"
        ) as source:
            yield source
        return
    if args.fov is not None and args.camera_info is not None:
        raise ValueError("--fov and --camera-info both calibrate the camera; expected one of them")
    calibration = None if args.fov is None else pinhole(args.fov)
    if args.camera_info is not None:
        calibration = calibrated_by(read_camera_info(args.camera_info))
    common: dict[str, Any] = {
        "topic": args.topic or "/camera/image_raw",
        "frame_id": args.frame_id or "camera",
        "compressed": bool(args.compressed),
        "calibration": calibration,
        "exact_stamps": bool(args.clock),
    }
    if not video:
        yield ImageFolder(args.path, rate_hz=args.rate or 10.0, **common)
        return
    from depthforge_ros.ros.bags.video import open_video
    from depthforge_ros.ros.play.video_source import VideoSource

    with open_video(args.path) as capture:
        if capture.live and args.loop:
            raise ValueError(f"{args.path} is a webcam; --loop is not for it")
        yield VideoSource(capture, args.rate, **common)
