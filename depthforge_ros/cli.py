# SPDX-License-Identifier: Apache-2.0
"""`depthforge VERB`: every tool of the package but the node.

A verb is a module with `configure(parser)` and `run(args) -> int`, imported only once it is
chosen, so that `depthforge --help` answers without loading torch or rclpy.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from itertools import groupby
from textwrap import dedent, indent
from typing import NamedTuple, Protocol

from depthforge_ros import __version__
from depthforge_ros.cpu_tuning import calm_idle_threads

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # what a shell gives for SIGINT


class VerbModule(Protocol):
    """What a module offers to be a verb."""

    def configure(self, parser: ArgumentParser) -> None:
        """Add the verb's arguments."""

    def run(self, args: Namespace) -> int:
        """Do it; the exit code. ValueError and OSError are the user's to mend."""


class Verb(NamedTuple):
    """One line of the overview, and the module of the verb below the package."""

    help: str
    module: str

    def load(self) -> VerbModule:
        """Import the module. Raise ModuleNotFoundError if one that it needs is not installed."""
        return importlib.import_module(f"depthforge_ros.{self.module}")


VERBS = {
    "demo": Verb("run images through the real node over DDS, write pictures", "demo.demo_command"),
    "play": Verb("publish images or a bag as if they were live", "ros.play.play_command"),
    "annotate": Verb("copy a bag and add masks and depth", "ros.bags.annotate_command"),
    "benchmark": Verb("measure the node or the network alone", "benchmark.benchmark_command"),
    "export": Verb("write a network as ONNX for other runtimes", "engine.export_command"),
    "compile": Verb(
        "build engines ahead of time, or list unsupported operators", "engine.compile_command"
    ),
    "train": Verb("train one stage of a network, or resume it", "learning.train_command"),
    "evaluate": Verb(
        "measure mIoU, depth errors and calibration on labelled images", "learning.evaluate_command"
    ),
    "weights": Verb("list, fetch, convert and inspect weights", "weights.weights_command"),
    "doctor": Verb("check whether this machine can run the node", "doctor.doctor_command"),
    "status": Verb(
        "show the diagnostics of running nodes in a terminal", "ros.monitor.status_command"
    ),
    "view": Verb("show images, depth and points of a node in Rerun", "ros.monitor.view_command"),
    "transport": Verb("write a Fast DDS profile sized for your cameras", "transport_command"),
}
"""The verb V is in the module V_command."""


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except those of flags and empty ones."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, ""):
            return action.help
        return super()._get_help_string(action)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code. Print bad input as one line on stderr and return 2."""
    calm_idle_threads()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = ArgumentParser(prog="depthforge", description="DepthForge on ROS 2, offline tools.")
    parser.add_argument("--version", action="version", version=f"depthforge {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error came from (before VERB)"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    parsers = {
        name: verbs.add_parser(
            name,
            help=verb.help,
            description=verb.help[0].upper() + verb.help[1:] + ".",
            formatter_class=_Help,
        )
        for name, verb in VERBS.items()
    }
    # No option before the verb takes a value, so the first bare word is the verb.
    name = next((word for word in arguments if not word.startswith("-")), "")
    try:
        if name not in VERBS:
            parser.parse_args(arguments)  # --help, --version or an error: exits
        module = VERBS[name].load()
        module.configure(parsers[name])
        return module.run(parser.parse_args(arguments))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except ModuleNotFoundError as error:
        if "--traceback" in arguments or (error.name or "").startswith("depthforge_ros"):
            raise
        text = f"needs the Python module {error.name!r}, which is not installed"
    except (ValueError, OSError) as error:
        if "--traceback" in arguments:
            raise
        text = error_text(error)
    print(f"depthforge {name}: {text}", file=sys.stderr)
    return EXIT_BAD_INPUT


def error_text(error: Exception) -> str:
    """The text of an error: one line, and below it what the error indents by two or more.

    So a folder tree or a list of faults keeps its lines, and a wrapped sentence does not.
    """
    parts = []
    for indented, lines in groupby(str(error).splitlines(), lambda line: line.startswith("  ")):
        text = "\n".join(lines)
        parts.append(indent(dedent(text), "  ") if indented else " ".join(text.split()))
    return "\n".join(part for part in parts if part)


if __name__ == "__main__":
    sys.exit(main())
