# SPDX-License-Identifier: Apache-2.0
"""What the node counts: frames by what became of them, latencies, and the frames at hand.

Frames are never lost silently: every frame that came in went out, or is in exactly one of the
drops, or is being worked on.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.publisher import Publisher

from depthforge_ros.condition import Condition

WINDOW_S = 10.0
"""Rates and percentiles are over the last so many seconds."""

REPLACED = "replaced"
RATE_LIMIT = "rate_limit"
NO_LISTENER = "no_listener"
INACTIVE = "inactive"
INFERENCE_ERROR = "inference_error"

INFERENCE = "inference"
PUBLISHING = "publishing"
DRAWING = "drawing"
"""What a frame at hand is in."""

_BY_DESIGN = frozenset({REPLACED, RATE_LIMIT, NO_LISTENER, INACTIVE})
"""Drops that are how the node is meant to work; any other one is worth a warning."""


@dataclass(frozen=True)
class Health:
    """The counters at one moment. Totals are since the process started.

    faults: drops since the previous snapshot that are not by design; undrawn, zero_stamps: pictures
    that could not be drawn and frames without a stamp, since then as well.
    fault_text, undrawn_text: the last of them. withheld: outputs that somebody listens to and that
    the last frame did not give, with the reason. ground_residual: of the last frame's road, where
    it gave metres. condition: of the last frame that was published, None before the first.
    silence_s: since the last frame came in, or since the input was opened. unserved_s: likewise
    since a frame came that had nothing wrong with it. work_s: for how long the frame at hand has
    been worked on; stage: what it is in. unacknowledged: outputs whose newest message a listener
    has not taken, and for how many seconds that has been so. Latencies are from a frame's arrival
    to its outputs being published, over the last 10 s; age_ms is the ROS time between the stamp of
    the last frame that was published in those 10 s and its publication, None where there is no ROS
    time yet.
    """

    frames_in: int
    frames_out: int
    drops: Mapping[str, int]
    faults: Mapping[str, int]
    fault_text: str
    undrawn: int
    undrawn_text: str
    zero_stamps: int
    missing_camera_info: int
    withheld: Mapping[str, str]
    ground_residual: float | None
    condition: Condition | None
    rate_hz: float
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    age_ms: float | None
    input_size: tuple[int, int] | None
    silence_s: float
    input_seen: bool
    unserved_s: float
    work_s: float | None
    stage: str
    unacknowledged: Mapping[str, float]


@dataclass
class _Work:
    """What one thread does with one frame."""

    started_ns: int
    thread: int
    stage: str = INFERENCE


class Statistics:
    """Counts frames. Every method may be called from any thread."""

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._lock = threading.Lock()
        self._clock_ns = clock_ns
        self._frames_in = 0
        self._frames_out = 0
        self._drops: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()
        self._fault_text = ""
        self._undrawn = 0
        self._undrawn_text = ""
        self._zero_stamps = 0
        self._missing_camera_info = 0
        self._withheld: dict[str, str] = {}
        self._ground_residual: float | None = None
        self._condition: Condition | None = None
        self._latencies: deque[tuple[int, float]] = deque()
        self._age_ms: float | None = None
        self._input_size: tuple[int, int] | None = None
        self._input_seen = False
        self._works: list[_Work] = []
        self._unacknowledged: dict[str, float] = {}
        self._opened_ns = self._last_input_ns = self._last_good_ns = clock_ns()

    def open_input(self) -> None:
        """The node subscribes: silence counts from now on, and what was seen before is past."""
        with self._lock:
            self._opened_ns = self._last_input_ns = self._last_good_ns = self._clock_ns()
            self._input_seen = False
            self._condition = None
            self._latencies.clear()
        self.explain({})

    def frame_in(self, arrival_ns: int, stamp_ns: int) -> None:
        """A frame came, at a time of the steady clock, with a stamp."""
        with self._lock:
            self._frames_in += 1
            self._last_input_ns = arrival_ns
            self._input_seen = True
            self._zero_stamps += stamp_ns == 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """A frame is worked on inside; one that never comes out is how a hung engine shows."""
        with self._lock:
            work = _Work(self._clock_ns(), threading.get_ident())
            self._works.append(work)
        try:
            yield
        finally:
            with self._lock:
                self._works = [other for other in self._works if other is not work]

    def stage(self, name: str) -> None:
        """What this thread's frame is in from now on: PUBLISHING, or DRAWING."""
        with self._lock:
            for work in self._works:
                if work.thread == threading.get_ident():
                    work.stage = name

    def unacknowledged(self, since_s: Mapping[str, float]) -> None:
        """Outputs whose newest message a listener has not taken, and for how many seconds."""
        with self._lock:
            self._unacknowledged = dict(since_s)

    def abandon_work(self) -> None:
        """The frames at hand are given up, and their workers with them."""
        with self._lock:
            self._works = []

    def frame_out(self, latency_ns: int, age_ns: int | None, width: int, height: int) -> None:
        """The outputs of a frame are published; width and height are the input's.

        age_ns: None where the node has no time to compare the stamp with.
        """
        with self._lock:
            now_ns = self._last_good_ns = self._clock_ns()
            self._frames_out += 1
            self._latencies.append((now_ns, latency_ns / 1e6))
            self._forget_old(now_ns)
            self._age_ms = None if age_ns is None else age_ns / 1e6
            self._input_size = (width, height)

    def drop(self, cause: str, text: str = "") -> None:
        """A frame that came in will not go out. text says more than the cause where it can."""
        with self._lock:
            self._drops[cause] += 1
            if cause not in _BY_DESIGN:
                self._fault_text = text
            elif cause != REPLACED:  # which the engine may never have looked at
                self._last_good_ns = self._clock_ns()

    def undrawn(self, text: str) -> None:
        """A frame went out, and its pictures for people did not; text says why."""
        with self._lock:
            self._undrawn += 1
            self._undrawn_text = text

    def camera_info_missing(self) -> None:
        """A CameraInfo was needed and none that is calibrated fits the frame."""
        with self._lock:
            self._missing_camera_info += 1

    def explain(self, withheld: Mapping[str, str], ground_residual: float | None = None) -> None:
        """What the newest frame did not give, by output, and how well its road gave metres."""
        with self._lock:
            self._withheld = dict(withheld)
            self._ground_residual = ground_residual

    def record_condition(self, condition: Condition) -> None:
        """What the newest published frame is like."""
        with self._lock:
            self._condition = condition

    def snapshot(self) -> Health:
        """The counters now; what counts since the previous snapshot starts anew."""
        with self._lock:
            now_ns = self._clock_ns()
            self._forget_old(now_ns)
            faults = {
                cause: count - self._reported[cause]
                for cause, count in self._drops.items()
                if cause not in _BY_DESIGN and count > self._reported[cause]
            }
            self._reported = self._drops.copy()
            undrawn, self._undrawn = self._undrawn, 0
            zero_stamps, self._zero_stamps = self._zero_stamps, 0
            latencies = [latency_ms for _, latency_ms in self._latencies]
            p50, p99 = np.percentile(latencies, (50, 99)) if latencies else (None, None)
            window_s = min(WINDOW_S, max((now_ns - self._opened_ns) / 1e9, 1.0))
            work = self._works[0] if self._works else None  # the oldest
            return Health(
                frames_in=self._frames_in,
                frames_out=self._frames_out,
                drops=dict(self._drops),
                faults=faults,
                fault_text=self._fault_text,
                undrawn=undrawn,
                undrawn_text=self._undrawn_text,
                zero_stamps=zero_stamps,
                missing_camera_info=self._missing_camera_info,
                withheld=self._withheld,
                ground_residual=self._ground_residual,
                condition=self._condition,
                rate_hz=len(latencies) / window_s,
                latency_p50_ms=p50,
                latency_p99_ms=p99,
                age_ms=self._age_ms if latencies else None,
                input_size=self._input_size,
                silence_s=(now_ns - self._last_input_ns) / 1e9,
                input_seen=self._input_seen,
                unserved_s=(now_ns - self._last_good_ns) / 1e9,
                work_s=None if work is None else (now_ns - work.started_ns) / 1e9,
                stage=INFERENCE if work is None else work.stage,
                unacknowledged=self._unacknowledged,
            )

    def _forget_old(self, now_ns: int) -> None:
        while self._latencies and now_ns - self._latencies[0][0] > WINDOW_S * 1e9:
            self._latencies.popleft()


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
