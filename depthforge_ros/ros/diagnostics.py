# SPDX-License-Identifier: Apache-2.0
"""What the node tells about itself: counters, latencies, and their DiagnosticStatus.

Frames are never lost silently: every frame that came in went out, or is in exactly one of the
drops, or is being worked on.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

WINDOW_S = 10.0
"""Rates and percentiles are over the last so many seconds."""

REPLACED = "replaced"
RATE_LIMIT = "rate_limit"
NO_LISTENER = "no_listener"
INACTIVE = "inactive"
INFERENCE_ERROR = "inference_error"

MEANINGLESS = ("untrained", "instant")
"""Checkpoints (engine.UNTRAINED, engine.INSTANT) whose masks no planner may take for the street."""

NO_METRES = "no metres"

_BY_DESIGN = frozenset({REPLACED, RATE_LIMIT, NO_LISTENER, INACTIVE})
"""Drops that are how the node is meant to work; any other one is worth a warning."""


@dataclass(frozen=True)
class Health:
    """The counters at one moment. Totals are since the process started.

    faults: drops since the previous snapshot that are not by design. fault_text: the last of
    them. ground: what the road said about metres of relative depth, empty where it is not asked.
    silence_s: since the last frame came in, or since the input was opened. Latencies are
    from a frame's arrival to its outputs being published, over the last 10 s; age_ms is the ROS
    time between the stamp of the last published frame and its publication.
    """

    frames_in: int
    frames_out: int
    drops: Mapping[str, int]
    faults: Mapping[str, int]
    fault_text: str
    missing_camera_info: int
    ground: str
    rate_hz: float
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    age_ms: float | None
    input_size: tuple[int, int] | None
    silence_s: float
    input_seen: bool


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
        self._missing_camera_info = 0
        self._ground = ""
        self._latencies: deque[tuple[int, float]] = deque()
        self._age_ms: float | None = None
        self._input_size: tuple[int, int] | None = None
        self._input_seen = False
        self._opened_ns = self._last_input_ns = clock_ns()

    def open_input(self) -> None:
        """The node subscribes: silence counts from now on."""
        with self._lock:
            self._opened_ns = self._last_input_ns = self._clock_ns()
            self._input_seen = False

    def frame_in(self, arrival_ns: int) -> None:
        """A frame came, at a time of the steady clock."""
        with self._lock:
            self._frames_in += 1
            self._last_input_ns = arrival_ns
            self._input_seen = True

    def frame_out(self, latency_ns: int, age_ns: int, width: int, height: int) -> None:
        """The outputs of a frame are published; width and height are the input's."""
        with self._lock:
            now_ns = self._clock_ns()
            self._frames_out += 1
            self._latencies.append((now_ns, latency_ns / 1e6))
            self._forget_old(now_ns)
            self._age_ms = age_ns / 1e6
            self._input_size = (width, height)

    def drop(self, cause: str, text: str = "") -> None:
        """A frame that came in will not go out. text says more than the cause where it can."""
        with self._lock:
            self._drops[cause] += 1
            if cause not in _BY_DESIGN:
                self._fault_text = text

    def camera_info_missing(self) -> None:
        """~/camera_info was wanted and no CameraInfo fits the frame."""
        with self._lock:
            self._missing_camera_info += 1

    def ground(self, residual: float | None, text: str = "") -> None:
        """The road gave metres with that residual; or None, and text says why it did not."""
        with self._lock:
            self._ground = (
                f"{NO_METRES}: {text}" if residual is None else f"residual {residual:.1%}"
            )

    def snapshot(self) -> Health:
        """The counters now; faults start anew."""
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
            return Health(
                frames_in=self._frames_in,
                frames_out=self._frames_out,
                drops=dict(self._drops),
                faults=faults,
                fault_text=self._fault_text,
                missing_camera_info=self._missing_camera_info,
                ground=self._ground,
                rate_hz=len(latencies) / window_s,
                latency_p50_ms=p50,
                latency_p99_ms=p99,
                age_ms=self._age_ms,
                input_size=self._input_size,
                silence_s=(now_ns - self._last_input_ns) / 1e9,
                input_seen=self._input_seen,
            )

    def _forget_old(self, now_ns: int) -> None:
        while self._latencies and now_ns - self._latencies[0][0] > WINDOW_S * 1e9:
            self._latencies.popleft()


@dataclass(frozen=True)
class Situation:
    """What the node is and runs. failure: why the last configure failed, empty where it did not."""

    state: str
    failure: str = ""
    variant: str = ""
    checkpoint: str = ""
    device: str = ""
    backend: str = ""
    precision: str = ""
    topic: str = ""


def status(
    name: str, situation: Situation, health: Health, stall_after_s: float
) -> DiagnosticStatus:
    """The DiagnosticStatus of the inference, its level and a message that names the cause."""
    level, message = _judge(situation, health, stall_after_s)
    values = {
        "state": situation.state,
        "backend": situation.backend,
        "precision": situation.precision,
        "variant": situation.variant,
        "checkpoint": situation.checkpoint,
        "input topic": situation.topic,
        "input size": "" if health.input_size is None else "{}x{}".format(*health.input_size),
        "frames in": str(health.frames_in),
        "frames out": str(health.frames_out),
        "rate Hz": f"{health.rate_hz:.1f}",
        "latency p50 ms": _milliseconds(health.latency_p50_ms),
        "latency p99 ms": _milliseconds(health.latency_p99_ms),
        "frame age ms": _milliseconds(health.age_ms),
        "camera_info: missing": str(health.missing_camera_info),
        "ground": health.ground,
    }
    values |= {f"dropped: {cause}": str(health.drops[cause]) for cause in sorted(health.drops)}
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=situation.device,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )


def _judge(situation: Situation, health: Health, stall_after_s: float) -> tuple[bytes, str]:
    if situation.failure:
        return DiagnosticStatus.ERROR, situation.failure
    if situation.state != "active":
        return DiagnosticStatus.OK, situation.state
    if health.faults:
        counts = ", ".join(f"{cause} {count}" for cause, count in sorted(health.faults.items()))
        failed = INFERENCE_ERROR in health.faults
        level = DiagnosticStatus.ERROR if failed else DiagnosticStatus.WARN
        return level, f"dropped: {counts}; last: {health.fault_text}"
    if health.silence_s > stall_after_s:
        what = "input stalled: no image" if health.input_seen else "no image yet"
        return DiagnosticStatus.WARN, f"{what} on {situation.topic} for {health.silence_s:.1f} s"
    if situation.checkpoint in MEANINGLESS:
        return DiagnosticStatus.WARN, f"checkpoint {situation.checkpoint!r}: masks mean nothing"
    if health.ground.startswith(NO_METRES):
        return DiagnosticStatus.WARN, health.ground
    return DiagnosticStatus.OK, f"{health.rate_hz:.1f} frames/s"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
