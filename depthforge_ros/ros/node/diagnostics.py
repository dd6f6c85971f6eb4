# SPDX-License-Identifier: Apache-2.0
"""What the node tells about itself: its counters (health.py) as a DiagnosticStatus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from depthforge_ros.condition import Condition
from depthforge_ros.ros.messages import ABSENT
from depthforge_ros.ros.node.camera_names import UNNAMED
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.ros.node.stamp_check import served_age_s
from depthforge_ros.ros.node.statistics import INFERENCE_ERROR, Health

if TYPE_CHECKING:
    from depthforge_ros.engine import Journal


@dataclass(frozen=True)
class EngineReport:
    """A Journal at one moment, see there."""

    progress: str = ""
    self_check: str = ""
    refused: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    trouble: str = ""

    @classmethod
    def of(cls, journal: Journal | None) -> EngineReport:
        """What a journal says now; nothing where there is none yet."""
        if journal is None:
            return cls()
        return cls(
            journal.progress,
            journal.self_check,
            journal.refused,
            tuple(journal.notes.items()),
            journal.trouble,
        )

    def values(self) -> dict[str, str]:
        """Keys and values of the status."""
        values = {"engine progress": self.progress, "self-check": self.self_check}
        values |= {f"refused: {engine}": reason for engine, reason in self.refused}
        return values | {f"engine: {subject}": text for subject, text in self.notes}

    def findings(self) -> Iterator[tuple[bytes, str]]:
        """Level and text of what keeps the engine from being the one that was asked for."""
        if self.trouble:
            yield DiagnosticStatus.ERROR, self.trouble
        for engine, reason in self.refused:
            yield DiagnosticStatus.WARN, f"engine {engine} refused: {reason}"
        for _, text in self.notes:
            yield DiagnosticStatus.WARN, text


MEANINGLESS = ("untrained", "instant")
"""Checkpoints (engine.UNTRAINED, engine.INSTANT) whose masks no planner may take for the street."""

FUTURE_S = 0.1
"""Stamps may be so far ahead of the node's clock: two computers differ, and /clock comes in steps.
"""


@dataclass(frozen=True)
class NodeStatus:
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


def status(
    name: str, situation: NodeStatus, health: Health, limits: Parameters
) -> DiagnosticStatus:
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
    situation: NodeStatus, health: Health, limits: Parameters
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
        yield warn, f"{situation.publishers} publishers on {situation.topic}; expected one camera"
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


@dataclass(frozen=True)
class Source:
    """Where a camera's images come from. publishers: how many there are on the topic."""

    topic: str = ""
    publishers: int = 0


def statuses(
    node: str,
    situation: NodeStatus,
    healths: Mapping[str, Health],
    sources: Mapping[str, Source],
    limits: Parameters,
) -> list[DiagnosticStatus]:
    """`NODE: inference` first; where the cameras have names, `NODE: camera NAME` of each after it.

    healths, sources: by camera; no sources where the node is unconfigured.
    """
    all_sources = Source(
        ", ".join(source.topic for source in sources.values()),
        max((source.publishers for source in sources.values()), default=0),
    )
    whole = _of(situation, all_sources)
    reports = [status(f"{node}: inference", whole, combined(healths.values()), limits)]
    for camera, health in healths.items():
        if camera != UNNAMED:
            own = _of(situation, sources.get(camera, Source()))
            reports.append(status(f"{node}: camera {camera}", own, health, limits))
    return reports


def _of(situation: NodeStatus, source: Source) -> NodeStatus:
    return replace(situation, topic=source.topic, publishers=source.publishers)


def combined(healths: Collection[Health]) -> Health:
    """The health of all cameras together: sums of what is counted, and the worst of what is not.

    Silence is that of the camera that was heard last: the others have reports of their own, and so
    have outputs that are withheld or not taken, and the condition of their frames.
    """
    if len(healths) == 1:
        return next(iter(healths))
    busiest = max(healths, key=lambda health: health.work_s or 0.0)
    most = max(healths, key=lambda health: health.frames_out)
    return Health(
        frames_in=sum(health.frames_in for health in healths),
        frames_out=sum(health.frames_out for health in healths),
        drops=_sum(health.drops for health in healths),
        faults=_sum(health.faults for health in healths),
        fault_text=next((h.fault_text for h in healths if h.faults), most.fault_text),
        undrawn=sum(health.undrawn for health in healths),
        undrawn_text=next((h.undrawn_text for h in healths if h.undrawn), most.undrawn_text),
        zero_stamps=sum(health.zero_stamps for health in healths),
        missing_camera_info=sum(health.missing_camera_info for health in healths),
        withheld={},
        condition=None,
        ground_residual=_worst(health.ground_residual for health in healths),
        rate_hz=sum(health.rate_hz for health in healths),
        latency_p50_ms=_worst(health.latency_p50_ms for health in healths),
        latency_p99_ms=_worst(health.latency_p99_ms for health in healths),
        age_ms=_worst(health.age_ms for health in healths),
        input_size=most.input_size,
        silence_s=min(health.silence_s for health in healths),
        input_seen=any(health.input_seen for health in healths),
        unserved_s=min(health.unserved_s for health in healths),
        work_s=busiest.work_s,
        stage=busiest.stage,
        unacknowledged={},
    )


def _sum(counts: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def _worst(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
