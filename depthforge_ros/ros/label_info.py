# SPDX-License-Identifier: Apache-2.0
"""The label set as vision_msgs/LabelInfo, where vision_msgs is installed: wheels do not have it."""

from __future__ import annotations

from typing import Any

from std_msgs.msg import Header

from depthforge_ros.variant import LabelSet

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:
    LabelInfo = VisionClass = None

ABSENT = "" if LabelInfo is not None else "vision_msgs is not installed"
"""Why there is no ~/label_info; empty where there is."""


def label_info_message(
    labels: LabelSet,
    threshold: float,
    info: Any = LabelInfo,
    vision_class: Any = VisionClass,
) -> Any:
    """A LabelInfo of all classes in the order of their ids.

    UNLABELLED is not among them: 255 is what LabelInfo.msg itself means by it. threshold: below
    which confidence a pixel is unlabelled. info, vision_class: the message types. The header is
    empty, as labels have neither a place nor a time.
    """
    classes = [
        vision_class(class_id=index, class_name=label.name)
        for index, label in enumerate(labels.classes)
    ]
    return info(header=Header(), class_map=classes, threshold=threshold)
