# SPDX-License-Identifier: Apache-2.0
"""Which publishers and subscriptions of a running graph do not reach each other, and why."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

IMAGE_TYPES = frozenset(
    {
        "sensor_msgs/msg/Image",
        "sensor_msgs/msg/CompressedImage",
        "sensor_msgs/msg/CameraInfo",
        "sensor_msgs/msg/PointCloud2",
    }
)


@dataclass(frozen=True)
class Link:
    """One publisher and one subscription of a topic; publisher "": nobody publishes.

    reason: why nothing gets through, "" where it does.
    """

    topic: str
    publisher: str
    subscription: str
    reason: str


def implementation() -> str:
    """Name of the RMW implementation that this process uses."""
    return rclpy.get_rmw_implementation_identifier()


def links(seconds: float) -> list[Link]:
    """Every link of image topics on the graph, after listening for so long who is there."""
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = Node(
            "depthforge_doctor",
            context=context,
            enable_rosout=False,
            start_parameter_services=False,
        )
        time.sleep(seconds)  # DDS discovers in threads of its own
        found = list(_links(node))
        node.destroy_node()
    finally:
        context.try_shutdown()
    return found


def _links(node: Node) -> Iterator[Link]:
    for topic, types in node.get_topic_names_and_types():
        if not IMAGE_TYPES & set(types):
            continue
        publishers = node.get_publishers_info_by_topic(topic)
        for subscription in node.get_subscriptions_info_by_topic(topic):
            listener = _name(subscription)
            if not publishers:
                yield Link(topic, "", listener, "nobody publishes")
            for publisher in publishers:
                if publisher.topic_type != subscription.topic_type:
                    reason = f"{publisher.topic_type} is not {subscription.topic_type}"
                else:
                    reason = why_not(publisher.qos_profile, subscription.qos_profile)
                yield Link(topic, _name(publisher), listener, reason)


def why_not(publisher: QoSProfile, subscription: QoSProfile) -> str:
    """Why the middleware does not match these two, "" where it does."""
    compatibility, reason = qos_check_compatible(publisher, subscription)
    if compatibility != QoSCompatibility.ERROR:
        return ""
    faults = [text for text in reason.split(";") if text.startswith("ERROR: ")]
    return ", ".join(text.removeprefix("ERROR: ") for text in faults)


def _name(endpoint: Any) -> str:
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"
