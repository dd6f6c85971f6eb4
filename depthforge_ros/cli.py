# SPDX-License-Identifier: Apache-2.0
"""`depthforge VERB`: one command for everything that is not the node.

A verb is a module with `configure(parser)` and `run(args) -> int`, imported only once it is
chosen, so that `depthforge --help` answers without loading torch or rclpy.
"""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from itertools import groupby
from textwrap import dedent, indent
from typing import NamedTuple, Protocol

from depthforge_ros import __version__
from depthforge_ros.process import calm_idle_threads

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # what a shell gives for SIGINT


class VerbModule(Protocol):
    """What a module offers to be a verb."""

    def configure(self, parser: ArgumentParser) -> None:
        """Add the verb's arguments."""

    def run(self, args: Namespace) -> int:
        """Do it; the exit code. ValueError and OSError are the user's to mend."""


class Verb(NamedTuple):
    """One line of help, and how to get at the module."""

    help: str
    load: Callable[[], VerbModule]


def _demo() -> VerbModule:
    from depthforge_ros.demo import command

    return command


def _play() -> VerbModule:
    from depthforge_ros.ros import player

    return player


def _annotate() -> VerbModule:
    from depthforge_ros.ros import annotate

    return annotate


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one: not for flags, nor for what may be left out."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.default is not None and action.default is not False and action.default != ""
        return super()._get_help_string(action) if told else action.help


def _benchmark() -> VerbModule:
    from depthforge_ros import benchmark

    return benchmark


def _compile() -> VerbModule:
    from depthforge_ros.engine import command

    return command


def _train() -> VerbModule:
    from depthforge_ros.learning import train

    return train


def _evaluate() -> VerbModule:
    from depthforge_ros.learning import evaluate

    return evaluate


def _weights() -> VerbModule:
    from depthforge_ros.weights import command

    return command


def _doctor() -> VerbModule:
    from depthforge_ros import doctor

    return doctor


def _transport() -> VerbModule:
    from depthforge_ros import transport

    return transport


VERBS = {
    "demo": Verb("images through the real node over DDS into masks you can look at", _demo),
    "play": Verb("publish a folder of images or a bag as if it were live", _play),
    "annotate": Verb("write a bag with masks and depth beside the images of another", _annotate),
    "benchmark": Verb("measure what the node costs, from the stamp to the mask", _benchmark),
    "compile": Verb("build engines ahead, or list what TensorRT would not take", _compile),
    "train": Verb("train one stage of a network, or go on where it was stopped", _train),
    "weights": Verb("list, fetch, convert and inspect the weights of networks", _weights),
    "doctor": Verb("look whether this machine is fit to run the node, and say what to do", _doctor),
    "transport": Verb("write a Fast DDS profile with room for your cameras' images", _transport),
    "evaluate": Verb("mIoU, depth errors and calibration on labelled images", _evaluate),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code. Bad input is told in short on stderr, with exit code 2."""
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
    name = next((word for word in arguments if not word.startswith("-")), None)
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
        text = told(error)
    print(f"depthforge {name}: {text}", file=sys.stderr)
    return EXIT_BAD_INPUT


def told(error: Exception) -> str:
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
