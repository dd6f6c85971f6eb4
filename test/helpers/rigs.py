# SPDX-License-Identifier: Apache-2.0
"""An active Inference in this process with an engine that is held, and a listener in another
context.
"""

from __future__ import annotations

from typing import Any

import rclpy
from dds import Listener, own_domain
from engines import HeldEngine
from nav_msgs.msg import OccupancyGrid
from nodes import HEIGHT, KEEP, camera_info_message
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from waits import WAIT_S

from depthforge_ros.pipeline import Pipeline
from depthforge_ros.ros.node.camera_names import Topics, topic_of
from depthforge_ros.ros.node.camera_poses import PoseSource
from depthforge_ros.ros.node.inference import Inference
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.ros.node.statistics import Health, Statistics

KINDS = {"camera_info": CameraInfo, "points": PointCloud2, "drivable": OccupancyGrid}
KINDS |= {"overlay/compressed": CompressedImage, "semantic/compressed": CompressedImage}


class Rig:
    """The Inference of some cameras; `close` ends it."""

    def __init__(
        self,
        engine: HeldEngine,
        cameras: tuple[str, ...] = ("",),
        *,
        overlap: bool | None = None,
        tf: PoseSource | None = None,
        **parameters: Any,
    ) -> None:
        domain = own_domain()
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = LifecycleNode("depthforge", context=self._context)
        self.engine = engine
        given = {"drop_stale": False, **parameters}  # the images of `image_message` are years old
        self.values = Parameters(cameras=cameras, short_side_px=HEIGHT, **given)
        self.counts = {camera: Statistics() for camera in cameras}
        self.inference = Inference(
            self.node,
            Pipeline(engine),
            self.counts,
            lambda: self.values,
            topics={c: Topics(topic_of(c, "/image"), topic_of(c, "/camera_info")) for c in cameras},
            tf=tf,
            overlap=overlap,
        )
        self.node.trigger_configure()
        self.node.trigger_activate()
        self.inference.open_input()
        self.listener = Listener(domain)

    @property
    def stream(self):
        """The first camera's."""
        return next(iter(self.inference.streams.values()))

    @property
    def statistics(self) -> Statistics:
        """The first camera's."""
        return next(iter(self.counts.values()))

    def hear(self, name: str, camera: str = "") -> list:
        """What comes on a camera's ~/NAME, once its publisher knows of the listener."""
        kind = KINDS.get(name, Image)
        heard = self.listener.subscribe(kind, f"/depthforge/{topic_of(camera, name)}", KEEP)
        outputs = self.inference.streams[camera].outputs
        self.listener.spin_until(lambda: name in outputs.requested())
        return heard

    def leave(self, name: str) -> None:
        """Stop hearing ~/NAME, and wait until the publisher knows."""
        (subscription,) = [
            s for s in self.listener.node.subscriptions if s.topic_name == f"/depthforge/{name}"
        ]
        self.listener.node.destroy_subscription(subscription)
        self.listener.spin_until(lambda: name not in self.stream.outputs.requested())

    def through(self, message: Image) -> Health:
        """The counters once that image, and nothing else, was handled."""
        before = self.statistics.snapshot()
        self.stream.receive(message)
        return self.settled(before.frames_out + sum(before.drops.values()) + 1)

    def settled(self, count: int) -> Health:
        """The first camera's counters once that many frames have gone out or been dropped."""

        def done() -> bool:
            health = self.statistics.snapshot()
            return health.frames_out + sum(health.drops.values()) >= count

        self.listener.spin_until(done)
        self.listener.drain()
        return self.statistics.snapshot()

    def close(self) -> None:
        self.engine.permits.release(100)
        self.inference.close(WAIT_S)
        self.listener.__exit__()
        self.node.destroy_node()
        self._context.try_shutdown()


def level_camera_info() -> CameraInfo:
    """Of the camera whose horizon is where the engine's is."""
    info = camera_info_message()
    info.k[5] = (HEIGHT - 1) / 2
    return info


def stamps(heard: list[Image]) -> list[int]:
    return [message.header.stamp.sec - 1_700_000_000 for message in heard]
