# SPDX-License-Identifier: Apache-2.0
"""The process `depthforge_node`: its signals, its log and its command line."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import textwrap
from collections.abc import Sequence

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from depthforge_ros.cpu_tuning import calm_idle_threads, keep_freed_memory
from depthforge_ros.ros.node.node import DepthForgeNode
from depthforge_ros.ros.node.parameter_descriptors import declarations
from depthforge_ros.ros.node.parameter_files import is_for_node, parameter_files
from depthforge_ros.ros.node.parameter_node import integer_for_double
from depthforge_ros.transport_command import use_shipped_profile

RCLError = rclpy_implementation.RCLError

SPIN_TIMEOUT_S = 0.1

USAGE = """\
usage: depthforge_node [--ros-args [-p PARAMETER:=VALUE] [--params-file FILE] [-r NAME:=NAME] ...]

Semantic masks and depth of camera images. Subscribes to `image` (or `image/compressed`) and
`camera_info`, publishes ~/semantic, ~/depth, ~/points and more, and /diagnostics once a second.

  depthforge_node --ros-args -r image:=/camera/image_raw
  depthforge_node --ros-args -p variant:=nano --params-file my.yaml

Parameters, with their defaults:
"""


class RosLog(logging.Handler):
    """Writes Python's log records of the package to the node's log."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record, at the level nearest to its own."""
        if record.levelno >= logging.ERROR:
            self._logger.error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            self._logger.warning(record.getMessage())
        else:
            self._logger.info(record.getMessage())


def usage() -> str:
    """Return the help text: how to start the node, and every parameter."""
    lines = [USAGE]
    for name, default, described in declarations():
        text = f"{described.description} {described.additional_constraints}".strip()
        wrapped = textwrap.wrap(text, 92)
        lines += [f"  {name} ({default!r})", *(f"      {line}" for line in wrapped)]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT, SIGTERM or a shutdown of the context, and return 0.

    2 if it cannot start, such as for a bad start value of a parameter, with one line that says why.
    """
    arguments = list(sys.argv if argv is None else argv)
    own = arguments[: arguments.index("--ros-args")] if "--ros-args" in arguments else arguments
    if {"-h", "--help"} & {*own}:
        print(usage())
        return 0
    calm_idle_threads()
    keep_freed_memory()
    use_shipped_profile()
    # Handlers of our own: rclpy's end the context under running callbacks, and Python's raises
    # KeyboardInterrupt into whatever line is running.
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: signals.append(received))

    def keep_going() -> bool:
        return not signals and rclpy.ok()

    try:
        files = parameter_files(arguments)
        rclpy.init(
            args=None if argv is None else list(argv),
            signal_handler_options=SignalHandlerOptions.NO,
        )
        node = DepthForgeNode(keep_going)
    except Exception as error:
        expected: tuple[type[Exception], ...] = (ValueError, OSError, RCLError, RuntimeError)
        expected += (InvalidParameterTypeException, InvalidParameterValueException)
        if not isinstance(error, expected):
            raise
        print(f"depthforge_node: {_one_line(error)}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    logging.getLogger("depthforge_ros").addHandler(RosLog(node))
    name = node.get_fully_qualified_name()
    for path, patterns in files.items():
        if not any(is_for_node(pattern, name) for pattern in patterns):
            node.get_logger().warning(  # rcl ignores it silently
                f"parameter file {path} is for {', '.join(patterns)} and ignored; expected {name} "
                "or /**"
            )
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with contextlib.suppress(ExternalShutdownException):
        while keep_going():
            # Python handles a signal once the executor's wait is over.
            executor.spin_once(timeout_sec=SPIN_TIMEOUT_S)
    ended = node.close()
    rclpy.try_shutdown()
    if not ended:
        # A thread that still runs C++ code crashes the interpreter's orderly end.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _one_line(error: Exception) -> str:
    """The error's text in one line, with a hint where an integer was given for a double."""
    text = " ".join(str(error).split())
    found = re.search(
        r"parameter '(\w+)' to '(-?\d+)' of type 'INTEGER', expecting type 'DOUBLE'", text
    )
    return integer_for_double(found[1], int(found[2])) if found else text
