# SPDX-License-Identifier: Apache-2.0
"""Whether an image may be served, judged by its stamp. No ROS here; docs/operations.md tells it.

A planner takes what it gets for what is there now. So an image that is too old, that claims to
come from the future, or that is older than one already served, is dropped and counted by cause.
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
"""So many images in a row, each before the newest one served and none before the one that came
before it, are a stream that has started over. Fewer are late ones, of which none may be served."""


@dataclass(frozen=True)
class Refusal:
    """Why an image is not served: cause, by which it is counted, and a sentence with the values."""

    cause: str
    text: str


class Freshness:
    """The stamps of one camera, in the order of arrival."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what was seen: the node subscribes anew."""
        self._newest_ns: int | None = None  # stamp of the newest image that was let through
        self._clock_ns = 0
        self._late = 0  # images in a row that were older than that
        self._late_ns = 0  # the stamp of the last of them

    def judge(self, stamp_ns: int, clock_ns: int, max_age_s: float) -> Refusal | None:
        """Why an image that arrives is not served, None where it is.

        clock_ns: the ROS clock now; 0: it has no time yet, and no age is known. max_age_s: 0: no
        limit. Raises nothing, whatever the numbers.
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
    """Beyond this age, seconds, an image is not served; 0: whatever its age."""
    return values.max_frame_age_s if values.drop_stale else 0.0


def judge_age(stamp_ns: int, clock_ns: int, max_age_s: float) -> Refusal | None:
    """Why an image may not be worked on at this moment, None where its age allows it.

    clock_ns and max_age_s as in `Freshness.judge`. As far ahead of the clock as it may be behind
    it, a stamp is as wrong: it would make an old image look new.
    """
    if not clock_ns or max_age_s <= 0:
        return None
    age_s = (clock_ns - stamp_ns) / 1e9
    if -max_age_s <= age_s <= max_age_s:
        return None
    if stamp_ns == 0:
        return Refusal(ZERO_STAMP, "its stamp is zero: whoever publishes it sets none")
    if age_s < 0:
        return Refusal(
            FUTURE, f"its stamp is {-age_s:.1f} s ahead of the clock; allowed {max_age_s:g} s"
        )
    return Refusal(STALE, f"it is {age_s:.1f} s old; allowed {max_age_s:g} s")
