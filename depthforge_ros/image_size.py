# SPDX-License-Identifier: Apache-2.0
"""The one notation of image sizes: WIDTHxHEIGHT in pixels, as cameras give it.

Every option, parameter and launch argument that takes a size is parsed here. Arrays and tensors
stay [H, W]; only text has the width first.
"""

from __future__ import annotations

import re

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})", re.IGNORECASE)


def parse_size(text: str, name: str) -> tuple[int, int]:
    """Return width and height in pixels of WIDTHxHEIGHT, each 1..99999.

    Raise ValueError with `name`, the option or parameter that holds the text, for anything else.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"{name} is {text!r}; expected WIDTHxHEIGHT in pixels, width first, such as 1920x1080"
        )
    return int(found[1]), int(found[2])
