# SPDX-License-Identifier: Apache-2.0
"""Command line arguments that name a network and how it infers, for the verbs that share them."""

from __future__ import annotations

import argparse

from depthforge_ros.variant import variant_names


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add --variant and --checkpoint."""
    parser.add_argument(
        "--variant", default="nano", help=f"{', '.join(variant_names())}, or the path of a .yaml"
    )
    parser.add_argument(
        "--checkpoint",
        default="",
        help="weights: files joined by commas, `untrained` or `instant`; empty: the variant's own",
    )


def add_inference(parser: argparse.ArgumentParser, mode: str | None) -> None:
    """Add --mode, with this default, and --short-side."""
    parser.add_argument(
        "--mode",
        choices=("whole", "slide"),
        default=mode,
        help="the frame at once, or overlapping windows of the training crop",
    )
    parser.add_argument("--short-side", type=int, metavar="PX", help="size of inference")
