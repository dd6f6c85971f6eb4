# SPDX-License-Identifier: Apache-2.0
"""`depthforge demo`: play drives through the node, draw what it answered, report."""

from __future__ import annotations

import argparse
import functools
import math
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from depthforge_ros.demo import drives, output, pictures, report
from depthforge_ros.demo.figures import Figures
from depthforge_ros.demo.user_images import user_pictures
from depthforge_ros.engine import UNTRAINED
from depthforge_ros.engine.load import default_checkpoint
from depthforge_ros.frame import DepthKind
from depthforge_ros.network.weights import WeightsError
from depthforge_ros.ros.harness import graph
from depthforge_ros.ros.harness.node_process import interruptible
from depthforge_ros.ros.harness.read_recording import recorded
from depthforge_ros.variant import Variant, load_variant

FRAMES = 60
USER_FOV_DEG = 60.0
USER_FILM_HZ = 2.0  # slow enough to look at every picture


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge demo`."""
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder to write")
    parser.add_argument("--variant", default="nano", help="network to run")
    parser.add_argument("--checkpoint", default="", help="weights (those that ship, else random)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--rate", type=float, metavar="HZ", help="images a second (what the node keeps up with)"
    )
    parser.add_argument("--domain-id", type=int, help="ROS domain (one that nobody uses)")
    # None is "not given", so that an option of the other kind is refused and not ignored.
    parser.add_argument("--frames", type=int, help=f"of each rendered drive ({FRAMES})")
    pictures_ = parser.add_argument_group("your own pictures")
    pictures_.add_argument(
        "--images", type=Path, metavar="FOLDER", help="instead of rendered drives"
    )
    pictures_.add_argument(
        "--fov", type=float, metavar="DEGREES", help=f"horizontal field of view ({USER_FOV_DEG:g})"
    )
    pictures_.add_argument(
        "--film-rate", type=float, metavar="HZ", help=f"images a second ({USER_FILM_HZ:g})"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0, or 1 if the graph failed or an output has a header that no image had."""
    _check(args)
    variant = load_variant(args.variant)
    checkpoint = args.checkpoint or _default_checkpoint(variant)
    settings = graph.Settings(
        variant=args.variant,
        checkpoint=checkpoint,
        device=args.device,
        depth_topic="depth" if variant.depth_head.kind is DepthKind.METRIC else "inverse_depth",
        domain_id=args.domain_id,
    )
    notice = report.NOTICES.get(checkpoint, "")
    started_s = time.monotonic()
    try:
        with (
            interruptible(),
            output.replacing(args.out) as work,
            tempfile.TemporaryDirectory(prefix="depthforge-demo-") as prepared,
        ):
            found = _drives(args, work / "frames", Path(prepared))
            with graph.running(settings, work / "log.txt") as running:
                rate_hz, rows = args.rate, []
                for drive in found:
                    if rate_hz is None:  # all drives have images of one size
                        rate_hz = running.sustainable_hz(drive.folder, drive.fov_deg)
                        rate_hz = max(rate_hz, drive.frames / drive.longest_s)
                    rows.append(_row(running, drive, variant, rate_hz, notice, work))
            said = f"Variant {variant.name}, checkpoint {checkpoint or 'as shipped'}."
            (work / output.PAGE).write_text(report.page(rows, said, notice), "utf-8")
    except RuntimeError as error:
        print(f"depthforge demo: {error}", file=sys.stderr)
        return 1
    print(f"\n{report.text(rows, notice)}\n")
    print(f"{args.out / output.PAGE} shows it all; {time.monotonic() - started_s:.0f} s")
    return int(any(row.foreign_headers for row in rows))


def _check(args: argparse.Namespace) -> None:
    """Raise ValueError naming an argument that is not allowed."""
    foreign = ("frames",) if args.images else ("fov", "film_rate")
    given = ["--" + name.replace("_", "-") for name in foreign if getattr(args, name) is not None]
    if given:
        kind = "your own pictures" if args.images else "rendered drives"
        raise ValueError(f"{', '.join(given)} is not for {kind}")
    for name in ("rate", "film_rate"):
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and 0.01 <= value <= 1000):
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected 0.01..1000")
    if args.fov is not None and not 1 <= args.fov <= 179:
        raise ValueError(f"--fov is {args.fov} degrees; expected 1..179")
    if args.images and args.images.resolve().is_relative_to(args.out.resolve()):
        raise ValueError(f"{args.images} is in {args.out}, which is replaced; give another --out")


def _default_checkpoint(variant: Variant) -> str:
    """Return "" for a variant with shipped weights, else UNTRAINED."""
    try:
        default_checkpoint(variant)
    except WeightsError:
        return UNTRAINED
    return ""


def _drives(args: argparse.Namespace, frames: Path, prepared: Path) -> Iterable[drives.Drive]:
    """Return the user's pictures, read at once, or drives that are rendered one by one."""
    if args.images:
        fov_deg = args.fov or USER_FOV_DEG
        drive = user_pictures(args.images, fov_deg, args.film_rate or USER_FILM_HZ, prepared)
        for note in drive.notes:
            print(note, file=sys.stderr)
        return [drive]
    count = FRAMES if args.frames is None else args.frames
    return (drives.rendered(name, count, frames / name) for name in drives.CONDITIONS)


def _row(
    running: graph.Graph,
    drive: drives.Drive,
    variant: Variant,
    rate_hz: float,
    notice: str,
    work: Path,
) -> report.Row:
    """Play one drive; write its bag, film, contact sheet and figures into `work`."""
    print(f"{drive.name}: {drive.frames} images at {rate_hz:.3g} Hz ...", flush=True)
    bag = work / f"{drive.name}_bag"
    driven = running.drive(drive.folder, drive.fov_deg, rate_hz, bag)
    kind = variant.depth_head.kind
    score = report.Score(drive.truth, len(variant.labels), kind)
    painter = pictures.Painter(variant.labels, kind)
    film_painter = pictures.Painter(variant.labels, kind, pictures.FILM_TILE_PX)
    sheet = pictures.Sheet(driven.count(graph.SEMANTIC))
    figures = Figures(drive, variant.labels, kind)
    shown = None
    with pictures.Film(work / f"{drive.name}.mp4", drive.film_hz) as film:
        seen_all = recorded(bag, graph.IMAGE_TOPIC, graph.SEMANTIC, running.depth_topic)
        for number, seen in enumerate(seen_all, start=1):
            score.add(seen)
            figures.add(seen)
            name = f"image {number}"
            answered = seen.labels is not None
            if answered or shown is None:
                shown = film_painter.quad(seen, name)
            if answered:
                sheet.offer(functools.partial(painter.strip, seen, name))
            film.add(shown)  # repeated for a dropped frame, so that time goes on
    figures.write(work / f"{drive.name}.csv")
    captions = [f"{drive.name}: image, classes, depth", notice]
    drawn = sheet.drawn([text for text in captions if text], variant.labels)
    drives.write_picture(work / f"{drive.name}.png", drawn)
    return report.row(drive, rate_hz, driven, running.depth_topic, score, film.written)
