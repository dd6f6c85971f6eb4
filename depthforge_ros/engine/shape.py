# SPDX-License-Identifier: Apache-2.0
"""What a compiled engine is made for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from depthforge_ros.variant import PATCH

SIDE_MULTIPLE_PX = 2 * PATCH
MAX_WINDOWS = 64


@dataclass(frozen=True, order=True)
class Shape:
    """Images of one size, so many at once. Raises ValueError for what no network takes."""

    height: int
    width: int
    batch: int = 1

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if side <= 0 or side % SIDE_MULTIPLE_PX:
                raise ValueError(
                    f"shape is {self.height}x{self.width}; expected positive multiples of "
                    f"{SIDE_MULTIPLE_PX}, height x width"
                )
        if not 1 <= self.batch <= MAX_WINDOWS:
            raise ValueError(f"batch is {self.batch}; expected 1..{MAX_WINDOWS}")

    @classmethod
    def parse(cls, text: str) -> Shape:
        """From `352x480` or `352x480 batch 8`, height first. Raises ValueError."""
        found = re.fullmatch(r"(\d{1,5})x(\d{1,5})(?: batch (\d{1,3}))?", text.strip())
        if found is None:
            raise ValueError(f"shape is {text!r}; expected HEIGHTxWIDTH, like 352x480")
        return cls(int(found[1]), int(found[2]), int(found[3] or 1))

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Of a batch of images: B, 3, h, w."""
        return self.batch, 3, self.height, self.width

    def __str__(self) -> str:
        return f"{self.height}x{self.width}" + (f" batch {self.batch}" if self.batch > 1 else "")
