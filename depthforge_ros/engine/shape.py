# SPDX-License-Identifier: Apache-2.0
"""What a compiled engine is made for."""

from __future__ import annotations

from dataclasses import dataclass

from depthforge_ros.image_size import parse_size
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
                    f"shape is {self.width}x{self.height}; expected WIDTHxHEIGHT, positive "
                    f"multiples of {SIDE_MULTIPLE_PX}"
                )
        if not 1 <= self.batch <= MAX_WINDOWS:
            raise ValueError(f"batch is {self.batch}; expected 1..{MAX_WINDOWS}")

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Return the shape of `480x352` or `480x352 batch 8`, width first. Raise ValueError."""
        size, _, batch = text.strip().partition(" batch ")
        width, height = parse_size(size, "shape")
        if batch and not batch.isdecimal():
            raise ValueError(f"batch is {batch!r}; expected 1..{MAX_WINDOWS}")
        return cls(height, width, int(batch or 1))

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Of a batch of images: B, 3, h, w."""
        return self.batch, 3, self.height, self.width

    def __str__(self) -> str:
        return f"{self.width}x{self.height}" + (f" batch {self.batch}" if self.batch > 1 else "")
