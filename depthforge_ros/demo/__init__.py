# SPDX-License-Identifier: Apache-2.0
"""`depthforge demo`: images through the real node over DDS, into pictures, a film and a table.

ros/graph.py runs player, node and recorder; drives.py says what is driven through; pictures.py and
report.py show what came back, from the recorded bag alone.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from depthforge_ros.demo import drives, pictures, report
from depthforge_ros.engine import UNTRAINED
from depthforge_ros.engine.build import shipped
from depthforge_ros.frame import DepthKind
from depthforge_ros.network.weights import WeightsError
from depthforge_ros.ros import graph
from depthforge_ros.ros.recorder import recorded
from depthforge_ros.variant import Variant, load_variant


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge demo`."""
    parser.add_argument("--images", type=Path, help="folder of your own pictures")
    parser.add_argument("--fov", type=float, help="their horizontal field of view, degrees (60)")
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder to write")
    parser.add_argument("--variant", default="nano", help="network to run")
    parser.add_argument("--checkpoint", default="", help="weights; empty: the variant's own")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--frames", type=int, default=60, help="of each rendered drive")
    parser.add_argument("--rate", type=float, default=3.0, help="images a second")
    parser.add_argument("--domain-id", type=int, default=97, help="ROS domain of the demo")


def run(args: argparse.Namespace) -> int:
    """Drive, draw, report; 0, or 1 where the graph failed."""
    variant = load_variant(args.variant)
    checkpoint = args.checkpoint or default_checkpoint(variant)
    settings = graph.Settings(args.variant, checkpoint, args.device, args.rate, args.domain_id)
    started = time.monotonic()
    # Everything is made beside the place where it belongs, so that a failed demo leaves the
    # pictures of the last good one alone.
    args.out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".demo-", dir=args.out.resolve().parent))
    try:
        if args.images:
            todo = [drives.pictures_of(args.images, args.fov)]
        else:
            todo = []
            for condition in drives.CONDITIONS:
                print(f"rendering {args.frames} frames of {condition} ...", flush=True)
                todo.append(drives.rendered(condition, args.frames, work / "frames" / condition))
        rows = [_drive(drive, variant, settings, work) for drive in todo]
        said = (
            f"Variant {variant.name}, checkpoint {checkpoint or 'as shipped'}, "
            f"images at {args.rate:g} Hz."
        )
        (work / "index.html").write_text(report.page(rows, said, checkpoint == UNTRAINED), "utf-8")
        _replace(args.out, work)
    except RuntimeError as error:
        print(f"depthforge demo: {error}", file=sys.stderr)
        if (work / "log.txt").exists():
            print((work / "log.txt").read_text("utf-8", "replace")[-3000:], file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if checkpoint == UNTRAINED:
        print(f"\n{report.UNTRAINED_WARNING}")
    print(f"\n{report.table(rows)}\n")
    print(f"{args.out}/index.html shows it all; {time.monotonic() - started:.0f} s")
    return 0


def default_checkpoint(variant: Variant) -> str:
    """The weights that ship with the variant, else random ones: a demo always runs."""
    try:
        shipped(variant)
    except WeightsError:
        return UNTRAINED
    return ""


def _drive(
    drive: drives.Drive, variant: Variant, settings: graph.Settings, work: Path
) -> report.Row:
    """One drive through the graph; its bag, film and contact sheet are in `work` afterwards."""
    kind = variant.depth_head.kind
    depth_topic = "depth" if kind is DepthKind.METRIC else "inverse_depth"
    print(f"driving through {drive.name}: {drive.frames} frames ...", flush=True)
    bag = work / f"{drive.name}_bag"
    log = work / "log.txt"
    seen_all = graph.drive_through(drive.folder, drive.fov_deg, bag, depth_topic, settings, log)
    score = report.Score(drive, len(variant.labels), kind)
    film = pictures.Film(work / f"{drive.name}.mp4", settings.rate_hz)
    chosen = []
    expected = seen_all.counts[f"{graph.NODE}/semantic"]
    every = max(1, expected // pictures.SHEET_ROWS)
    for index, seen in enumerate(recorded(bag, graph.IMAGE_TOPIC, graph.NODE, depth_topic)):
        score.add(seen)
        film.add(pictures.triptych(seen, variant.labels, kind, pictures.TILE_WIDTH_PX))
        if index % every == every // 2 and len(chosen) < pictures.SHEET_ROWS:
            chosen.append(seen)
    film.close()
    title = f"{drive.name}: image, classes, depth"
    if settings.checkpoint == UNTRAINED:
        title += "   (UNTRAINED weights: classes and depth mean nothing)"
    sheet = pictures.contact_sheet(chosen, variant.labels, kind, title)
    pictures.write_picture(work / f"{drive.name}.png", sheet)
    return report.row(drive, seen_all, f"{graph.NODE}/semantic", score)


def _replace(out: Path, work: Path) -> None:
    """Put a finished demo where it belongs, in place of an older one."""
    marker = "index.html"
    if out.exists() and any(out.iterdir()) and not (out / marker).exists():
        raise ValueError(f"{out} holds something else than a demo; give another --out")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(work, out)
