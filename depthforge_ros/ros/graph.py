# SPDX-License-Identifier: Apache-2.0
"""The real graph of a demo: player, node and recorder in processes of their own, over DDS."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from depthforge_ros.ros.processes import environment, node_command, process, use, wait_until_active
from depthforge_ros.ros.recorder import Recorded, Recorder

IMAGE_TOPIC = "/camera/image_raw"
CAMERA_INFO_TOPIC = "/camera/camera_info"
NODE = "/depthforge"
REPORT_NS = 1_500_000_000  # the node reports once a second
DRAIN_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Settings:
    """What the node runs and how fast the camera is."""

    variant: str
    checkpoint: str
    device: str
    rate_hz: float
    domain_id: int


def drive_through(
    images: Path, fov_deg: float, bag: Path, depth_topic: str, settings: Settings, log: Path
) -> Recorded:
    """Play a folder of images through the node and record everything into `bag`.

    fov_deg: horizontal field of view of the camera. Raises RuntimeError naming the log where a
    process fails or does not answer.
    """
    env = environment(settings.domain_id)
    use(env)
    parameters = {
        "variant": settings.variant,
        "checkpoint": settings.checkpoint,
        "device": settings.device,
    }
    node = node_command(parameters, {"image": IMAGE_TOPIC, "camera_info": CAMERA_INFO_TOPIC})
    play = [sys.executable, "-m", "depthforge_ros.cli", "play", str(images)]
    play += ["--topic", IMAGE_TOPIC, "--fov", f"{fov_deg:.4f}", "--rate", f"{settings.rate_hz:g}"]
    play += ["--frame-id", "camera_optical_frame"]
    play += ["--wait-for-subscribers", "4"]  # node and recorder, to two topics
    images_out = ("semantic", "confidence", depth_topic, "semantic_color", "overlay")
    topics = dict.fromkeys([IMAGE_TOPIC, *(f"{NODE}/{name}" for name in images_out)], Image)
    topics |= dict.fromkeys([CAMERA_INFO_TOPIC, f"{NODE}/camera_info"], CameraInfo)
    with (
        process("node", node, env, log) as running,
        Recorder(bag, topics, {f"{NODE}/labels": String}) as recorder,
    ):
        wait_until_active(recorder, running, log)
        with process("player", play, env, log) as player:
            if player.wait() != 0:
                raise RuntimeError(f"the player ended with status {player.returncode}; see {log}")
        last = time.monotonic() + DRAIN_TIMEOUT_S
        while time.monotonic() < last and not drained(recorder.seen, f"{NODE}/semantic"):
            time.sleep(0.1)
    return recorder.seen


def drained(seen: Recorded, semantic: str) -> bool:
    """Whether every frame that reached the node is accounted for, and its mask is here.

    By the node's own report, and only once it is newer than the last image.
    """
    said = seen.diagnostics
    dropped = sum(int(count) for key, count in said.items() if key.startswith("dropped: "))
    frames_in, frames_out = int(said["frames in"]), int(said["frames out"])
    fresh = seen.reported_ns - seen.last_ns.get(IMAGE_TOPIC, 0) > REPORT_NS
    return fresh and frames_in == frames_out + dropped and seen.counts[semantic] >= frames_out
