# SPDX-License-Identifier: Apache-2.0
"""Threads that work on what they are given, and how they end. No ROS here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Taken = TypeVar("Taken", covariant=True)

_log = logging.getLogger(__name__)

LOADING_THREAD = "depthforge_loading"
"""Name of the thread that `run_abandonable` starts, by which one that is still busy is found."""


class Inlet(Protocol[Taken]):
    """Where a worker's items come from."""

    def take(self) -> Taken | None:
        """Wait for an item and take it; None once the inlet is closed."""
        ...

    def close(self) -> None:
        """Let whoever waits in `take` go, for ever."""
        ...


class Worker(Generic[Item]):
    """A thread that calls `work` with one item of the inlet after the other, until `stop`.

    What `work` raises is handed to `failed` with the item, and the thread goes on; even where
    `failed` raises, which is logged.
    """

    def __init__(
        self,
        name: str,
        inlet: Inlet[Item],
        work: Callable[[Item], None],
        failed: Callable[[Item, Exception], None],
    ) -> None:
        self._inlet = inlet
        self._work = work
        self._failed = failed
        # A daemon, so that inference stuck in a driver cannot keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the item at hand. Returns False where that outlasts the timeout."""
        self._inlet.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._inlet.take()) is not None:
            try:
                self._work(item)
            except Exception as error:
                try:
                    self._failed(item, error)
                except Exception:
                    _log.exception("a failed frame could not be counted")
            del item  # an image must not stay in memory while the next one is awaited


class RateLimit:
    """Lets items through at a mean rate, without drifting below it as plain waiting would."""

    def __init__(self) -> None:
        self._due_ns = 0

    def passes(self, now_ns: int, rate_hz: float) -> bool:
        """Whether an item that comes at now_ns may go on. rate_hz 0: always."""
        if rate_hz <= 0:
            return True
        if now_ns < self._due_ns:
            return False
        period_ns = round(1e9 / rate_hz)
        # Counted from when the item was due, not from when it came: a camera that is out of step
        # would lose up to a frame each time. After a pause there is nothing to catch up.
        late = now_ns - self._due_ns > period_ns
        self._due_ns = (now_ns if late else self._due_ns) + period_ns
        return True


class AbandonedError(Exception):
    """What ran in `run_abandonable` was abandoned; its thread may still be busy."""


def run_abandonable(build: Callable[[], Item], keep_going: Callable[[], bool]) -> Item:
    """Run `build` in a thread and return its result; give it up once keep_going() is false.

    Reading weights or compiling is one long call that cannot be interrupted, and whoever asks the
    process to end shall not wait for it. Raises what `build` raises, or AbandonedError.
    """
    done = threading.Event()
    results: list[Item] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(build())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=run, name=LOADING_THREAD, daemon=True).start()
    while not done.wait(0.05):
        if not keep_going():
            raise AbandonedError
    if errors:
        raise errors[0]
    return results[0]
