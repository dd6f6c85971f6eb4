# SPDX-License-Identifier: Apache-2.0
"""The figures of docs/topics.md: the condition of rendered streets, and what the outputs cost.

python docs/planner_figures.py
"""

import time
from collections.abc import Callable

import numpy as np
import rclpy  # noqa: F401 - wheels of ROS find their libraries through it
from std_msgs.msg import Header

from depthforge_ros.condition import condition_of
from depthforge_ros.frame import DepthKind, Prediction
from depthforge_ros.occupancy import CameraPose, GridSettings, GroundClasses, OccupancyMapper
from depthforge_ros.ros.points import PointCloudPacker
from depthforge_ros.street import CONDITIONS, HELD_OUT_SEEDS, StreetDrive
from depthforge_ros.variant import load_labels

SEEDS = HELD_OUT_SEEDS[:8]


def conditions() -> None:
    """Medians over streets; degradation with its least and its most."""
    print("| condition | brightness | contrast | sharpness | noise | saturated | degradation |")
    for name in CONDITIONS:
        frames = [StreetDrive(seed, name, 640, 384, frames=1)[0] for seed in SEEDS]
        sure = np.full((384, 640), 255, np.uint8)
        seen = [condition_of(frame.rgb, sure) for frame in frames]
        names = ("brightness", "contrast", "sharpness", "noise", "saturated")
        medians = [np.median([getattr(s, n) for s in seen]) for n in names]
        scores = [s.image_degradation for s in seen]
        cells = " | ".join(f"{m:.3f}" for m in medians)
        spread = f"{np.median(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})"
        print(f"| {name} | {cells} | {spread} |")


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
        "condition": lambda: condition_of(rgb, seen.confidence),
    }
    for name, call in measured.items():
        call()  # the ray tables
        times_ms = []
        for _ in range(30):
            begun_s = time.perf_counter()
            call()
            times_ms.append((time.perf_counter() - begun_s) * 1e3)
        print(f"{name}: {np.median(times_ms):.1f} ms, least {min(times_ms):.1f} ms")


if __name__ == "__main__":
    conditions()
    costs()
