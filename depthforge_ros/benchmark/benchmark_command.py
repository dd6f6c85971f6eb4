# SPDX-License-Identifier: Apache-2.0
"""`depthforge benchmark`: what the node costs (node.py), or the network alone (network.py).

`depthforge benchmark soak` is a long run of the node that has to pass: no wrong stamp, and no
growth of memory. The network alone needs no ROS.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from depthforge_ros.benchmark import network

TRANSPORTS = ("profile", "default")
COMPARABLE = ("cameras", "size", "rate", "variant", "checkpoint", "device", "transport")
"""Arguments that --vs can change, besides the node's parameters."""
MAX_GROWTH_MIB_PER_HOUR = 10.0
"""More than that in a soak is a leak: a day of it would be a quarter of a GiB."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge benchmark`, and those of `depthforge benchmark network`."""
    kinds = parser.add_subparsers(dest="what", metavar="[network|soak]")
    alone = kinds.add_parser(
        "network",
        help="the network alone: operations and time of every stage",
        description="Operations and time of a network, stage by stage.",
        formatter_class=parser.formatter_class,
    )
    network.configure(alone)
    soak = kinds.add_parser(
        "soak",
        help="an hour with the network: stamps and memory have to be right at the end",
        description="An hour at 10 Hz; status 1 where a mask has a wrong stamp or memory grows by "
        f"more than {MAX_GROWTH_MIB_PER_HOUR:g} MiB/h over the second half.",
        formatter_class=parser.formatter_class,
    )
    _add_arguments(parser, rate_hz=30.0, seconds=60.0, checkpoint="instant")
    _add_arguments(soak, rate_hz=10.0, seconds=3600.0, checkpoint="")
    parser.add_argument(
        "--vs",
        metavar="NAME=VALUE,...",
        help="run in turn with the same but for these: parameters or " + ", ".join(COMPARABLE),
    )
    parser.add_argument("--pairs", type=int, default=3, help="how often, with --vs")


def _add_arguments(
    parser: argparse.ArgumentParser, *, rate_hz: float, seconds: float, checkpoint: str
) -> None:
    """What is measured, with these defaults."""
    parser.add_argument("--cameras", type=int, default=1, metavar="N", help="that share the node")
    parser.add_argument("--size", default="1920x1080", metavar="WxH", help="of the images")
    parser.add_argument("--rate", type=float, default=rate_hz, metavar="HZ", help="images a second")
    parser.add_argument("--seconds", type=float, default=seconds, help="how long to measure")
    parser.add_argument("--variant", default="nano", help="network")
    parser.add_argument(
        "--checkpoint",
        default=checkpoint,
        help="weights; instant: no network; empty: those that ship with the variant",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--set",
        default="",
        metavar="NAME=VALUE,...",
        help="other parameters of the node, such as short_side_px=256",
    )
    parser.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default="profile",
        help="the shipped Fast DDS profile, or Fast DDS as it comes",
    )
    parser.add_argument("--memory-every", type=float, default=10.0, help="seconds between readings")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--domain-id", type=int, help="ROS domain (one that nobody uses)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0, or 1 where the node did not answer or did not pass the soak."""
    if args.what == "network":
        return network.run(args)
    from depthforge_ros.benchmark import node

    return node.run(args)
