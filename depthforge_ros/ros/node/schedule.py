# SPDX-License-Identifier: Apache-2.0
"""Which frames are worked on next, where several cameras share one engine. No ROS here.

Every camera has a place for one item, and its newest wins: there is no queue that could make an old
frame look new. The camera that was served longest ago goes first, so none is starved by a faster
one. Items that go well together are taken together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")

ALONE = (None, 1)
"""What `together` gives for an item that nothing goes with."""


def alone(item: object) -> tuple[Hashable, int]:
    """A `together` by which every item is taken alone."""
    return ALONE


class Handoff(Generic[Item]):
    """A place for one item between two threads: nothing is replaced, and the order is kept."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._closed = False

    def put(self, item: Item) -> bool:
        """Wait until the place is free and leave an item. Returns False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is None)
            if self._closed:
                return False
            self._item = item
            self._changed.notify_all()
            return True

    def take(self) -> Item | None:
        """Wait for an item and take it; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is not None)
            if self._closed:
                return None
            item, self._item = self._item, None
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Let whoever waits go, for ever."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def left(self) -> Item | None:
        """What was put and never taken, once closed."""
        with self._changed:
            item, self._item = self._item, None
            return item


class Schedule(Generic[Item]):
    """A place for one item of each camera. Every method may be called from any thread.

    together: for an item, with what it may be taken (items of equal keys) and how many at most. It
    is asked while others wait, so it has to be quick.
    """

    def __init__(
        self,
        cameras: Iterable[str],
        together: Callable[[Item], tuple[Hashable, int]] = alone,
    ) -> None:
        self._together = together
        self._changed = threading.Condition()
        # In the order in which they were served, the longest ago first.
        self._items: dict[str, Item | None] = dict.fromkeys(cameras)
        self._closed = False

    def put(self, camera: str, item: Item) -> bool:
        """Leave an item. Returns whether it replaced one that was never taken.

        Raises KeyError for a camera that was not named in the beginning.
        """
        with self._changed:
            replaced = self._items[camera] is not None
            self._items[camera] = item
            self._changed.notify()
            return replaced

    def take(self) -> list[Item] | None:
        """Wait for an item and take it with those that go with it; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._waiting()))
            if self._closed:
                return None
            served = self._next()
            taken = [item for camera in served if (item := self._items.pop(camera)) is not None]
            self._items |= dict.fromkeys(served)
            return taken

    def clear(self) -> list[str]:
        """Forget all items. Returns the cameras that had one."""
        with self._changed:
            held = list(self._waiting())
            self._items = dict.fromkeys(self._items)
            return held

    def close(self) -> None:
        """Let whoever waits in `take` go, for ever."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _waiting(self) -> dict[str, Item]:
        return {camera: item for camera, item in self._items.items() if item is not None}

    def _next(self) -> list[str]:
        waiting = self._waiting()
        first, *others = waiting
        key, most = self._together(waiting[first])
        fitting = [c for c in others if most > 1 and self._together(waiting[c])[0] == key]
        return [first, *fitting][: max(most, 1)]
