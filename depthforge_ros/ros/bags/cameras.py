# SPDX-License-Identifier: Apache-2.0
"""The image topics of a bag that are annotated, and the CameraInfo that belongs to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from depthforge_ros.frame import DepthKind
from depthforge_ros.ros.bags.reader import IMAGE_TYPES
from depthforge_ros.ros.bags.topic import BagError, Topic

IMAGE_TYPE = "sensor_msgs/msg/Image"
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
_IMAGE_WORDS = ("image", "compressed", "raw", "rect", "color", "mono")


@dataclass(frozen=True)
class Camera:
    """One annotated image topic: the topic of its CameraInfo, and where results go."""

    topic: str
    info_topic: str | None
    prefix: str

    def outputs(self, depth_kind: DepthKind, has_metres: bool, has_info: bool) -> dict[str, str]:
        """Return name and type of the topics that this camera adds to the bag."""
        names = ["semantic", "confidence"]
        names += ["depth"] if has_metres else []
        names += ["inverse_depth"] if depth_kind is DepthKind.RELATIVE else []
        types = dict.fromkeys(names, IMAGE_TYPE)
        return {**types, "camera_info": INFO_TYPE} if has_info else types


def find_cameras(
    bag: Path,
    topics: Sequence[Topic],
    chosen: Sequence[str],
    namespace: str,
    info_topics: Sequence[str] = (),
) -> list[Camera]:
    """Return the cameras of the chosen image topics, or of the only one if none are chosen.

    bag: for errors. info_topics: topics of CameraInfo, in the order of `chosen`; none: camera_info
    beside the image, or the bag's only CameraInfo topic. Raises BagError.
    """
    images = sorted({topic.name for topic in topics if topic.kind in IMAGE_TYPES})
    infos = sorted({topic.name for topic in topics if topic.kind == INFO_TYPE})
    known = f"image topics of {bag}: {', '.join(images) or 'none'}"
    unknown = [topic for topic in chosen if topic not in images]
    if unknown:
        raise BagError(f"no image topic {', '.join(unknown)}; {known}")
    if not images:
        others = ", ".join(f"{topic.name} ({topic.kind})" for topic in topics) or "none"
        raise BagError(f"bag {bag} has no topic of {' or '.join(IMAGE_TYPES)}; topics: {others}")
    if not chosen and len(images) != 1:
        raise BagError(f"choose with --topic; {known}")
    chosen = list(dict.fromkeys(chosen)) or images
    unknown = [topic for topic in info_topics if topic not in infos]
    if unknown:
        raise BagError(
            f"no CameraInfo topic {', '.join(unknown)}; CameraInfo topics of {bag}: "
            f"{', '.join(infos) or 'none'}"
        )
    if info_topics and len(info_topics) != len(chosen):
        raise BagError(
            f"{len(info_topics)} CameraInfo topics for {len(chosen)} image topics; expected as many"
        )
    names = [camera_name(topic) for topic in chosen]
    if len(set(names)) < len(names):
        names = [topic.strip("/").replace("/", "_") for topic in chosen]
    if len(set(names)) < len(names):
        raise BagError(f"cameras would have one name: {', '.join(chosen)}; annotate one by one")
    cameras = []
    for index, (topic, name) in enumerate(zip(chosen, names, strict=True)):
        beside = f"{topic.removesuffix('/compressed').rpartition('/')[0]}/camera_info"
        info: str | None = beside if beside in infos else None
        if info_topics:
            info = info_topics[index]
        elif info is None and len(infos) == len(chosen) == 1:
            info = infos[0]
        prefix = namespace if len(chosen) == 1 else f"{namespace}/{name}"
        cameras.append(Camera(topic, info, prefix))
    return cameras


def camera_name(topic: str) -> str:
    """Return the name of a camera by its image topic: `front` for /front/image_raw/compressed."""
    parts = topic.strip("/").split("/")
    while len(parts) > 1 and parts[-1].split("_")[0] in _IMAGE_WORDS:
        parts.pop()
    return parts[-1]
