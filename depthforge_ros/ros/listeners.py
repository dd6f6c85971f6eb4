# SPDX-License-Identifier: Apache-2.0
"""Whether those who listen to the node still take what it sends, seen from the sender's side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.publisher import Publisher

RCLError, InvalidHandle = rclpy_implementation.RCLError, rclpy_implementation.InvalidHandle


class Acknowledgements:
    """For how long the newest message of each reliable publisher has not been acknowledged by all.

    A process that hangs, is stopped or is cut off acknowledges nothing until DDS gives it up (Fast
    DDS: 20 s). One whose callbacks are slow still does: its DDS threads take the message.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self._taken_ns: dict[str, int] = {}  # when everything was last seen taken

    def poll(self, publishers: Mapping[str, Publisher]) -> dict[str, float]:
        """Names of the publishers with a message not taken, and for how many seconds at most.

        A message that is on its way counts, so one answer says little; the same one for longer
        than a message takes does.
        """
        now_ns = self._clock_ns()
        self._taken_ns = {n: t for n, t in self._taken_ns.items() if n in publishers}
        waiting = {}
        for name, publisher in publishers.items():
            if _all_taken(publisher):
                self._taken_ns[name] = now_ns
            else:
                waiting[name] = (now_ns - self._taken_ns.setdefault(name, now_ns)) / 1e9
        return waiting


def _all_taken(publisher: Publisher) -> bool:
    try:
        return publisher.wait_for_all_acked(Duration())
    except (InvalidHandle, RCLError):
        # Destroyed meanwhile by another thread, or the middleware does not tell.
        return True
