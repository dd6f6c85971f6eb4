# SPDX-License-Identifier: Apache-2.0
"""`depthforge annotate`: the command line around `annotation.annotate_bag` and `batch`."""

from __future__ import annotations

import argparse
import functools
import math
import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from depthforge_ros.image_size import parse_size
from depthforge_ros.network_arguments import add_inference, add_network
from depthforge_ros.resources import sha256_of
from depthforge_ros.ros.bags.annotation import MIB, Summary, annotate_bag
from depthforge_ros.ros.bags.batch import (
    DONE,
    FAILED,
    INTERRUPTED,
    PARTIAL,
    Annotate,
    Work,
    annotate_here,
    annotate_with_workers,
    find_work,
    shard_of,
)
from depthforge_ros.ros.bags.resumable_writer import STORAGES
from depthforge_ros.ros.bags.topic import name_fault
from depthforge_ros.ros.metric import DepthLimits


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge annotate`."""
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="BAG OUT: a bag (folder, .mcap or .db3), a video file or a webcam (/dev/video0) to "
        "read, and the bag to write, which must not exist; with --into: bags, or folders with bags "
        "below",
    )
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help="annotate many bags, each into this folder"
    )
    parser.add_argument(
        "--shard", default="1/1", metavar="I/N", help="with --into: only the i-th of n parts"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="with --into: processes at once"
    )
    parser.add_argument(
        "--topic",
        action="append",
        help="image topic, may be given several times; required if the bag has more than one",
    )
    parser.add_argument(
        "--camera-info-topic",
        action="append",
        metavar="TOPIC",
        help="CameraInfo of each --topic, in their order; without it camera_info beside the image, "
        "or the only one in the bag",
    )
    parser.add_argument(
        "--camera-info",
        type=Path,
        metavar="FILE",
        help="YAML of ROS camera_calibration that takes the place of CameraInfo messages",
    )
    parser.add_argument("--namespace", default="/depthforge", help="namespace of the new topics")
    add_network(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, or GPU, NPU of OpenVINO")
    parser.add_argument("--backend", default="auto", help="as the node's parameter backend")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")
    parser.add_argument(
        "--image-size",
        default="",
        metavar="WxH",
        help="sizes of the images, joined by commas, that compiled backends are built for",
    )
    add_inference(parser, mode="whole")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.0, help="below it a pixel is unlabelled"
    )
    parser.add_argument(
        "--rectified",
        choices=("auto", "true", "false"),
        default="auto",
        help="whether the images are rectified, as the node's parameter",
    )
    parser.add_argument(
        "--max-depth",
        type=float,
        default=0.0,
        metavar="M",
        help="metres beyond which depth is +Inf, 0: no limit",
    )
    parser.add_argument(
        "--depth-confidence-threshold",
        type=float,
        default=0.0,
        help="pixels less certain have NaN for depth",
    )
    parser.add_argument(
        "--inference-size", action="store_true", help="masks at the size of inference"
    )
    parser.add_argument(
        "--camera-height",
        type=float,
        metavar="M",
        help="height of the cameras above the road: metres by the road, beside relative depth",
    )
    parser.add_argument(
        "--camera-pitch",
        type=float,
        default=0.0,
        metavar="RAD",
        help="how far the cameras look down, for those that see no sky; 0: learned from the sky",
    )
    parser.add_argument("--storage", choices=tuple(STORAGES), default="mcap", help="format of OUT")
    parser.add_argument(
        "--split-mib", type=int, default=512, help="size of a file of OUT; a kill undoes up to one"
    )


def run(args: argparse.Namespace) -> int:
    """Annotate; return 0 if everything was read and annotated, 1 if something failed.

    3: OUT exists, and lacks what could not be read, or annotations of images that are no images.
    130: interrupted. 75 with --into: another run is still writing one of the bags.
    """
    if args.split_mib < 1:
        raise ValueError(f"--split-mib is {args.split_mib}; expected at least 1")
    if args.camera_height is not None and not args.camera_height > 0:
        raise ValueError(f"--camera-height is {args.camera_height}; expected metres above 0")
    if not 0 <= args.max_depth <= 1000:
        raise ValueError(f"--max-depth is {args.max_depth}; expected 0..1000 metres")
    if not 0 <= args.depth_confidence_threshold <= 1:
        raise ValueError(
            f"--depth-confidence-threshold is {args.depth_confidence_threshold}; expected 0..1"
        )
    if not math.isfinite(args.camera_pitch):
        raise ValueError(f"--camera-pitch is {args.camera_pitch}; expected a finite angle")
    if fault := name_fault(f"{args.namespace}/labels"):
        raise ValueError(f"--namespace is {args.namespace!r}: {fault}")
    if args.namespace and not args.namespace.startswith("/"):
        raise ValueError(f"--namespace is {args.namespace!r}; expected a name from / on")
    if args.workers < 1:
        raise ValueError(f"--workers is {args.workers}; expected at least 1")
    if args.into is not None:
        work = shard_of(find_work(args.paths, args.into), args.shard)
        begin = functools.partial(_annotate_many, args)
        return (
            begin(work) if args.workers == 1 else annotate_with_workers(work, args.workers, begin)
        )
    if len(args.paths) != 2:
        raise ValueError(f"{len(args.paths)} paths; expected BAG OUT, or BAG ... --into FOLDER")
    if args.workers > 1 or args.shard != "1/1":
        raise ValueError(
            "--shard and --workers are for many bags; expected --into FOLDER with them"
        )
    annotate = _annotator(args, progress=True)
    source, target = args.paths
    try:
        summary = annotate(Work(source, target))
    except (OSError, sqlite3.Error) as error:
        print(
            f"writing {target} failed: {error}. There is no {target}; {target}.partial holds what "
            "is finished, and the same command resumes it",
            file=sys.stderr,
        )
        return FAILED
    print(summary.describe())
    for text in summary.losses:
        print(text, file=sys.stderr)
    if not summary.finished:
        print(f"stopped before the end; the same command goes on from {target}.partial")
        return INTERRUPTED
    return DONE if summary.complete else PARTIAL


def _annotate_many(args: argparse.Namespace, work: Sequence[Work]) -> int:
    """Annotate as one worker of several; return the exit status."""
    if args.workers > 1:
        import torch

        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // args.workers))
    return annotate_here(work, _annotator(args, progress=args.workers == 1))


def _annotator(args: argparse.Namespace, progress: bool) -> Annotate:
    """Return a function that annotates a bag as the arguments say, with the network loaded."""
    from depthforge_ros.engine.load import checkpoint_files
    from depthforge_ros.pipeline import Mode, PipelineSettings, select_pipeline
    from depthforge_ros.variant import load_variant

    settings = PipelineSettings(
        mode=Mode(args.mode),
        short_side_px=args.short_side,
        confidence_threshold=args.confidence_threshold,
        full_size=not args.inference_size,
    )
    pipeline = select_pipeline(
        args.variant,
        args.checkpoint,
        settings,
        device=args.device,
        backend=args.backend,
        precision=args.precision,
        image_sizes=[
            parse_size(text, "--image-size")[::-1]
            for text in filter(None, args.image_size.split(","))
        ],
    )
    engine = pipeline.engine
    files = checkpoint_files(load_variant(args.variant), args.checkpoint)
    limits = DepthLimits(args.max_depth, args.depth_confidence_threshold)
    job = {
        "checkpoint": args.checkpoint,
        "weights": [sha256_of(path) for path in files if path.is_file()],
        "backend": engine.backend,
        "precision": engine.precision,
    }

    def annotate(work: Work) -> Summary:
        return annotate_bag(
            work.source,
            work.target,
            pipeline,
            topics=args.topic or (),
            info_topics=args.camera_info_topic or (),
            calibration=args.camera_info,
            job=job,
            namespace=args.namespace.rstrip("/"),
            camera_height_m=args.camera_height or 0.0,
            camera_pitch_rad=args.camera_pitch,
            rectified=args.rectified,
            limits=limits,
            storage=args.storage,
            segment_bytes=args.split_mib * MIB,
            progress=progress,
        )

    return annotate
