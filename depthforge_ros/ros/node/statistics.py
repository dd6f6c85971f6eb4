# SPDX-License-Identifier: Apache-2.0
"""Counts the frames of a camera by their outcome, and measures latencies and work in progress.

Each frame that came in went out, or is in exactly one of the drops, or is in work: no frame is lost
silently.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.publisher import Publisher

from depthforge_ros.condition import Condition
from depthforge_ros.ros.node.depth_scale import DepthScale

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
"""Stages of a frame in work."""

_BY_DESIGN = frozenset({REPLACED, RATE_LIMIT, NO_LISTENER, INACTIVE})
"""Drops that belong to normal operation; any other one is worth a warning."""


def _sum_by_key(counts: Collection[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def _largest(values: Collection[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _first(texts: Collection[str]) -> str:
    return next(filter(None, texts), "")


def _value(default: Any, combine: Callable[[list], Any], *, recent: bool = False) -> Any:
    """A field of Health. combine: makes one value of those of several cameras. recent: a counter
    that starts again after each snapshot.
    """
    metadata = {"combine": combine, "recent": recent}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _own(default: Any) -> Any:
    """A field of Health that each camera reports for itself: the combination has the default."""
    return _value(default, lambda _: type(default)() if isinstance(default, dict) else default)


@dataclass(frozen=True)
class Health:
    """The counters of a camera at one moment, each declared here alone. Totals are since the start.

    faults: drops since the previous snapshot that are not by design; undrawn, zero_stamps: frames
    whose pictures could not be drawn, and frames without a stamp, since then too. fault_text,
    undrawn_text: the last of them. withheld: outputs that have a listener and that the last frame
    did not give, with the reason. ground_residual: of the last frame's road, if it gave metres.
    depth_scale: of the last seconds, None if it is not measured. calibration: how the last frame's
    CameraInfo was read, calibration_warning: what may be wrong with that. condition: of the last
    published frame. silence_s: since the last frame came in, or since the input was opened.
    unserved_s: the same since the last frame without a fault. work_s: how long the frame in work
    has been, None if there is none; stage: its stage. unacknowledged: outputs whose newest message
    a listener has not acknowledged, with the seconds since. Latencies are from a frame's arrival to
    the publication of its outputs, over the last 10 s; age_ms is the ROS time between stamp and
    publication of the last frame in those 10 s, None if there is no ROS time.
    """

    frames_in: int = _value(0, sum)
    frames_out: int = _value(0, sum)
    drops: Mapping[str, int] = _value({}, _sum_by_key)
    faults: Mapping[str, int] = _value({}, _sum_by_key)
    fault_text: str = _value("", _first)
    undrawn: int = _value(0, sum, recent=True)
    undrawn_text: str = _value("", _first)
    zero_stamps: int = _value(0, sum, recent=True)
    missing_camera_info: int = _value(0, sum)
    withheld: Mapping[str, str] = _own({})
    ground_residual: float | None = _value(None, _largest)
    depth_scale: DepthScale | None = _own(None)  # noqa: RUF009 - a field
    calibration: str = _own("")
    calibration_warning: str = _own("")
    input_encoding: str = _own("")
    condition: Condition | None = _own(None)  # noqa: RUF009 - a field
    rate_hz: float = _value(0.0, sum)
    latency_p50_ms: float | None = _value(None, _largest)
    latency_p99_ms: float | None = _value(None, _largest)
    age_ms: float | None = _value(None, _largest)
    input_size: tuple[int, int] | None = _value(None, lambda sizes: next(filter(None, sizes), None))
    silence_s: float = _value(0.0, min)
    input_seen: bool = _value(False, any)
    unserved_s: float = _value(0.0, min)
    work_s: float | None = _value(None, _largest)
    stage: str = _value(INFERENCE, lambda stages: stages[0])
    unacknowledged: Mapping[str, float] = _own({})


_RECENT = {f.name for f in dataclasses.fields(Health) if f.metadata["recent"]}
_FORGOTTEN: tuple[str, ...] = ("input_seen", "condition", "withheld", "ground_residual", "age_ms")
_FORGOTTEN += ("depth_scale", "calibration", "calibration_warning", "input_encoding", "fault_text")
"""Facts of frames before the input was opened that say nothing of those after it."""


def combined(healths: Collection[Health]) -> Health:
    """Return the health of all cameras: sums of counters, and the worst of measurements.

    Silence is that of the camera that was received last, as each camera reports its own.
    """
    if len(healths) == 1:
        return next(iter(healths))
    # The camera whose frame has been in work for longest goes first, and is the one whose stage
    # is reported.
    ordered = sorted(healths, key=lambda health: -(health.work_s or 0.0))
    values = {
        f.name: f.metadata["combine"]([getattr(health, f.name) for health in ordered])
        for f in dataclasses.fields(Health)
    }
    return Health(**values)


@dataclass
class _Work:
    """One frame in work in one thread."""

    started_ns: int
    thread: int
    stage: str = INFERENCE


class Statistics:
    """Counts the frames of one camera. Every method may be called from any thread."""

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._lock = threading.Lock()
        self._clock_ns = clock_ns
        self._values = dataclasses.asdict(Health())  # what is stored as it is, by field of Health
        self._drops: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()
        self._latencies: deque[tuple[int, float]] = deque()
        self._works: list[_Work] = []
        self._opened_ns = self._last_input_ns = self._last_good_ns = clock_ns()

    def add(self, counter: str, **facts: Any) -> None:
        """Add one to a counter of Health, and set facts of Health."""
        with self._lock:
            self._values[counter] += 1
            self._values |= facts

    def note(self, **facts: Any) -> None:
        """Set facts of Health, by the names of its fields."""
        with self._lock:
            self._values |= facts

    def open_input(self) -> None:
        """Start to measure silence: the node subscribes. Forget facts of earlier frames."""
        default = Health()
        with self._lock:
            self._opened_ns = self._last_input_ns = self._last_good_ns = self._clock_ns()
            self._values |= {name: getattr(default, name) for name in _FORGOTTEN}
            self._latencies.clear()

    def frame_in(self, arrival_ns: int, stamp_ns: int) -> None:
        """Count a frame that arrived, by the steady clock, with a stamp."""
        with self._lock:
            self._values["frames_in"] += 1
            self._values["zero_stamps"] += stamp_ns == 0
            self._values["input_seen"] = True
            self._last_input_ns = arrival_ns

    @contextmanager
    def working(self) -> Iterator[None]:
        """Measure the work on a frame inside; an engine that hangs never leaves."""
        with self._lock:
            work = _Work(self._clock_ns(), threading.get_ident())
            self._works.append(work)
        try:
            yield
        finally:
            with self._lock:
                self._works = [other for other in self._works if other is not work]

    def stage(self, name: str) -> None:
        """Set the stage of this thread's frame: PUBLISHING or DRAWING."""
        with self._lock:
            for work in self._works:
                if work.thread == threading.get_ident():
                    work.stage = name

    def abandon_work(self) -> None:
        """Forget the frames in work: their workers are given up."""
        with self._lock:
            self._works = []

    def frame_out(self, latency_ns: int, age_ns: int | None, width: int, height: int) -> None:
        """Count a frame whose outputs are published; width and height are the input's.

        age_ns: None if the node has no time to compare the stamp with.
        """
        with self._lock:
            now_ns = self._last_good_ns = self._clock_ns()
            self._values["frames_out"] += 1
            self._values["age_ms"] = None if age_ns is None else age_ns / 1e6
            self._values["input_size"] = (width, height)
            self._latencies.append((now_ns, latency_ns / 1e6))
            self._forget_old(now_ns)

    def drop(self, cause: str, text: str = "") -> None:
        """Count a frame that came in and will not go out. text: details, if there are any."""
        with self._lock:
            self._drops[cause] += 1
            if cause not in _BY_DESIGN:
                self._values["fault_text"] = text
            elif cause != REPLACED:  # which may never have reached the engine
                self._last_good_ns = self._clock_ns()

    def snapshot(self) -> Health:
        """Return the counters now, and start those again that count since the last snapshot."""
        with self._lock:
            now_ns = self._clock_ns()
            self._forget_old(now_ns)
            faults = {
                cause: count - self._reported[cause]
                for cause, count in self._drops.items()
                if cause not in _BY_DESIGN and count > self._reported[cause]
            }
            self._reported = self._drops.copy()
            latencies = [latency_ms for _, latency_ms in self._latencies]
            p50, p99 = np.percentile(latencies, (50, 99)) if latencies else (None, None)
            window_s = min(WINDOW_S, max((now_ns - self._opened_ns) / 1e9, 1.0))
            work = self._works[0] if self._works else None  # the oldest
            measured = {
                "drops": dict(self._drops),
                "faults": faults,
                "rate_hz": len(latencies) / window_s,
                "latency_p50_ms": p50,
                "latency_p99_ms": p99,
                "age_ms": self._values["age_ms"] if latencies else None,
                "silence_s": (now_ns - self._last_input_ns) / 1e9,
                "unserved_s": (now_ns - self._last_good_ns) / 1e9,
                "work_s": None if work is None else (now_ns - work.started_ns) / 1e9,
                "stage": INFERENCE if work is None else work.stage,
            }
            health = Health(**self._values | measured)
            self._values |= dict.fromkeys(_RECENT, 0)
            return health

    def _forget_old(self, now_ns: int) -> None:
        while self._latencies and now_ns - self._latencies[0][0] > WINDOW_S * 1e9:
            self._latencies.popleft()


RCLError, InvalidHandle = rclpy_implementation.RCLError, rclpy_implementation.InvalidHandle


class Acknowledgements:
    """Measures for how long the newest message of a reliable publisher has not been acknowledged.

    A process that hangs, is stopped or is cut off acknowledges nothing until DDS gives it up (Fast
    DDS: 20 s). One whose callbacks are slow still does: its DDS threads take the message.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self._acknowledged_ns: dict[str, int] = {}  # when everything was last acknowledged

    def poll(self, publishers: Mapping[str, Publisher]) -> dict[str, float]:
        """Return the publishers with an unacknowledged message, and the seconds since then at most.

        A message that is on its way counts too, so only a duration above that of a delivery means
        that a listener stalls.
        """
        now_ns = self._clock_ns()
        self._acknowledged_ns = {n: t for n, t in self._acknowledged_ns.items() if n in publishers}
        waiting = {}
        for name, publisher in publishers.items():
            if _all_acknowledged(publisher):
                self._acknowledged_ns[name] = now_ns
            else:
                waiting[name] = (now_ns - self._acknowledged_ns.setdefault(name, now_ns)) / 1e9
        return waiting


def _all_acknowledged(publisher: Publisher) -> bool:
    try:
        return publisher.wait_for_all_acked(Duration())
    except (InvalidHandle, RCLError):
        # Destroyed meanwhile by another thread, or the middleware cannot say.
        return True
