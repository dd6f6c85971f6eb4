# SPDX-License-Identifier: Apache-2.0
"""`depthforge doctor`: is this machine, as this shell sets it up, fit to run the node?"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator

from depthforge_ros.doctor import machine, middleware, software
from depthforge_ros.doctor.finding import Finding, Level, fail, ok, warn


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge doctor`."""
    parser.add_argument("--variant", default="nano", help="network whose weights are looked for")
    parser.add_argument("--checkpoint", default="", help="weights, as the node's parameter")
    parser.add_argument(
        "--graph",
        type=float,
        default=2.0,
        metavar="S",
        help="seconds to listen who is on the ROS graph; 0: do not look",
    )
    parser.add_argument("--json", action="store_true", help="findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the findings; 0, or 1 where one is FAIL."""
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
    """Everything that can be looked at without starting the node, one after the other."""
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
        text = "absent, or built for another numpy; OpenCV converts instead"
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


def matches(links: list) -> Iterator[Finding]:
    """What to say about the links of the graph."""
    if not links:
        yield ok("graph", "nobody subscribes to images")
    for link in links:
        check = f"topic {link.topic}"
        if not link.publisher:
            yield warn(
                check,
                f"{link.subscription} subscribes and nobody publishes",
                "start the publisher, or remap the topic",
            )
        elif link.reason:
            yield fail(
                check,
                f"{link.publisher} does not reach {link.subscription}: {link.reason}",
                f"align the two, for example with qos_overrides.{link.topic}.subscription.*",
            )
        else:
            yield ok(check, f"{link.publisher} reaches {link.subscription}")
