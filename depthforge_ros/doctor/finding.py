# SPDX-License-Identifier: Apache-2.0
"""One finding of the doctor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum


class Level(Enum):
    """Severity of a finding."""

    OK = "OK"
    WARN = "WARN"
    """The node works, but slower, with losses, or in part."""
    FAIL = "FAIL"
    """The node does not work."""


@dataclass(frozen=True)
class Finding:
    """check: name of the check. text: its result. remedy: what to change, "" if nothing."""

    level: Level
    check: str
    text: str
    remedy: str = ""

    def line(self) -> str:
        """Return the finding for a terminal, the remedy on a line of its own."""
        first = f"{self.level.value:<5}{self.check}: {self.text}"
        return f"{first}\n       -> {self.remedy}" if self.remedy else first

    def as_mapping(self) -> dict[str, str]:
        """Return the finding for JSON."""
        return {**asdict(self), "level": self.level.value}


def ok(check: str, text: str) -> Finding:
    """Return a finding of level OK."""
    return Finding(Level.OK, check, text)


def warn(check: str, text: str, remedy: str) -> Finding:
    """Return a finding of level WARN."""
    return Finding(Level.WARN, check, text, remedy)


def fail(check: str, text: str, remedy: str) -> Finding:
    """Return a finding of level FAIL."""
    return Finding(Level.FAIL, check, text, remedy)
