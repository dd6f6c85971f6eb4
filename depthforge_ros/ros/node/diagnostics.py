# SPDX-License-Identifier: Apache-2.0
"""Builds the node's DiagnosticStatus from its counters (statistics.py) and its engine's journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from depthforge_ros.condition import Condition
from depthforge_ros.ros.messages import ABSENT
from depthforge_ros.ros.node.camera_names import UNNAMED
from depthforge_ros.ros.node.depth_scale import DepthScale
from depthforge_ros.ros.node.parameters import OUTPUTS_FOR_PEOPLE, Parameters
from depthforge_ros.ros.node.stamp_check import served_age_s
from depthforge_ros.ros.node.statistics import INFERENCE_ERROR, Health, combined

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
        """Return a journal's contents now; an empty report before there is a journal."""
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
        """Return keys and values of the status."""
        values = {"engine progress": self.progress, "self-check": self.self_check}
        values |= {f"refused: {engine}": reason for engine, reason in self.refused}
        return values | {f"engine: {subject}": text for subject, text in self.notes}

    def findings(self) -> Iterator[tuple[bytes, str]]:
        """Yield level and text of each reason why the engine is not the requested one."""
        if self.trouble:
            yield DiagnosticStatus.ERROR, self.trouble
        for engine, reason in self.refused:
            yield DiagnosticStatus.WARN, f"engine {engine} refused: {reason}"
        for _, text in self.notes:
            yield DiagnosticStatus.WARN, text


MEANINGLESS = ("untrained", "instant")
"""Checkpoints (engine.UNTRAINED, engine.INSTANT) whose masks no planner may use."""

FUTURE_S = 0.1
"""Tolerated seconds of a stamp ahead of the node's clock: clocks of computers differ, and /clock
advances in steps."""


@dataclass(frozen=True)
class Source:
    """The topic of a camera's images. publishers: how many it has. label_info_listeners: how many
    subscribe to ~/label_info while it is not published.
    """

    topic: str = ""
    publishers: int = 0
    label_info_listeners: int = 0


@dataclass(frozen=True)
class NodeStatus:
    """State of the node and its engine.

    failure: why the last configure failed, empty if it did not. source: of the images.
    """

    state: str
    failure: str = ""
    variant: str = ""
    checkpoint: str = ""
    device: str = ""
    backend: str = ""
    precision: str = ""
    source: Source = field(default_factory=Source)
    engine: EngineReport = field(default_factory=EngineReport)


def status(
    name: str, situation: NodeStatus, health: Health, limits: Parameters
) -> DiagnosticStatus:
    """Return the status of one camera or of all: the worst level, causes sorted by severity."""
    found = sorted(_findings(situation, health, limits), key=lambda f: f[0], reverse=True)
    if not found:
        active = situation.state == "active"
        text = f"{health.rate_hz:.1f} frames/s" if active else situation.state
        if situation.engine.progress:
            text = f"{text}: {situation.engine.progress}"
        found = [(DiagnosticStatus.OK, text)]
    residual, scale = health.ground_residual, health.depth_scale
    values = {
        "state": situation.state,
        "backend": situation.backend,
        "precision": situation.precision,
        "variant": situation.variant,
        "checkpoint": situation.checkpoint,
        "input topic": situation.source.topic,
        "input publishers": str(situation.source.publishers),
        "input encoding": health.input_encoding,
        "input size": "" if health.input_size is None else "{}x{}".format(*health.input_size),
        "frames in": str(health.frames_in),
        "frames out": str(health.frames_out),
        "rate Hz": f"{health.rate_hz:.1f}",
        "latency p50 ms": _milliseconds(health.latency_p50_ms),
        "latency p99 ms": _milliseconds(health.latency_p99_ms),
        "frame age ms": _milliseconds(health.age_ms),
        "calibration": health.calibration,
        "camera_info: missing": str(health.missing_camera_info),
        "label_info": ABSENT or "published",
        "ground": "" if residual is None else f"residual {residual:.1%}",
        "depth scale": "" if scale is None else _ratio(scale),
        "camera height by depth m": (
            "" if scale is None or scale.height_m is None else f"{scale.height_m:.2f}"
        ),
    }
    if health.condition is not None:
        values |= {key: f"{value:.3f}" for key, value in asdict(health.condition).items()}
        values["degradation"] = f"{health.condition.degradation:.3f}"
    values |= situation.engine.values()
    if health.silence_s <= min(limits.stall_after_s, limits.stall_error_after_s):
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
    """Yield level and text of each fault."""
    warn, error = DiagnosticStatus.WARN, DiagnosticStatus.ERROR
    if situation.failure:
        yield error, situation.failure
    yield from situation.engine.findings()
    if health.work_s is not None and health.work_s > min(
        limits.stall_after_s, limits.max_inference_s
    ):
        # In every state: a stalled worker also blocks the frames after the next activate.
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
    silent = health.silence_s > min(limits.stall_after_s, limits.stall_error_after_s)
    if silent:
        level = error if health.silence_s > limits.stall_error_after_s else warn
        yield level, _silence(situation.source, health)
    if situation.source.publishers > 1:
        topic, publishers = situation.source.topic, situation.source.publishers
        yield warn, f"{publishers} publishers on {topic}; expected one camera"
    if situation.source.label_info_listeners:
        yield (
            warn,
            f"no label_info: {ABSENT}, and {situation.source.label_info_listeners} subscribe to it",
        )
    if situation.checkpoint in MEANINGLESS:
        yield warn, f"checkpoint {situation.checkpoint!r}: masks mean nothing"
    if not silent:
        yield from _of_last_frame(situation, health, limits)
    for output, seconds in health.unacknowledged.items():
        if seconds > min(limits.stall_after_s, limits.stall_error_after_s):
            # A remote viewer that is slow must not stop a vehicle.
            lasting = seconds > limits.stall_error_after_s and output not in OUTPUTS_FOR_PEOPLE
            level = error if lasting else warn
            yield level, f"listener stalled: {output} not acknowledged for {seconds:.1f} s"
    if health.zero_stamps and not served_age_s(limits):
        yield warn, f"stamps are zero: {health.zero_stamps}"
    if health.undrawn:
        yield warn, f"not drawn: {health.undrawn}; last: {health.undrawn_text}"


def _silence(source: Source, health: Health) -> str:
    """Return the text for a missing input: duration, and the probable cause."""
    what = "input stalled: no image" if health.input_seen else "no image yet"
    text = f"{what} on {source.topic} for {health.silence_s:.1f} s"
    if not source.publishers:
        return f"{text}; it has no publisher"
    if health.input_seen:
        return text
    return (
        f"{text}; {source.publishers} publisher(s) and nothing arrives: check its QoS and the "
        "transport (shared memory, UDP buffers; depthforge doctor)"
    )


def _of_last_frame(
    situation: NodeStatus, health: Health, limits: Parameters
) -> Iterator[tuple[bytes, str]]:
    """Yield findings about the newest frame; they are outdated if images no longer arrive."""
    warn = DiagnosticStatus.WARN
    for output, reason in health.withheld.items():
        yield warn, f"no {output}: {reason}"
    if health.calibration_warning:
        yield warn, health.calibration_warning
    if health.condition is not None and situation.checkpoint not in MEANINGLESS:
        yield from _degraded(health.condition, limits)
    if health.depth_scale is not None and situation.checkpoint not in MEANINGLESS:
        yield from _misscaled(health.depth_scale, limits.depth_scale_warn)
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


def _degraded(condition: Condition, limits: Parameters) -> Iterator[tuple[bytes, str]]:
    score = condition.degradation
    for level, limit in (
        (DiagnosticStatus.ERROR, limits.degradation_error),
        (DiagnosticStatus.WARN, limits.degradation_warn),
    ):
        if 0 < limit <= score:
            yield (
                level,
                f"degraded: {score:.0%} of the pixels expected wrong (doubt "
                f"{condition.doubt:.2f}); allowed below {limit:.0%}",
            )
            return


def _misscaled(scale: DepthScale, limit: float) -> Iterator[tuple[bytes, str]]:
    ratio, height_m = scale.ratio, scale.height_m
    if ratio is not None and height_m is not None and 0 < limit < abs(ratio - 1):
        yield (
            DiagnosticStatus.WARN,
            f"depth scale is {ratio:.2f}: by depth the camera is {height_m:.2f} m above the road, "
            f"configured {height_m / ratio:.2f} m; allowed {1 - limit:.2f}..{1 + limit:.2f}",
        )


def _ratio(scale: DepthScale) -> str:
    return f"unknown: {scale.reason}" if scale.ratio is None else f"{scale.ratio:.2f}"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def statuses(
    node: str,
    situation: NodeStatus,
    healths: Mapping[str, Health],
    sources: Mapping[str, Source],
    limits: Parameters,
) -> list[DiagnosticStatus]:
    """Return `NODE: inference`, and `NODE: camera NAME` of each camera that has a name.

    healths, sources: by camera; there are no sources while the node is unconfigured.
    """
    all_sources = Source(
        ", ".join(source.topic for source in sources.values()),
        max((source.publishers for source in sources.values()), default=0),
        sum(source.label_info_listeners for source in sources.values()),
    )
    overall = replace(situation, source=all_sources)
    reports = [status(f"{node}: inference", overall, combined(healths.values()), limits)]
    for camera, health in healths.items():
        if camera != UNNAMED:
            of_camera = replace(situation, source=sources.get(camera, Source()))
            reports.append(status(f"{node}: camera {camera}", of_camera, health, limits))
    return reports
