# SPDX-License-Identifier: Apache-2.0
"""One thread that works on the newest frame only. No ROS here.

A callback puts a frame into a slot of one place and returns; a frame that nobody took is replaced.
There is no queue that could make an old frame look new.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

_log = logging.getLogger(__name__)

LOADING_THREAD = "depthforge_loading"
"""Name of the thread that `run_abandonable` starts, by which one that is still busy is found."""


class NewestSlot(Generic[Item]):
    """A place for one item; the newest wins. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._closed = False

    def put(self, item: Item) -> bool:
        """Leave an item. Returns whether it replaced one that was never taken."""
        with self._changed:
            replaced = self._item is not None
            self._item = item
            self._changed.notify()
            return replaced

    def take(self) -> Item | None:
        """Wait for an item and take it; None once the slot is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is not None)
            item, self._item = self._item, None
            return None if self._closed else item

    def clear(self) -> bool:
        """Forget the item. Returns whether there was one."""
        with self._changed:
            held, self._item = self._item is not None, None
            return held

    def close(self) -> None:
        """Let whoever waits in `take` go, for ever."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Worker(Generic[Item]):
    """A thread that calls `work` with the newest item, from construction to `stop`.

    What `work` raises is handed to `failed` with the item, and the thread goes on; even where
    `failed` raises, which is logged.
    """

    def __init__(
        self, work: Callable[[Item], None], failed: Callable[[Item, Exception], None]
    ) -> None:
        self.slot: NewestSlot[Item] = NewestSlot()
        self._work = work
        self._failed = failed
        # A daemon, so that inference stuck in a driver cannot keep the process alive.
        self._thread = threading.Thread(target=self._run, name="depthforge_inference", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the item at hand. Returns False where that outlasts the timeout."""
        self.slot.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self.slot.take()) is not None:
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
    """What ran in `run_abandonable` was no longer wanted; its thread may still be busy."""


def run_abandonable(build: Callable[[], Item], wanted: Callable[[], bool]) -> Item:
    """The result of `build`, run in a thread of its own that is given up once not wanted.

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
        if not wanted():
            raise AbandonedError
    if errors:
        raise errors[0]
    return results[0]
