# SPDX-License-Identifier: Apache-2.0
"""The reports of a node with several cameras: one of the whole, and one of each camera."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from diagnostic_msgs.msg import DiagnosticStatus

from depthforge_ros.ros.camera_names import UNNAMED
from depthforge_ros.ros.diagnostics import Situation, status
from depthforge_ros.ros.health import Health
from depthforge_ros.ros.parameters import Parameters


@dataclass(frozen=True)
class Source:
    """Where a camera's images come from. publishers: how many there are on the topic."""

    topic: str = ""
    publishers: int = 0


def statuses(
    node: str,
    situation: Situation,
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


def _of(situation: Situation, source: Source) -> Situation:
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
