# SPDX-License-Identifier: Apache-2.0
"""`depthforge annotate BAG OUT`: the command line around `annotation.annotate_bag`."""

from __future__ import annotations

import argparse
import sqlite3
import sys
from pathlib import Path

from depthforge_ros.resources import sha256_of
from depthforge_ros.ros.annotation import MIB, annotate_bag
from depthforge_ros.ros.segments import STORAGES
from depthforge_ros.variant import variant_names


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge annotate`."""
    parser.add_argument("bag", type=Path, metavar="BAG", help="bag to read: folder, .mcap or .db3")
    parser.add_argument("out", type=Path, metavar="OUT", help="bag to write; must not exist")
    parser.add_argument(
        "--topic",
        action="append",
        help="image topic, may be given several times; needed where the bag has more than one",
    )
    parser.add_argument("--namespace", default="/depthforge", help="where the new topics go")
    parser.add_argument(
        "--variant", default="nano", help=f"{', '.join(variant_names())}, or the path of a .yaml"
    )
    parser.add_argument(
        "--checkpoint",
        default="",
        help="weights: files joined by commas, `untrained` or `instant`; empty: the variant's own",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--mode",
        choices=("whole", "slide"),
        default="whole",
        help="the frame at once, or overlapping windows of the training crop",
    )
    parser.add_argument("--short-side", type=int, metavar="PX", help="size of inference")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.0, help="below it a pixel is unlabelled"
    )
    parser.add_argument(
        "--inference-size", action="store_true", help="masks at the size of inference"
    )
    parser.add_argument(
        "--camera-height",
        type=float,
        metavar="M",
        help="of the cameras above the road: metres by the road, beside relative depth",
    )
    parser.add_argument("--storage", choices=tuple(STORAGES), default="mcap", help="format of OUT")
    parser.add_argument(
        "--split-mib", type=int, default=512, help="size of a file of OUT; a kill undoes up to one"
    )


def run(args: argparse.Namespace) -> int:
    """Annotate; 0 where OUT is written, 1 where writing failed, 130 where it was interrupted."""
    from depthforge_ros.engine.build import build_engine, default_checkpoint
    from depthforge_ros.pipeline import Mode, Pipeline, PipelineSettings
    from depthforge_ros.variant import load_variant

    if args.split_mib < 1:
        raise ValueError(f"--split-mib is {args.split_mib}; wanted at least 1")
    height_m = args.camera_height
    if height_m is not None and not height_m > 0:
        raise ValueError(f"--camera-height is {height_m}; wanted metres above 0")
    settings = PipelineSettings(
        mode=Mode(args.mode),
        short_side_px=args.short_side,
        confidence_threshold=args.confidence_threshold,
        full_size=not args.inference_size,
    )
    variant = load_variant(args.variant)
    engine = build_engine(variant, args.checkpoint, device=args.device)
    files = [Path(part) for part in args.checkpoint.split(",")]
    if not args.checkpoint:
        files = [default_checkpoint(variant)]
    job = {
        "checkpoint": args.checkpoint,
        "weights": [sha256_of(path) for path in files if path.is_file()],
        "backend": engine.backend,
        "precision": engine.precision,
    }
    try:
        summary = annotate_bag(
            args.bag,
            args.out,
            Pipeline(engine, settings),
            topics=args.topic or (),
            job=job,
            namespace=args.namespace.rstrip("/"),
            camera_height_m=height_m or 0.0,
            storage=args.storage,
            segment_bytes=args.split_mib * MIB,
        )
    except (OSError, sqlite3.Error) as error:
        print(
            f"writing {args.out} failed: {error}. There is no {args.out}; what is finished is in "
            f"{args.out}.partial, and the same command goes on from there",
            file=sys.stderr,
        )
        return 1
    refused = ", ".join(f"{count} {cause}" for cause, count in summary.refused.items()) or "none"
    print(
        f"{summary.messages} messages copied, {summary.frames} images annotated, refused: {refused}"
    )
    if summary.without_depth:
        print(
            f"{summary.without_depth} images have no depth: metres need a calibrated camera_info "
            "beside the image topic, of the image's size and frame_id"
        )
    if summary.without_metres:
        print(
            f"{summary.without_metres} images have no metres: too little road, no plane, or no "
            "calibrated camera_info of the image's size and frame_id"
        )
    if not summary.finished:
        print(f"stopped before the end; the same command goes on from {args.out}.partial")
        return 130
    return 0
