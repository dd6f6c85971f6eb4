# SPDX-License-Identifier: Apache-2.0
"""Publishers of one camera's outputs: which of them have a listener, and what each one sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from depthforge_ros.frame import UNLABELLED, DepthKind, Frame, Prediction
from depthforge_ros.legend import legend
from depthforge_ros.ros.calibration import Calibration
from depthforge_ros.ros.messages import (
    ABSENT,
    LabelInfo,
    jpeg_message,
    label_info_message,
    labels_message,
    png_message,
    rgb8_message,
)
from depthforge_ros.ros.metric import DepthImages, planner_messages
from depthforge_ros.ros.node.camera_names import UNNAMED, topic_of
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.variant import LabelSet

LEGEND_WIDTH_PX = 320


def output_qos(durability: DurabilityPolicy = DurabilityPolicy.VOLATILE) -> QoSProfile:
    """Return a new profile: reliable, keep last 1."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=durability,
    )


class Outputs:
    """The publishers of one camera of a configured network; `close` destroys them.

    They are lifecycle publishers: rclpy drops what is published while the node is not active.
    """

    def __init__(
        self,
        node: LifecycleNode,
        labels: LabelSet,
        depth_kind: DepthKind,
        *,
        by_ground: bool,
        spatial: Mapping[str, type],
        camera: str = UNNAMED,
    ) -> None:
        """by_ground: whether relative depth is also given in metres, by the road. spatial: name
        and type of further outputs that are made from metres. camera: its name, part of the topics.

        Raises what rclpy raises for a QoS override; no publisher is left then.
        """
        self._node = node
        self._camera = camera
        self._labels, self._palette = labels, labels.palette()
        self.depth_topic = "depth" if depth_kind is DepthKind.METRIC else "inverse_depth"
        depths = {self.depth_topic, "depth"} if by_ground else {self.depth_topic}
        self.depth_topics = depths | set(spatial)
        kinds: dict[str, type] = dict.fromkeys(("semantic", "confidence", *depths), Image)
        kinds |= {"semantic_color": Image, "overlay": Image, "camera_info": CameraInfo, **spatial}
        kinds |= dict.fromkeys(("semantic/compressed", "overlay/compressed"), CompressedImage)
        self._created: list = []
        try:
            self.publishers = {
                name: self._publisher(kind, name, output_qos()) for name, kind in kinds.items()
            }
            # A profile for each: rclpy writes the overrides into the one that it is given.
            latched = DurabilityPolicy.TRANSIENT_LOCAL
            self._labels_publisher = self._publisher(String, "labels", output_qos(latched))
            self._legend_publisher = self._publisher(Image, "legend", output_qos(latched))
            self._label_info_publisher = (
                None if ABSENT else self._publisher(LabelInfo, "label_info", output_qos(latched))
            )
        except Exception:  # such as a QoS override that rclpy does not know
            self.close()
            raise

    def _publisher(self, kind: type, name: str, qos: QoSProfile):
        publisher = self._node.create_lifecycle_publisher(
            kind,
            f"~/{topic_of(self._camera, name)}",
            qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._created.append(publisher)
        return publisher

    def requested(self) -> frozenset[str]:
        """Return the names of the outputs of a frame that have a listener."""
        return frozenset(
            name
            for name, publisher in self.publishers.items()
            if publisher.get_subscription_count()
        )

    def publish_labels(self, threshold: float) -> None:
        """Send the label set and its legend once, latched, with empty headers.

        threshold: the confidence below which pixels are unlabelled.
        """
        drawn = legend(self._labels, LEGEND_WIDTH_PX)
        self._legend_publisher.publish(rgb8_message(Header(), drawn))
        self._labels_publisher.publish(labels_message(self._labels))
        if self._label_info_publisher is not None:
            self._label_info_publisher.publish(label_info_message(self._labels, threshold))

    def paint(self, labels: LabelSet) -> None:
        """Draw the same classes in the colours of these labels from now on."""
        self._labels, self._palette = labels, labels.palette()

    def publish(self, messages: dict[str, Any]) -> None:
        """Send messages by output name."""
        for name, message in messages.items():
            self.publishers[name].publish(message)

    def for_planners(
        self,
        requested: frozenset[str],
        header: Header,
        seen: Prediction,
        depth: DepthImages,
        calibration: Calibration | None,
    ) -> dict[str, Image | CameraInfo]:
        """Return the messages of the requested outputs that planners read."""
        return planner_messages(requested, header, seen, depth, calibration)

    def for_people(
        self,
        requested: frozenset[str],
        header: Header,
        frame: Frame,
        seen: Prediction,
        values: Parameters,
    ) -> dict[str, Image | CompressedImage]:
        """Return the messages of the requested OUTPUTS_FOR_PEOPLE."""
        messages: dict[str, Image | CompressedImage] = {}
        if "semantic/compressed" in requested:
            messages["semantic/compressed"] = png_message(header, seen.labels)
        if not requested & {"semantic_color", "overlay", "overlay/compressed"}:
            return messages
        color = colored(seen.labels, self._palette)
        if "semantic_color" in requested:
            messages["semantic_color"] = rgb8_message(header, color)
        if requested & {"overlay", "overlay/compressed"}:
            drawn = overlaid(frame.rgb, color, seen.labels, values.overlay_opacity)
            if "overlay" in requested:
                messages["overlay"] = rgb8_message(header, drawn)
            if "overlay/compressed" in requested:
                messages["overlay/compressed"] = jpeg_message(header, drawn)
        return messages

    def close(self) -> None:
        """Destroy the publishers."""
        while self._created:
            self._node.destroy_lifecycle_publisher(self._created.pop())


def colored(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the colours of labels [H, W] by a palette [256, 3] uint8: [H, W, 3] uint8."""
    return np.take(palette, labels, axis=0)  # [H, W, 3]


def overlaid(rgb: np.ndarray, color: np.ndarray, labels: np.ndarray, opacity: float) -> np.ndarray:
    """Return an image [H, W, 3] blended with class colours [h, w, 3], of the colours' size.

    Unlabelled pixels are those of the image.
    """
    height, width = labels.shape
    if rgb.shape[:2] != (height, width):
        rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)  # [h, w, 3]
    drawn = cv2.addWeighted(rgb, 1 - opacity, color, opacity, 0)
    cv2.copyTo(rgb, (labels == UNLABELLED).view(np.uint8), drawn)
    return drawn
