# SPDX-License-Identifier: Apache-2.0
"""Runs player, node and recorder for a demo, the first two as processes, over DDS."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from depthforge_ros.ros.harness.node_process import (
    Process,
    active_node,
    environment,
    process,
    settle,
    use,
    wait_for,
)
from depthforge_ros.ros.harness.recorder import Counters, Recorded, Recorder

IMAGE_TOPIC = "/camera/image_raw"
CAMERA_INFO_TOPIC = "/camera/camera_info"
FRAME_ID = "camera_optical_frame"
NODE = "/depthforge"
SEMANTIC = f"{NODE}/semantic"
FASTEST_HZ = 10.0
PROBE_HZ = 20.0
PROBE_MASKS = 4  # the first of which waits for what is built on first use
PROBE_TIMEOUT_S = 180.0
SPARE = 0.7  # of the speed that a probe found; the rest is for what else the machine does


@dataclass(frozen=True)
class Settings:
    """Settings of the node. depth_topic: depth or inverse_depth. domain_id: None: a free one."""

    variant: str
    checkpoint: str
    device: str
    depth_topic: str
    domain_id: int | None


@dataclass(frozen=True)
class Driven:
    """Messages and counters of one drive. counters: the node's, of this drive alone."""

    recorded: Recorded
    counters: Counters

    def count(self, topic: str) -> int:
        """Return the number of messages received on a topic."""
        return len(self.recorded.headers[topic])

    def foreign_headers(self) -> int:
        """Return how many outputs have a header that no image had; it should be 0."""
        headers = self.recorded.headers
        # They share theirs, and a listener may miss one of them.
        sent = {*headers[IMAGE_TOPIC], *headers[CAMERA_INFO_TOPIC]}
        outputs = [topic for topic in headers if topic.startswith(NODE)]
        return sum(header not in sent for topic in outputs for header in headers[topic])


class Graph:
    """An active node and a recorder of its inputs and outputs; images are played on demand."""

    def __init__(
        self,
        depth_topic: str,
        node: Process,
        recorder: Recorder,
        env: Mapping[str, str],
        log: Path,
    ) -> None:
        self.depth_topic = depth_topic
        self._node, self._recorder, self._env, self._log = node, recorder, env, log

    def sustainable_hz(self, images: Path, fov_deg: float) -> float:
        """Return a rate that the node sustains with these images, at most FASTEST_HZ.

        Found by playing faster than that. Raises RuntimeError if no masks come back.
        """
        with self._recorder.recording() as seen:
            arrivals_ns = seen.arrivals_ns[SEMANTIC]
            with self._player(images, fov_deg, PROBE_HZ, "--loop"):
                if not wait_for(
                    lambda: len(arrivals_ns) >= PROBE_MASKS, self._node, PROBE_TIMEOUT_S
                ):
                    said = self._recorder.report().message
                    raise RuntimeError(f"the node publishes no masks; its diagnostics: {said}")
            settle(self._recorder, self._node, SEMANTIC)
        period_ns = (arrivals_ns[PROBE_MASKS - 1] - arrivals_ns[0]) / (PROBE_MASKS - 1)
        return min(FASTEST_HZ, SPARE * 1e9 / period_ns)

    def drive(self, images: Path, fov_deg: float, rate_hz: float, bag: Path) -> Driven:
        """Play a folder of images through the node and record everything into `bag`.

        fov_deg: horizontal field of view of the camera. Raises RuntimeError if a process fails
        or does not answer.
        """
        before = self._recorder.report().counters
        with self._recorder.recording(bag) as seen:
            with self._player(images, fov_deg, rate_hz) as player:
                wait_for(player.ended, self._node, math.inf)
            settle(self._recorder, self._node, SEMANTIC)
        return Driven(seen, self._recorder.report().counters.since(before))

    def _player(
        self, images: Path, fov_deg: float, rate_hz: float, *options: str
    ) -> AbstractContextManager[Process]:
        command = [sys.executable, "-m", "depthforge_ros.cli", "play", str(images), *options]
        command += ["--topic", IMAGE_TOPIC, "--frame-id", FRAME_ID]
        command += ["--fov", f"{fov_deg:.4f}", "--rate", f"{rate_hz:.3g}"]
        command += ["--wait-for-subscribers", "4"]  # node and recorder, to two topics
        return process("player", command, self._env, self._log)


@contextmanager
def running(settings: Settings, log: Path) -> Iterator[Graph]:
    """The graph with an active node. Raises RuntimeError if the node does not become active."""
    env = environment(settings.domain_id)
    use(env)
    depth_topic = f"{NODE}/{settings.depth_topic}"
    names = (
        SEMANTIC,
        f"{NODE}/confidence",
        depth_topic,
        f"{NODE}/semantic_color",
        f"{NODE}/overlay",
    )
    topics = dict.fromkeys((IMAGE_TOPIC, *names), Image)
    topics |= dict.fromkeys([CAMERA_INFO_TOPIC, f"{NODE}/camera_info"], CameraInfo)
    parameters = {
        "variant": settings.variant,
        "checkpoint": settings.checkpoint,
        "device": settings.device,
    }
    remaps = {"image": IMAGE_TOPIC, "camera_info": CAMERA_INFO_TOPIC}
    # The recorder first, so that it misses nothing and the domain is taken at once.
    with (
        Recorder(topics, {f"{NODE}/labels": String}) as recorder,
        active_node(recorder, parameters, remaps, env, log) as node,
    ):
        yield Graph(depth_topic, node, recorder, env, log)
