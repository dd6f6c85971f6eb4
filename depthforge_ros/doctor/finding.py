# SPDX-License-Identifier: Apache-2.0
"""What the doctor says about one thing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum


class Level(Enum):
    """How bad it is."""

    OK = "OK"
    WARN = "WARN"
    """It works, and not as well as it could, or only in part."""
    FAIL = "FAIL"
    """The node does not work like this."""


@dataclass(frozen=True)
class Finding:
    """check: what was looked at. text: what was found. remedy: what to change, "" where nothing."""

    level: Level
    check: str
    text: str
    remedy: str = ""

    def line(self) -> str:
        """For a terminal; the remedy stands in a line of its own."""
        first = f"{self.level.value:<5}{self.check}: {self.text}"
        return f"{first}\n       -> {self.remedy}" if self.remedy else first

    def as_mapping(self) -> dict[str, str]:
        """For JSON."""
        return {**asdict(self), "level": self.level.value}


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, check, text)


def warn(check: str, text: str, remedy: str) -> Finding:
    """It could be better."""
    return Finding(Level.WARN, check, text, remedy)


def fail(check: str, text: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(Level.FAIL, check, text, remedy)
