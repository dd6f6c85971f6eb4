# SPDX-License-Identifier: Apache-2.0
"""Finds publishers and subscriptions of a running graph that do not match, and the reason."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

KINDS = {
    "sensor_msgs/msg/Image": "image",
    "sensor_msgs/msg/CompressedImage": "image",
    "sensor_msgs/msg/CameraInfo": "camera_info",
    "sensor_msgs/msg/PointCloud2": "points",
}
"""Types that are checked; those of one kind can replace each other."""


@dataclass(frozen=True)
class Link:
    """A publisher and a subscription of a topic; publisher "": the topic has none.

    reason: why messages do not arrive, "" if they do. candidates: topics of the kind that have a
    publisher, for a topic without one.
    """

    topic: str
    publisher: str
    subscription: str
    reason: str
    candidates: tuple[str, ...] = ()


def implementation() -> str:
    """Return the name of the RMW implementation of this process."""
    return rclpy.get_rmw_implementation_identifier()


def links(seconds: float) -> list[Link]:
    """Return every link of image topics, after so many seconds of discovery."""
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
    topics = {
        topic: KINDS[types[0]]
        for topic, types in node.get_topic_names_and_types()
        if types and types[0] in KINDS
    }
    published = {topic: node.get_publishers_info_by_topic(topic) for topic in topics}
    for topic, kind in topics.items():
        publishers = published[topic]
        for subscription in node.get_subscriptions_info_by_topic(topic):
            listener = _name(subscription)
            if not publishers:
                # The node's own pictures are no camera.
                candidates = tuple(
                    other
                    for other, sender in published.items()
                    if sender and topics[other] == kind and listener not in map(_name, sender)
                )
                yield Link(topic, "", listener, "no publisher", candidates)
            for publisher in publishers:
                if publisher.topic_type != subscription.topic_type:
                    reason = f"{publisher.topic_type} is not {subscription.topic_type}"
                else:
                    reason = why_not(publisher.qos_profile, subscription.qos_profile)
                yield Link(topic, _name(publisher), listener, reason)


def why_not(publisher: QoSProfile, subscription: QoSProfile) -> str:
    """Return why the middleware does not match the two, "" if it does."""
    compatibility, reason = qos_check_compatible(publisher, subscription)
    if compatibility != QoSCompatibility.ERROR:
        return ""
    faults = [text for text in reason.split(";") if text.startswith("ERROR: ")]
    return ", ".join(text.removeprefix("ERROR: ") for text in faults)


def _name(endpoint: Any) -> str:
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"
