# SPDX-License-Identifier: Apache-2.0
"""`depthforge benchmark`: what the node costs, from the stamp of an image to its mask elsewhere.

`depthforge benchmark network` measures the network alone (network.py).

Camera, node and listener are processes of their own. With the checkpoint `instant` the network
costs nothing, and what is left is the node's own cost and that of the middleware.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

from depthforge_ros.benchmark import network
from depthforge_ros.benchmark.topics import Result, Setting, measure, processor
from depthforge_ros.frame import MAX_ASPECT, MIN_SIDE_PX
from depthforge_ros.ros.messages import MAX_PIXELS
from depthforge_ros.ros.processes import interruptible


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge benchmark`, and those of `depthforge benchmark network`."""
    alone = parser.add_subparsers(dest="what", metavar="[network]").add_parser(
        "network",
        help="the network alone: operations and time of every stage",
        description="Operations and time of a network, stage by stage.",
        formatter_class=parser.formatter_class,
    )
    network.configure(alone)
    parser.add_argument("--size", default="1920x1080", metavar="WxH", help="of the images")
    parser.add_argument("--rate", type=float, default=30.0, metavar="HZ", help="images a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure")
    parser.add_argument("--variant", default="nano", help="network")
    parser.add_argument("--checkpoint", default="instant", help="weights; instant: no network")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--transport",
        choices=("profile", "default"),
        default="profile",
        help="the shipped Fast DDS profile, or Fast DDS as it comes",
    )
    parser.add_argument("--memory-every", type=float, default=10.0, help="seconds between readings")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--domain-id", type=int, help="ROS domain (one that nobody uses)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0, or 1 where the node did not answer."""
    if args.what == "network":
        return network.run(args)
    width, height = size_of(args.size)
    for name in ("rate", "seconds", "memory_every"):
        value = getattr(args, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name.replace('_', '-')} is {value}; wanted a number above 0")
    if args.rate * args.seconds < 1:
        raise ValueError(f"{args.seconds:g} s at {args.rate:g} Hz is not even one image")
    setting = Setting(
        width=width,
        height=height,
        rate_hz=args.rate,
        seconds=args.seconds,
        variant=args.variant,
        checkpoint=args.checkpoint,
        device=args.device,
        profile=args.transport == "profile",
        memory_every_s=args.memory_every,
        domain_id=args.domain_id,
    )
    if args.json and not args.json.absolute().parent.is_dir():
        raise ValueError(f"--json is {args.json}, whose folder does not exist")
    with interruptible(), tempfile.TemporaryDirectory(prefix="depthforge-benchmark-") as folder:
        try:
            result = measure(setting, Path(folder))
        except RuntimeError as error:
            print(f"depthforge benchmark: {error}", file=sys.stderr)
            return 1
    print(text(setting, result))
    if args.json:
        args.json.write_text(json.dumps(result.as_mapping(setting), indent=1) + "\n", "utf-8")
    return 0


def size_of(text: str) -> tuple[int, int]:
    """Width and height of `WxH`. Raises ValueError."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise ValueError(f"--size is {text!r}; wanted WIDTHxHEIGHT, such as 1920x1080") from None
    short, long = sorted((width, height))
    if short < MIN_SIDE_PX or long > MAX_ASPECT * short or width * height > MAX_PIXELS:
        raise ValueError(
            f"--size is {text!r}; the node takes sides of at least {MIN_SIDE_PX}, an aspect ratio "
            f"of at most {MAX_ASPECT}:1 and {MAX_PIXELS} pixels"
        )
    return width, height


def text(setting: Setting, result: Result) -> str:
    """The figures as lines."""
    drops = ", ".join(f"{count} {cause}" for cause, count in sorted(result.drops.items())) or "none"
    p50, p90, p99, worst = (f"{value:.1f} ms" for value in result.latency_ms)
    slope = result.slope_mib_per_hour()
    growth = "" if slope is None else f", slope {slope:+.1f} MiB/h over the second half"
    lines = [
        f"{setting.width}x{setting.height} rgb8 at {setting.rate_hz:g} Hz for {setting.seconds:g} s"
        f", variant {setting.variant}, checkpoint {setting.checkpoint or 'shipped'}, "
        f"transport {'profile' if setting.profile else 'default'}, masks only, {processor()}",
        f"images sent {result.sent} in {result.sent_s:.1f} s, at most "
        f"{result.camera_late_ms:.1f} ms late; reached the node {result.frames_in} "
        f"({result.frames_in / result.sent:.1%}), masks received {result.received} "
        f"({result.received / result.sent:.1%}), dropped in the node: {drops}",
        f"stamp to mask: p50 {p50}, p90 {p90}, p99 {p99}, worst {worst}",
        f"node: {result.cpu_s / result.sent_s:.0%} of one core, "
        f"{1000 * result.cpu_s / result.received:.1f} ms for every mask; memory "
        f"{result.memory[0][1]:.1f} MiB at the start, {result.memory[-1][1]:.1f} MiB at the end"
        f"{growth}",
    ]
    return "\n".join(lines)
