# SPDX-License-Identifier: Apache-2.0
"""`depthforge benchmark`: measures the node (node.py) or the network alone (network.py).

`depthforge benchmark soak` runs the node for long and fails on a wrong stamp or growing memory.
`depthforge benchmark network` needs no ROS.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from depthforge_ros.benchmark import network

TRANSPORTS = ("profile", "default")
COMPARABLE = ("cameras", "size", "rate", "variant", "checkpoint", "device", "transport")
"""Arguments that --vs can change, in addition to the node's parameters."""
MAX_GROWTH_MIB_PER_HOUR = 10.0
"""Limit of a soak; more is a leak, a quarter of a GiB in a day."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge benchmark`, and those of `depthforge benchmark network`."""
    kinds = parser.add_subparsers(dest="what", metavar="[network|soak]")
    alone = kinds.add_parser(
        "network",
        help="measure operations and time of the network, stage by stage",
        description="Measure operations and time of a network, stage by stage.",
        formatter_class=parser.formatter_class,
    )
    network.configure(alone)
    soak = kinds.add_parser(
        "soak",
        help="run the node for an hour and check stamps and memory",
        description="Run an hour at 10 Hz; exit with 1 if a mask has a wrong stamp or memory grows "
        f"by more than {MAX_GROWTH_MIB_PER_HOUR:g} MiB/h over the second half.",
        formatter_class=parser.formatter_class,
    )
    _add_arguments(parser, rate_hz=30.0, seconds=60.0, checkpoint="instant")
    _add_arguments(soak, rate_hz=10.0, seconds=3600.0, checkpoint="")
    parser.add_argument(
        "--vs",
        metavar="NAME=VALUE,...",
        help="alternate with a second setting that differs in these: parameters or "
        + ", ".join(COMPARABLE),
    )
    parser.add_argument("--pairs", type=int, default=3, help="number of alternations with --vs")


def _add_arguments(
    parser: argparse.ArgumentParser, *, rate_hz: float, seconds: float, checkpoint: str
) -> None:
    """Add the arguments of a measurement, with these defaults."""
    parser.add_argument(
        "--cameras", type=int, default=1, metavar="N", help="number of cameras of the node"
    )
    parser.add_argument("--size", default="1920x1080", metavar="WxH", help="size of the images")
    parser.add_argument("--rate", type=float, default=rate_hz, metavar="HZ", help="images a second")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="duration of the measurement"
    )
    parser.add_argument("--variant", default="nano", help="network")
    parser.add_argument(
        "--checkpoint",
        default=checkpoint,
        help="weights; instant: no network; empty: the shipped weights",
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
        help="the shipped Fast DDS profile, or Fast DDS defaults",
    )
    parser.add_argument("--memory-every", type=float, default=10.0, help="seconds between readings")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--domain-id", type=int, help="ROS domain; default: an unused one")


def run(args: argparse.Namespace) -> int:
    """Measure and print. Return 0, or 1 if the node did not answer or failed the soak."""
    if args.what == "network":
        return network.run(args)
    from depthforge_ros.benchmark import node

    return node.run(args)
