# SPDX-License-Identifier: Apache-2.0
"""Reports as tables of a terminal, and as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from depthforge_ros.ros.monitor.report import Level, Report, per_second

COLORS = {Level.OK: "green", Level.WARN: "yellow", Level.ERROR: "red", Level.STALE: "red"}
NETWORK = ("state", "variant", "checkpoint", "backend", "precision", "engine progress", "ground")
LATENCY = (("latency p50 ms", "p50"), ("latency p99 ms", "p99"), ("frame age ms", "age of stamp"))


def screen(rows: Sequence[tuple[Report, Report | None, float]], stale_s: float) -> RenderableType:
    """Return one panel for every report: level and message, rates, latency, drops, network."""
    return Group(*(_panel(report, before, age_s, stale_s) for report, before, age_s in rows))


def line(report: Report, before: Report | None) -> str:
    """Return a report as one line: level, name, rates, latency, drops, message."""
    drops = ", ".join(f"{cause} {count}" for cause, count in report.drops.items()) or "none"
    return (
        f"{report.level.name} {report.name}: in {_rate(before, report, 'frames in')}, "
        f"out {_rate(before, report, 'frames out')}, p50 {_number(report, 'latency p50 ms')} ms, "
        f"p99 {_number(report, 'latency p99 ms')} ms, dropped {drops}; {report.message}"
    )


def _panel(report: Report, before: Report | None, age_s: float, stale_s: float) -> Panel:
    silent = age_s > stale_s
    level = Level.STALE if silent else report.level
    message = f"no report for {age_s:.0f} s; the last one: " if silent else ""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    rates = ", ".join(
        f"{_rate(before, report, key)} {text}"
        for key, text in (("frames in", "in"), ("frames out", "out"))
    )
    totals = f"{report.values.get('frames in', '?')} in, {report.values.get('frames out', '?')} out"
    topic, size = report.values.get("input topic", ""), report.values.get("input size", "")
    publishers = report.values.get("input publishers", "?")
    table.add_row("input", f"{topic} {size}, publishers: {publishers}")
    table.add_row("rates", f"{rates}   (total {totals})")
    latency = ", ".join(f"{text} {_number(report, key)} ms" for key, text in LATENCY)
    table.add_row("latency", latency)
    table.add_row("dropped", _drops(report, before))
    values = [f"{key}: {report.values[key]}" for key in NETWORK if report.values.get(key)]
    table.add_row("network", ", ".join(values))
    for key in sorted(k for k in report.values if k.startswith("withheld: ")):
        table.add_row(key.removeprefix("withheld: "), f"not published: {report.values[key]}")
    head = Text(f"{level.name}  ", style=f"bold {COLORS[level]}")
    head.append(message + report.message, style="default")
    return Panel(
        Group(head, table), title=report.name, title_align="left", border_style=COLORS[level]
    )


def _drops(report: Report, before: Report | None) -> Text:
    """Return all causes with their counts; those that grew since the last report in yellow."""
    text = Text()
    old = before.drops if before else report.drops
    for cause, count in sorted(report.drops.items(), key=lambda item: -item[1]):
        grown = count > old.get(cause, 0)
        text.append(f"{cause} {count}  ", style="yellow" if grown else "")
    return text or Text("none")


def _rate(before: Report | None, report: Report, key: str) -> str:
    rate = per_second(before, report, key)
    return "- Hz" if rate is None else f"{rate:.1f} Hz"


def _number(report: Report, key: str) -> str:
    return report.values.get(key) or "-"
