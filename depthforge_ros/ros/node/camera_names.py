# SPDX-License-Identifier: Apache-2.0
"""Names of the cameras of one node, and the topics that follow from them. No ROS here."""

from __future__ import annotations

import re
from collections.abc import Iterable

UNNAMED = ""
"""The only camera of a node whose topics have no name in between."""

# A token of a ROS topic name, without the forms that hide a topic (_a) or that DDS keeps (a__b).
_TOKEN = re.compile(r"[A-Za-z](_?[A-Za-z0-9])*_?")


def camera_names(given: Iterable[str]) -> tuple[str, ...]:
    """The names as they are, or UNNAMED alone where there is none.

    Raises ValueError for a name that cannot be part of a topic, and for one that comes twice.
    """
    names = tuple(given) or (UNNAMED,)
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
    """The topic of a camera: `front/image`; `image` where the camera has no name."""
    return f"{camera}/{topic}" if camera else topic
