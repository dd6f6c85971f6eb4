# SPDX-License-Identifier: Apache-2.0
"""Decides by its stamp whether an image is served. No ROS here; see docs/operations.md.

A planner uses what it receives as the present state. So an image that is too old, that has a stamp
in the future, or that is older than one already served, is dropped and counted by cause.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from depthforge_ros.ros.node.parameters import Parameters

STALE = "stale"
FUTURE = "future"
ZERO_STAMP = "zero_stamp"
BACKWARDS = "backwards"

RESTART_FRAMES = 3
"""So many images in a row, each before the newest one served and none before its predecessor, are a
stream that has started over. Fewer are late images, which are dropped."""


@dataclass(frozen=True)
class Refusal:
    """Why an image is not served: the cause to count it by, and a sentence with the values."""

    cause: str
    text: str


class Freshness:
    """Checks the stamps of one camera, in the order of arrival."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget earlier stamps: the node subscribes again."""
        self._newest_ns: int | None = None  # stamp of the newest accepted image
        self._clock_ns = 0
        self._late = 0  # images in a row that were older than that
        self._late_ns = 0  # the stamp of the last of them

    def judge(self, stamp_ns: int, clock_ns: int, max_age_s: float) -> Refusal | None:
        """Return why an arriving image is not served, None if it is.

        clock_ns: the ROS clock now; 0: it has no time yet, and ages are unknown. max_age_s: 0: no
        limit. Raises nothing for any number.
        """
        if clock_ns < self._clock_ns:
            # The clock was set back, or a replay began anew: stamps may do the same.
            self._newest_ns = None
        self._clock_ns = clock_ns
        refusal = judge_age(stamp_ns, clock_ns, max_age_s) or self._judge_order(stamp_ns)
        if refusal is None:
            self._newest_ns, self._late = stamp_ns, 0
        return refusal

    def _judge_order(self, stamp_ns: int) -> Refusal | None:
        if self._newest_ns is None or stamp_ns >= self._newest_ns:
            return None
        self._late = self._late + 1 if self._late and stamp_ns >= self._late_ns else 1
        self._late_ns = stamp_ns
        if self._late >= RESTART_FRAMES:
            return None
        behind_s = (self._newest_ns - stamp_ns) / 1e9
        return Refusal(BACKWARDS, f"its stamp is {behind_s:.3f} s before that of the one before it")


def served_age_s(values: Parameters) -> float:
    """Return the age in seconds beyond which an image is not served; 0: no limit."""
    return values.max_frame_age_s if values.drop_stale else 0.0


def judge_age(stamp_ns: int, clock_ns: int, max_age_s: float) -> Refusal | None:
    """Return why an image's age is not allowed now, None if it is.

    clock_ns and max_age_s as in `Freshness.judge`. The limit holds ahead of the clock too: a stamp
    in the future would make an old image look new.
    """
    if not clock_ns or max_age_s <= 0:
        return None
    age_s = (clock_ns - stamp_ns) / 1e9
    if -max_age_s <= age_s <= max_age_s:
        return None
    if stamp_ns == 0:
        return Refusal(ZERO_STAMP, "its stamp is zero: its publisher sets none")
    if age_s < 0:
        return Refusal(
            FUTURE, f"its stamp is {-age_s:.1f} s ahead of the clock; allowed {max_age_s:g} s"
        )
    return Refusal(STALE, f"it is {age_s:.1f} s old; allowed {max_age_s:g} s")
