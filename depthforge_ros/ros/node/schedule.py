# SPDX-License-Identifier: Apache-2.0
"""Chooses the next frames for an engine that several cameras share. No ROS here.

Each camera has a slot for one item, and a newer one replaces it: a queue would delay frames. The
camera served longest ago is next, so a fast one starves no other. Items that one call of the engine
can take are taken together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")

ALONE = (None, 1)
"""Result of `together` for an item that is taken alone."""


def alone(item: object) -> tuple[Hashable, int]:
    """Return ALONE: a `together` that batches nothing."""
    return ALONE


class Handoff(Generic[Item]):
    """A slot for one item between two threads: nothing is replaced, the order is kept."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._closed = False

    def put(self, item: Item) -> bool:
        """Wait until the slot is free and fill it. Returns False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is None)
            if self._closed:
                return False
            self._item = item
            self._changed.notify_all()
            return True

    def take(self) -> Item | None:
        """Wait for an item and return it; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is not None)
            if self._closed:
                return None
            item, self._item = self._item, None
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Wake all waiters permanently."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def left(self) -> Item | None:
        """Return the item that was put and never taken, once closed."""
        with self._changed:
            item, self._item = self._item, None
            return item


class Schedule(Generic[Item]):
    """A slot for one item of each camera. Every method may be called from any thread.

    together: returns for an item its batching key and the largest batch; items of equal keys are
    taken together. It is called under the lock, so it has to be quick.
    """

    def __init__(
        self,
        cameras: Iterable[str],
        together: Callable[[Item], tuple[Hashable, int]] = alone,
    ) -> None:
        self._together = together
        self._changed = threading.Condition()
        # In the order of service, the longest ago first.
        self._items: dict[str, Item | None] = dict.fromkeys(cameras)
        self._closed = False

    def put(self, camera: str, item: Item) -> bool:
        """Fill a camera's slot. Returns whether that replaced an item that was never taken.

        Raises KeyError for an unknown camera.
        """
        with self._changed:
            replaced = self._items[camera] is not None
            self._items[camera] = item
            self._changed.notify()
            return replaced

    def take(self) -> list[Item] | None:
        """Wait for an item and return it with those of its batch; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._waiting()))
            if self._closed:
                return None
            served = self._next()
            taken = [item for camera in served if (item := self._items.pop(camera)) is not None]
            self._items |= dict.fromkeys(served)
            return taken

    def clear(self) -> list[str]:
        """Empty all slots. Returns the cameras that had an item."""
        with self._changed:
            held = list(self._waiting())
            self._items = dict.fromkeys(self._items)
            return held

    def close(self) -> None:
        """Wake all waiters permanently."""
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
