# SPDX-License-Identifier: Apache-2.0
"""The classes of a network: their ids, names and colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from depthforge_ros.frame import UNLABELLED


@dataclass(frozen=True)
class LabelClass:
    """One class: its name and its usual colour, [r, g, b] 0..255."""

    name: str
    color: tuple[int, int, int]

    def __post_init__(self) -> None:
        if len(self.color) != 3 or not all(0 <= channel <= 255 for channel in self.color):
            raise ValueError(
                f"color of {self.name!r} is {self.color}; expected three numbers 0..255"
            )


@dataclass(frozen=True)
class LabelSet:
    """The classes of a network in trainId order; the position is the id."""

    name: str
    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        names = [label.name for label in self.classes]
        if not 1 <= len(names) <= UNLABELLED:
            raise ValueError(f"label set {self.name!r} has {len(names)} classes; expected 1..255")
        if len(set(names)) != len(names):
            raise ValueError(f"label set {self.name!r} names a class twice: {names}")

    def __len__(self) -> int:
        return len(self.classes)

    def palette(self) -> np.ndarray:
        """Return the colour of every mask value: [256, 3] uint8, black for ids without a class."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = [label.color for label in self.classes]
        return table

    def painted(self, colors: Mapping[str, tuple[int, int, int]]) -> LabelSet:
        """Return the label set with other colours for the named classes.

        Raise ValueError if the set has no such class, or a colour is none.
        """
        unknown = sorted(set(colors) - {label.name for label in self.classes})
        if unknown:
            names = ", ".join(label.name for label in self.classes)
            raise ValueError(
                f"a colour is given for {', '.join(unknown)}; expected some of {names}"
            )
        return replace(
            self,
            classes=tuple(
                replace(label, color=colors.get(label.name, label.color)) for label in self.classes
            ),
        )

    def id_of(self, name: str) -> int | None:
        """Return the trainId of the class of that name, None if the set has no such class."""
        return next((i for i, label in enumerate(self.classes) if label.name == name), None)
