# SPDX-License-Identifier: Apache-2.0
"""`depthforge play PATH`: a folder of images or a bag, published over DDS as if it were live."""

from __future__ import annotations

import argparse
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from depthforge_ros.ros.play.image_folder import ImageFolder
from depthforge_ros.ros.play.publisher import Source, play

_BAG_OPTIONS = ("speed", "topics", "stamps")
_FOLDER_OPTIONS = ("rate", "topic", "frame_id", "compressed", "fov")


@contextmanager
def _until_interrupted() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge play`."""
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of images, or a bag")
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
    folder = parser.add_argument_group("folders of images")
    folder.add_argument("--rate", type=float, metavar="HZ", help="images a second (10)")
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
    bag = parser.add_argument_group("bags")
    bag.add_argument("--speed", type=float, metavar="FACTOR", help="times real time (1)")
    bag.add_argument("--topics", nargs="+", metavar="TOPIC", help="only these (all)")
    bag.add_argument(
        "--stamps",
        choices=("original", "now"),
        help="keep header stamps, or move them to the time of publication (original)",
    )


def run(args: argparse.Namespace) -> int:
    """Play; 0 at the end or when interrupted, 1 where nothing could be read."""
    for name in ("rate", "speed", "clock", "timeout"):
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name} is {value}; expected a number above 0")
    if args.wait_for_subscribers < 0:
        raise ValueError(
            f"--wait-for-subscribers is {args.wait_for_subscribers}; expected 0 or more"
        )
    if args.wait_for_node and not args.wait_for_node.startswith("/"):
        raise ValueError(f"--wait-for-node is {args.wait_for_node!r}; expected a name from / on")
    with _until_interrupted() as stop, _opened(args) as source:
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
    return 0 if report.published or report.interrupted else 1


@contextmanager
def _opened(args: argparse.Namespace) -> Iterator[Source]:
    """The source that the arguments describe. Raises ValueError where an option is of the other
    kind.
    """
    is_bag = (args.path / "metadata.yaml").is_file() or args.path.is_file()
    kind, foreign = ("bag", _FOLDER_OPTIONS) if is_bag else ("folder", _BAG_OPTIONS)
    given = [name for name in foreign if getattr(args, name, None) is not None]
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{args.path} is a {kind}; {options} is not for it")
    if is_bag:
        # Only here: a vehicle plays folders without the rosbags library.
        from depthforge_ros.ros.play.bag_source import open_bag_source

        with open_bag_source(
            args.path, args.topics, args.speed or 1.0, args.stamps == "now"
        ) as source:
            yield source
    else:
        yield ImageFolder(
            args.path,
            rate_hz=args.rate or 10.0,
            topic=args.topic or "/camera/image_raw",
            frame_id=args.frame_id or "camera",
            compressed=bool(args.compressed),
            fov_deg=args.fov,
            exact_stamps=bool(args.clock),
        )
