# SPDX-License-Identifier: Apache-2.0
"""`depthforge benchmark`: what the node costs, from the stamp of an image to its mask elsewhere.

Camera, node and listener are processes of their own. With the checkpoint `instant` the network
costs nothing, and what is left is the node's own cost and that of the middleware.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path

from depthforge_ros.benchmark.topics import Result, Setting, measure


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge benchmark`."""
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
    parser.add_argument("--domain-id", type=int, default=98, help="ROS domain of the benchmark")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0, or 1 where the node did not answer."""
    width, height = size_of(args.size)
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
    with tempfile.TemporaryDirectory(prefix="depthforge-benchmark-") as folder:
        log = Path(folder) / "log.txt"
        try:
            result = measure(setting, log)
        except RuntimeError as error:
            print(f"depthforge benchmark: {error}\n{log.read_text('utf-8', 'replace')[-3000:]}")
            return 1
    print(text(setting, result))
    if args.json:
        args.json.write_text(json.dumps(result.as_mapping(setting), indent=1), "utf-8")
    return 0


def size_of(text: str) -> tuple[int, int]:
    """Width and height of `WxH`. Raises ValueError."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise ValueError(f"--size is {text!r}; wanted WIDTHxHEIGHT, such as 1920x1080") from None
    return width, height


def text(setting: Setting, result: Result) -> str:
    """The figures as lines."""
    drops = ", ".join(f"{count} {cause}" for cause, count in sorted(result.drops.items())) or "none"
    p50, p90, p99, worst = (f"{value:.1f} ms" for value in result.latency_ms)
    lines = [
        f"{setting.width}x{setting.height} rgb8 at {setting.rate_hz:g} Hz for {setting.seconds:g} s"
        f", variant {setting.variant}, checkpoint {setting.checkpoint or 'shipped'}, "
        f"transport {'profile' if setting.profile else 'default'}, {platform.processor()}",
        f"images sent {result.sent}, reached the node {result.frames_in} "
        f"({100 * result.frames_in / max(result.sent, 1):.1f} %), masks received {result.received} "
        f"({100 * result.received / max(result.sent, 1):.1f} %), dropped in the node: {drops}",
        f"stamp to mask: p50 {p50}, p90 {p90}, p99 {p99}, worst {worst}",
        f"node: {result.cpu_share:.0%} of one core; resident {result.memory_mib[0]:.1f} MiB at the "
        f"start, {result.memory_mib[-1]:.1f} MiB at the end, "
        f"slope {result.slope_mib_per_hour():+.1f} MiB/h over the second half",
    ]
    return "\n".join(lines)
