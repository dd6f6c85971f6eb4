# SPDX-License-Identifier: Apache-2.0
"""`depthforge status`: the diagnostics of running nodes in a terminal, live."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import time

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from depthforge_ros.ros.harness.node_process import interruptible
from depthforge_ros.ros.monitor.listener import listening, spin
from depthforge_ros.ros.monitor.report import Level, Report, reports_of

REFRESH_S = 0.25
RATE_S = 2.5
STALE_S = 3.0
"""The node reports once a second; after three reports that did not come it is called silent."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge status`."""
    parser.add_argument("--node", default="", help="fully qualified name (every node depthforge)")
    parser.add_argument(
        "--once",
        action="store_true",
        help="print a report and exit: 0 for OK and WARN, 1 for ERROR",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="wait for a first report; exit with 1 after it",
    )


def run(args: argparse.Namespace) -> int:
    """Show reports until interrupted; 1 if there is none in time, or by --once for an ERROR."""
    if not (math.isfinite(args.timeout) and args.timeout > 0):
        raise ValueError(f"--timeout is {args.timeout}; expected seconds above 0")
    from rich.console import Console
    from rich.live import Live

    from depthforge_ros.ros.monitor.status_table import screen

    watch = Watch(args.node)
    with interruptible(), listening("depthforge_status") as node:
        node.create_subscription(DiagnosticArray, "/diagnostics", watch.receive, 10)
        spin(node, lambda: not watch.newest, 0.05, time.monotonic() + args.timeout)
        if not watch.newest:
            print(f"depthforge status: {absence(node, args.node, args.timeout)}", file=sys.stderr)
            return 1
        if args.once:  # rates need a second report
            spin(
                node, lambda: len(watch.before) < len(watch.newest), 0.05, time.monotonic() + RATE_S
            )
            Console().print(screen(watch.rows(), STALE_S))
            return int(any(report.level >= Level.ERROR for report in watch.newest.values()))
        if not sys.stdout.isatty():
            return _lines(node, watch)
        with Live(screen(watch.rows(), STALE_S), auto_refresh=False, screen=True) as live:

            def redraw() -> bool:
                live.update(screen(watch.rows(), STALE_S), refresh=True)
                return True

            with contextlib.suppress(KeyboardInterrupt):  # the way to end it
                spin(node, redraw, REFRESH_S)
    return 0


class Watch:
    """The newest report of every name, and the one before it."""

    def __init__(self, node: str) -> None:
        self._node = node if not node or node.startswith("/") else f"/{node}"
        self.newest: dict[str, Report] = {}
        self.before: dict[str, Report] = {}
        self.received_s: dict[str, float] = {}
        self.count = 0

    def receive(self, message: DiagnosticArray) -> None:
        """Keep the reports of the watched nodes."""
        for report in reports_of(message, self._node):
            if report.name in self.newest:
                self.before[report.name] = self.newest[report.name]
            self.newest[report.name] = report
            self.received_s[report.name] = time.monotonic()
            self.count += 1

    def rows(self) -> list[tuple[Report, Report | None, float]]:
        """Return of every name the report, the one before, and the seconds since it came."""
        now_s = time.monotonic()
        return [
            (report, self.before.get(name), now_s - self.received_s[name])
            for name, report in sorted(self.newest.items())
        ]


def absence(node: Node, name: str, timeout_s: float) -> str:
    """Return the line for no report in time: who publishes /diagnostics, in which domain."""
    domain = os.environ.get("ROS_DOMAIN_ID") or "0"
    publishers = node.get_publishers_info_by_topic("/diagnostics")
    names = sorted({f"{p.node_namespace.rstrip('/')}/{p.node_name}" for p in publishers})
    who = f"{', '.join(names)} publish it" if names else "nobody publishes it"
    return (
        f"no report of {name or 'a node depthforge'} on /diagnostics within {timeout_s:g} s in "
        f"ROS_DOMAIN_ID {domain}; {who}"
    )


def _lines(node: Node, watch: Watch) -> int:
    """Print one line a report, for pipes and log files."""
    from depthforge_ros.ros.monitor.status_table import line

    printed = [0]

    def step() -> bool:
        if watch.count > printed[0]:
            printed[0] = watch.count
            for report, before, _ in watch.rows():
                print(line(report, before), flush=True)
        return True

    with contextlib.suppress(KeyboardInterrupt):
        spin(node, step, REFRESH_S)
    return 0
