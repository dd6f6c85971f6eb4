# SPDX-License-Identifier: Apache-2.0
"""Signals that ask a process to end, handled for the time of a block."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_signals(
    handler: Callable[[int, object], object] | signal.Handlers, numbers: Sequence[int] = ENDING
) -> Iterator[None]:
    """Call `handler(number, frame)` for these signals; the former handlers return at the end."""
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


@contextmanager
def requests_to_end() -> Iterator[list[int]]:
    """A list of the signals that came; a second one ends the process."""
    received: list[int] = []

    def note(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    with on_signals(note):
        yield received
