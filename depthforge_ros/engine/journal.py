# SPDX-License-Identifier: Apache-2.0
"""What became of the engines since they were chosen, for diagnostics and the terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Journal:
    """Written by engines, read by whoever reports; each reads and writes whole values.

    progress: what goes on now, empty where nothing does. self_check: the figures of the engine
    that was taken. refused: engine and reason of each that was tried before it. notes: what keeps
    the engine from being used as it was meant, by subject. trouble: why it cannot run at all.
    tell: called with every new line of progress.
    """

    def __init__(self, tell: Callable[[str], None] = lambda text: None) -> None:
        self.progress = ""
        self.self_check = ""
        self.refused: tuple[tuple[str, str], ...] = ()
        self.notes: dict[str, str] = {}
        self.trouble = ""
        self._tell = tell

    def proceed(self, text: str) -> None:
        """Something new goes on; an empty text: nothing does any more."""
        self.progress = text
        if text:
            self._tell(text)

    def refuse(self, engine: str, reason: str) -> None:
        """An engine was tried and not taken."""
        self.refused = (*self.refused, (engine, reason))
        _log.warning("engine %s refused: %s", engine, reason)

    def note(self, subject: str, text: str) -> None:
        """Something to know about the engine that runs; told once, kept for reports."""
        if self.notes.get(subject) != text:
            self.notes = {**self.notes, subject: text}
            _log.warning("%s", text)

    def fail(self, text: str) -> None:
        """The engine cannot run any more."""
        self.trouble = text
