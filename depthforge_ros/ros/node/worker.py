# SPDX-License-Identifier: Apache-2.0
"""Worker threads, and a rate limit. No ROS here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Taken = TypeVar("Taken", covariant=True)

_log = logging.getLogger(__name__)

LOADING_THREAD = "depthforge_loading"
"""Name of the threads that `run_abandonable` starts."""


class Inlet(Protocol[Taken]):
    """Source of a worker's items."""

    def take(self) -> Taken | None:
        """Wait for an item and return it; None once the inlet is closed."""
        ...

    def close(self) -> None:
        """Wake all waiters permanently."""
        ...


class Worker(Generic[Item]):
    """A thread that calls `work` with each item of the inlet, until `stop`.

    An exception of `work` is passed to `failed` with the item, and the thread goes on; an exception
    of `failed` is logged.
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
        """End the thread after the current item. Returns False if that takes longer."""
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
            del item  # free the image while waiting for the next one


class RateLimit:
    """Passes items at a mean rate, without the drift below it that plain waiting has."""

    def __init__(self) -> None:
        self._due_ns = 0

    def passes(self, now_ns: int, rate_hz: float) -> bool:
        """Return whether an item that arrives at now_ns passes. rate_hz 0: always."""
        if rate_hz <= 0:
            return True
        if now_ns < self._due_ns:
            return False
        period_ns = round(1e9 / rate_hz)
        # From the due time, not from the arrival: a camera out of step would lose up to a frame
        # each time. After a pause nothing is caught up.
        late = now_ns - self._due_ns > period_ns
        self._due_ns = (now_ns if late else self._due_ns) + period_ns
        return True


class AbandonedError(Exception):
    """`run_abandonable` gave up; its thread may still be busy."""


def run_abandonable(build: Callable[[], Item], keep_going: Callable[[], bool]) -> Item:
    """Run `build` in a thread and return its result; give up once keep_going() is false.

    Reading weights and compiling cannot be interrupted, and a process that is asked to end must not
    wait for them. Raises what `build` raises, or AbandonedError.
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
