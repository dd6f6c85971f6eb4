# SPDX-License-Identifier: Apache-2.0
"""Names of the cameras of one node, and their topics."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

UNNAMED = ""
"""Name of a single camera whose topics do not contain a name."""

# A token of a ROS topic name, but for hidden topics (_a) and reserved names (a__b).
_TOKEN = re.compile(r"[A-Za-z](_?[A-Za-z0-9])*_?")


def camera_names(given: Iterable[str]) -> tuple[str, ...]:
    """Return the names, or UNNAMED alone for one camera without a name.

    Raises ValueError for an empty list, a name that cannot be part of a topic, and a duplicate.
    """
    names = tuple(given)
    if not names:
        raise ValueError("cameras is empty; expected a list like [front, left] or ['']")
    if names == (UNNAMED,):
        return names
    for name in names:
        if not _TOKEN.fullmatch(name):
            raise ValueError(
                f"cameras has {name!r}; expected letters, digits and single underscores, "
                "beginning with a letter"
            )
        if names.count(name) > 1:
            raise ValueError(f"cameras has {name!r} {names.count(name)} times; expected it once")
    return names


def topic_of(camera: str, topic: str) -> str:
    """Return a camera's topic: `front/image`, or `image` if the camera has no name."""
    return f"{camera}/{topic}" if camera else topic


@dataclass(frozen=True)
class Topics:
    """Resolved names of a camera's inputs."""

    image: str = "/image"
    camera_info: str = "/camera_info"


MESSAGES: dict[str, type] = {"raw": Image, "compressed": CompressedImage}
"""Message of each image_transport."""


def input_topics(node: Node, camera: str, transport: str) -> Topics:
    """Return the names of a camera's topics after remapping.

    As image_transport has it, the compressed image and the CameraInfo are beside the resolved
    `image`, unless they are remapped themselves.
    """
    image = node.resolve_topic_name(topic_of(camera, "image"))
    compressed, info = f"{image}/compressed", f"{image.rpartition('/')[0]}/camera_info"
    return Topics(
        image if transport == "raw" else _remapped(node, camera, "image/compressed") or compressed,
        _remapped(node, camera, "camera_info") or info,
    )


def _remapped(node: Node, camera: str, topic: str) -> str | None:
    """The resolved name of a camera's topic if a remapping changes it, None otherwise."""
    name = topic_of(camera, topic)
    resolved = node.resolve_topic_name(name)
    return None if resolved == node.resolve_topic_name(name, only_expand=True) else resolved
