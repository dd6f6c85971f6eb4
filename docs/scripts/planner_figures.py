# SPDX-License-Identifier: Apache-2.0
"""The figures of docs/topics.md: condition of rendered streets, scale of depth, cost of outputs.

python docs/scripts/planner_figures.py
"""

import time
from collections.abc import Callable

import numpy as np
import rclpy  # noqa: F401 - wheels of ROS find their libraries through it
from std_msgs.msg import Header

from depthforge_ros.condition import condition_of
from depthforge_ros.engine import build_engine
from depthforge_ros.frame import DepthKind, Frame, Prediction
from depthforge_ros.ground import NoGroundError, road_height_m
from depthforge_ros.occupancy import CameraPose, GridSettings, GroundClasses, OccupancyMapper
from depthforge_ros.pipeline import Pipeline
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.ros.node.spatial_outputs import PointCloudPacker
from depthforge_ros.street import CONDITIONS, HELD_OUT_SEEDS, StreetDrive
from depthforge_ros.variant import load_labels, load_variant

SEEDS = HELD_OUT_SEEDS[:8]


def conditions() -> None:
    """Print medians over streets with the doubt of `nano`, the range of the degradation, how right
    the masks are, and whether they are less so in frames that the node warns of.
    """
    pipeline = Pipeline(build_engine(load_variant("nano"), "", device="cpu"))
    names = ("brightness", "contrast", "sharpness", "noise", "saturated", "doubt")
    columns = ("condition", *names, "degradation", "right pixels %")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    every: list[tuple[float, float]] = []
    for name in CONDITIONS:
        frames = [StreetDrive(seed, name, 640, 384, frames=1)[0] for seed in SEEDS]
        masks = [pipeline(Frame(frame.rgb)) for frame in frames]
        seen = [condition_of(f.rgb, m.confidence) for f, m in zip(frames, masks, strict=True)]
        right = [100 * (m.labels == f.labels).mean() for f, m in zip(frames, masks, strict=True)]
        medians = [np.median([getattr(s, n) for s in seen]) for n in names]
        scores = [s.degradation for s in seen]
        every += zip(scores, right, strict=True)
        cells = " | ".join(f"{m:.3f}" for m in medians)
        spread = f"{np.median(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})"
        print(f"| {name} | {cells} | {spread} | {np.median(right):.1f} |")
    values = Parameters()
    limits = (0.0, values.degradation_warn, values.degradation_error, 1.01)
    for level, low, high in zip(("OK", "WARN", "ERROR"), limits, limits[1:], strict=False):
        within = [right for score, right in every if low <= score < high]
        mean = f"{np.mean(within):.1f} % of their pixels right" if within else "none"
        print(f"{level}: {len(within)} of {len(every)} frames, {mean}")


def scales() -> None:
    """Print, by condition, the camera's height by the depth of `nano` over its true height."""
    pipeline = Pipeline(build_engine(load_variant("nano"), "", device="cpu"))
    for name in CONDITIONS:
        ratios = []
        for seed in SEEDS:
            drive = StreetDrive(seed, name, 512, 384, frames=40)
            for index in (0, 20):
                frame, height_m = drive[index], float(drive.camera(index).position[2])
                seen = pipeline(Frame(frame.rgb, focal_px=float(frame.intrinsics[0, 0])))
                try:
                    ratios.append(road_height_m(seen, frame.intrinsics, 0) / height_m)
                except NoGroundError:
                    continue
        low, middle, high = np.percentile(ratios, (0, 50, 100))
        count = f"{len(ratios)} of {2 * len(SEEDS)} frames"
        print(f"depth scale, {name}: {middle:.2f} ({low:.2f} to {high:.2f}), {count}")


def costs() -> None:
    """Median time of each output, of a street at 1920x1080 (rendered at 1920x1024 and padded)."""
    drive = StreetDrive(SEEDS[0], "clear", 1920, 1024, frames=1)
    frame, labels = drive[0], load_labels("cityscapes")
    pad = ((28, 28), (0, 0))
    rgb = np.pad(frame.rgb, (*pad, (0, 0)), mode="edge")
    mask, depth = np.pad(frame.labels, pad, mode="edge"), np.pad(frame.depth_m, pad, mode="edge")
    seen = Prediction(mask, np.full_like(mask, 200), depth, DepthKind.METRIC)
    K = frame.intrinsics
    pack = PointCloudPacker()
    classes = GroundClasses.named("road", "", labels)
    grid = OccupancyMapper(CameraPose(1.4), GridSettings(), classes)
    measured: dict[str, Callable[[], object]] = {
        "points": lambda: pack(Header(), rgb, seen, depth, K),
        "drivable": lambda: grid(mask, depth, K),
        "depth scale": lambda: road_height_m(seen, K, 0),
        "condition": lambda: condition_of(rgb, seen.confidence),
    }
    for name, call in measured.items():
        call()  # the ray tables
        times_ms = []
        for _ in range(30):
            started_s = time.perf_counter()
            call()
            times_ms.append((time.perf_counter() - started_s) * 1e3)
        print(f"{name}: {np.median(times_ms):.1f} ms, least {min(times_ms):.1f} ms")


if __name__ == "__main__":
    conditions()
    scales()
    costs()
