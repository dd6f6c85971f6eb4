# SPDX-License-Identifier: Apache-2.0
"""What the node tells about itself: counters, latencies, and their DiagnosticStatus.

Frames are never lost silently: every frame that came in went out, or is in exactly one of the
drops, or is being worked on.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from depthforge_ros.condition import Condition
from depthforge_ros.ros.engine_report import EngineReport
from depthforge_ros.ros.freshness import served_age_s
from depthforge_ros.ros.label_info import ABSENT
from depthforge_ros.ros.parameters import Parameters

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

MEANINGLESS = ("untrained", "instant")
"""Checkpoints (engine.UNTRAINED, engine.INSTANT) whose masks no planner may take for the street."""

FUTURE_S = 0.1
"""Stamps may be so far ahead of the node's clock: two computers differ, and /clock comes in steps.
"""

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

    begun_ns: int
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
        """A CameraInfo was wanted and none that is calibrated fits the frame."""
        with self._lock:
            self._missing_camera_info += 1

    def explain(self, withheld: Mapping[str, str], ground_residual: float | None = None) -> None:
        """What the newest frame did not give, by output, and how well its road gave metres."""
        with self._lock:
            self._withheld = dict(withheld)
            self._ground_residual = ground_residual

    def look(self, condition: Condition) -> None:
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
                work_s=None if work is None else (now_ns - work.begun_ns) / 1e9,
                stage=INFERENCE if work is None else work.stage,
                unacknowledged=self._unacknowledged,
            )

    def _forget_old(self, now_ns: int) -> None:
        while self._latencies and now_ns - self._latencies[0][0] > WINDOW_S * 1e9:
            self._latencies.popleft()


@dataclass(frozen=True)
class Situation:
    """What the node is and runs.

    failure: why the last configure failed, empty where it did not. publishers: of images on topic.
    """

    state: str
    failure: str = ""
    variant: str = ""
    checkpoint: str = ""
    device: str = ""
    backend: str = ""
    precision: str = ""
    topic: str = ""
    publishers: int = 0
    engine: EngineReport = field(default_factory=EngineReport)


def status(name: str, situation: Situation, health: Health, limits: Parameters) -> DiagnosticStatus:
    """The DiagnosticStatus of the inference: the worst level and all causes, the worst first."""
    found = sorted(_findings(situation, health, limits), key=lambda f: f[0], reverse=True)
    if not found:
        active = situation.state == "active"
        text = f"{health.rate_hz:.1f} frames/s" if active else situation.state
        if situation.engine.progress:
            text = f"{text}: {situation.engine.progress}"
        found = [(DiagnosticStatus.OK, text)]
    residual = health.ground_residual
    values = {
        "state": situation.state,
        "backend": situation.backend,
        "precision": situation.precision,
        "variant": situation.variant,
        "checkpoint": situation.checkpoint,
        "input topic": situation.topic,
        "input publishers": str(situation.publishers),
        "input size": "" if health.input_size is None else "{}x{}".format(*health.input_size),
        "frames in": str(health.frames_in),
        "frames out": str(health.frames_out),
        "rate Hz": f"{health.rate_hz:.1f}",
        "latency p50 ms": _milliseconds(health.latency_p50_ms),
        "latency p99 ms": _milliseconds(health.latency_p99_ms),
        "frame age ms": _milliseconds(health.age_ms),
        "camera_info: missing": str(health.missing_camera_info),
        "label_info": ABSENT or "published",
        "ground": "" if residual is None else f"residual {residual:.1%}",
    }
    if health.condition is not None:
        values |= {key: f"{value:.3f}" for key, value in asdict(health.condition).items()}
        values["degradation"] = f"{health.condition.degradation:.3f}"
    values |= situation.engine.values()
    values |= {f"withheld: {output}": reason for output, reason in health.withheld.items()}
    values |= {f"dropped: {cause}": str(health.drops[cause]) for cause in sorted(health.drops)}
    return DiagnosticStatus(
        level=found[0][0],
        name=name,
        message="; ".join(text for _, text in found),
        hardware_id=situation.device,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )


def _findings(
    situation: Situation, health: Health, limits: Parameters
) -> Iterator[tuple[bytes, str]]:
    """Level and cause of everything that keeps the node from being as it should."""
    warn, error = DiagnosticStatus.WARN, DiagnosticStatus.ERROR
    if situation.failure:
        yield error, situation.failure
    yield from situation.engine.findings()
    if health.work_s is not None and health.work_s > min(
        limits.stall_after_s, limits.max_inference_s
    ):
        # In every state: it keeps the worker from whatever comes after the next activate, too.
        yield (
            error if health.work_s > limits.max_inference_s else warn,
            f"{health.stage} stalled: a frame has been worked on for {health.work_s:.1f} s "
            f"({situation.backend} on {situation.device})",
        )
    if situation.state != "active":
        return
    if health.faults:
        counts = ", ".join(f"{cause} {count}" for cause, count in sorted(health.faults.items()))
        lasting = health.unserved_s > limits.stall_error_after_s
        level = error if lasting or INFERENCE_ERROR in health.faults else warn
        served = f" and none served for {health.unserved_s:.1f} s" if lasting else ""
        yield level, f"dropped: {counts}{served}; last: {health.fault_text}"
    if health.silence_s > min(limits.stall_after_s, limits.stall_error_after_s):
        what = "input stalled: no image" if health.input_seen else "no image yet"
        level = error if health.silence_s > limits.stall_error_after_s else warn
        yield level, f"{what} on {situation.topic} for {health.silence_s:.1f} s"
    if situation.publishers > 1:
        yield warn, f"{situation.publishers} publishers on {situation.topic}; wanted one camera"
    for output, reason in health.withheld.items():
        yield warn, f"no {output}: {reason}"
    if situation.checkpoint in MEANINGLESS:
        yield warn, f"checkpoint {situation.checkpoint!r}: masks mean nothing"
    elif health.condition is not None:
        yield from _degraded(health.condition, limits)
    for output, seconds in health.unacknowledged.items():
        if seconds > min(limits.stall_after_s, limits.stall_error_after_s):
            level = error if seconds > limits.stall_error_after_s else warn
            yield level, f"listener stalled: {output} not taken for {seconds:.1f} s"
    if health.zero_stamps and not served_age_s(limits):
        yield warn, f"stamps are zero: {health.zero_stamps}"
    if health.age_ms is None and health.rate_hz > 0:
        yield warn, "frame age unknown: use_sim_time is set and /clock is silent"
    if health.age_ms is not None and health.age_ms < -1e3 * FUTURE_S:
        yield warn, f"stamp is {-health.age_ms / 1e3:.1f} s in the future"
    if health.age_ms is not None and 0 < limits.max_frame_age_s < health.age_ms / 1e3:
        yield (
            warn,
            f"frames are {health.age_ms / 1e3:.1f} s old when published; allowed "
            f"{limits.max_frame_age_s} s",
        )
    if health.undrawn:
        yield warn, f"not drawn: {health.undrawn}; last: {health.undrawn_text}"


def _degraded(condition: Condition, limits: Parameters) -> Iterator[tuple[bytes, str]]:
    score = condition.degradation
    for level, limit in (
        (DiagnosticStatus.ERROR, limits.degradation_error),
        (DiagnosticStatus.WARN, limits.degradation_warn),
    ):
        if 0 < limit <= score:
            yield (
                level,
                f"degraded {score:.2f} (image {condition.image_degradation:.2f}, "
                f"doubt {condition.doubt:.2f}); allowed below {limit}",
            )
            return


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
