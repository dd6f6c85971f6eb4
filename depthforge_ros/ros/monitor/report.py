# SPDX-License-Identifier: Apache-2.0
"""The node's entries in /diagnostics, parsed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

NODE_NAME = "depthforge"


class Level(IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus, which has them as single bytes."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Report:
    """One DiagnosticStatus of a node depthforge: of the inference, or of one camera.

    name: `front/depthforge: inference`. stamp_s: of the message, in ROS time.
    """

    name: str
    level: Level
    message: str
    values: dict[str, str]
    stamp_s: float

    @property
    def drops(self) -> dict[str, int]:
        """Dropped frames by cause."""
        prefix = "dropped: "
        return {
            key.removeprefix(prefix): int(value)
            for key, value in self.values.items()
            if key.startswith(prefix) and value.isdecimal()
        }

    def number(self, key: str) -> float | None:
        """Return the value of a key as a number, None if it is absent, empty or no number."""
        try:
            return float(self.values.get(key, ""))
        except ValueError:
            return None


def reports_of(message: DiagnosticArray, node: str = "") -> list[Report]:
    """Return the reports of nodes depthforge; with `node`, a fully qualified name, only its own."""
    stamp_s = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
    return [
        Report(
            status.name,
            _level(status),
            status.message,
            {entry.key: entry.value for entry in status.values},
            stamp_s,
        )
        for status in message.status
        if _is_of(status.name, node)
    ]


def per_second(old: Report | None, new: Report, key: str) -> float | None:
    """Return the increase of a counter per second between two reports of one name.

    None if there is no older report, or if the counter or the clock went back (a restarted node).
    """
    if old is None:
        return None
    first, last = old.number(key), new.number(key)
    elapsed_s = new.stamp_s - old.stamp_s
    if first is None or last is None or last < first or elapsed_s <= 0:
        return None
    return (last - first) / elapsed_s


def _is_of(name: str, node: str) -> bool:
    path, separator, _ = name.partition(": ")
    if not separator:
        return False
    return f"/{path.lstrip('/')}" == node if node else path.split("/")[-1] == NODE_NAME


def _level(status: DiagnosticStatus) -> Level:
    # rclpy has a byte as bytes of length one.
    return Level(int.from_bytes(status.level, "little"))
