# SPDX-License-Identifier: Apache-2.0
"""Time for tests."""

from __future__ import annotations


class Clock:
    """A steady clock that is moved by hand, in milliseconds."""

    def __init__(self) -> None:
        self.now_ms = 100_000

    def __call__(self) -> int:
        return self.now_ms * 1_000_000
