# SPDX-License-Identifier: Apache-2.0
"""`depthforge doctor`: check whether this machine and this shell's environment can run the node."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from depthforge_ros.doctor import machine, middleware, software
from depthforge_ros.doctor.finding import Finding, Level, fail, ok, warn

if TYPE_CHECKING:
    from depthforge_ros.ros.qos_check import Link


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge doctor`."""
    parser.add_argument("--variant", default="nano", help="network whose weights are checked")
    parser.add_argument("--checkpoint", default="", help="weights, as the node's parameter")
    parser.add_argument(
        "--graph",
        type=float,
        default=2.0,
        metavar="S",
        help="seconds of discovery on the ROS graph; 0: skip it",
    )
    parser.add_argument("--json", action="store_true", help="findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the findings; 0, or 1 if one is FAIL."""
    if not (math.isfinite(args.graph) and args.graph >= 0):
        raise ValueError(f"--graph is {args.graph}; expected seconds, or 0")
    findings = []
    for finding in examine(args.variant, args.checkpoint, args.graph):
        findings.append(finding)
        if not args.json:
            print(finding.line(), flush=True)
    if args.json:
        print(json.dumps([finding.as_mapping() for finding in findings], indent=1))
    return int(any(finding.level is Level.FAIL for finding in findings))


def examine(variant: str, checkpoint: str, graph_s: float) -> Iterator[Finding]:
    """Yield the findings of every check that does not start the node."""
    env = os.environ
    yield software.python()
    yield from software.libraries()
    yield from software.gpu()
    yield software.weights(variant, checkpoint)
    try:
        from depthforge_ros.ros import images, qos_check
    except ImportError as error:
        text = f"{error.name or error} is missing"
        yield fail("ROS", text, "source a ROS distribution, or pip install depthforge_ros[ros]")
        return
    if images.bridge_works():
        yield ok("cv_bridge", "converts images")
    else:
        text = "missing, or built for another numpy; OpenCV converts instead"
        yield warn("cv_bridge", text, "install the cv_bridge of this ROS distribution")
    implementation = qos_check.implementation()
    yield ok("RMW_IMPLEMENTATION", implementation)
    yield middleware.profile(implementation, env)
    yield middleware.domain(env)
    yield from middleware.discovery(env)
    yield from machine.socket_buffers(implementation.startswith(middleware.CYCLONE))
    if implementation.startswith(middleware.FASTDDS):
        yield machine.shared_memory(middleware.segment_bytes(env))
    if graph_s > 0:
        yield from matches(qos_check.links(graph_s))


def remedy(link: Link) -> str:
    """Return what to do about a subscription without a publisher: the topics that have one."""
    if not link.candidates:
        return "start the publisher; no topic of such messages has one in this domain"
    names = [
        f"{topic} (needs image_transport: compressed, without /compressed in the remapping)"
        if topic.endswith("/compressed") and not link.topic.endswith("/compressed")
        else topic
        for topic in link.candidates
    ]
    return f"remap {link.topic}; topics that have a publisher: {', '.join(names)}"


def matches(links: Iterable[Link]) -> Iterator[Finding]:
    """Return findings about the links of the graph."""
    if not links:
        yield ok("graph", "no process subscribes to images")
    for link in links:
        check = f"topic {link.topic}"
        if not link.publisher:
            yield warn(check, f"{link.subscription} subscribes, no publisher", remedy(link))
        elif link.reason:
            yield fail(
                check,
                f"{link.publisher} does not reach {link.subscription}: {link.reason}",
                f"align the two, for example with qos_overrides.{link.topic}.subscription.*",
            )
        else:
            yield ok(check, f"{link.publisher} reaches {link.subscription}")
