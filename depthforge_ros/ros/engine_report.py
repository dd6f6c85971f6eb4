# SPDX-License-Identifier: Apache-2.0
"""What /diagnostics says about the engine: how it was chosen, and what became of it since."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticStatus

if TYPE_CHECKING:
    from depthforge_ros.engine import Journal


@dataclass(frozen=True)
class EngineReport:
    """A Journal at one moment, see there."""

    progress: str = ""
    self_check: str = ""
    refused: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    trouble: str = ""

    @classmethod
    def of(cls, journal: Journal | None) -> EngineReport:
        """What a journal says now; nothing where there is none yet."""
        if journal is None:
            return cls()
        return cls(
            journal.progress,
            journal.self_check,
            journal.refused,
            tuple(journal.notes.items()),
            journal.trouble,
        )

    def values(self) -> dict[str, str]:
        """Keys and values of the status."""
        told = {"engine progress": self.progress, "self-check": self.self_check}
        told |= {f"refused: {engine}": reason for engine, reason in self.refused}
        return told | {f"engine: {subject}": text for subject, text in self.notes}

    def findings(self) -> Iterator[tuple[bytes, str]]:
        """Level and text of what keeps the engine from being the one that was asked for."""
        if self.trouble:
            yield DiagnosticStatus.ERROR, self.trouble
        for engine, reason in self.refused:
            yield DiagnosticStatus.WARN, f"engine {engine} refused: {reason}"
        for _, text in self.notes:
            yield DiagnosticStatus.WARN, text
