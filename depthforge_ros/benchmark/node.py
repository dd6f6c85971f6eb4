# SPDX-License-Identifier: Apache-2.0
"""Measures the node from the stamp of an image to the arrival of its mask in another process.

Cameras, node and listener are separate processes. With the checkpoint `instant` the network costs
nothing, which leaves the cost of node and middleware. With `--vs` two settings alternate and the
ratio of neighbouring runs is reported, because the speed of a machine drifts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from depthforge_ros.benchmark.benchmark_command import (
    COMPARABLE,
    MAX_GROWTH_MIB_PER_HOUR,
    TRANSPORTS,
)
from depthforge_ros.benchmark.machine import processor
from depthforge_ros.benchmark.topics import Result, Setting, measure
from depthforge_ros.frame import MAX_ASPECT, MIN_SIDE_PX
from depthforge_ros.image_size import parse_size
from depthforge_ros.ros.harness.node_process import interruptible
from depthforge_ros.ros.images import MAX_PIXELS
from depthforge_ros.ros.node.parameters import Parameters

NUMBERS: dict[str, Callable[[str], Any]] = {"cameras": int, "rate": float}
"""Types of the arguments of --vs that are not text."""
SETTABLE: dict[type, Callable[[str], Any]] = {
    bool: lambda text: {"true": True, "false": False}[text],
    int: int,
    float: float,
    str: str,
}
"""Parsers of --set by the type of the parameter."""
MAX_CAMERAS = 16


def run(args: argparse.Namespace) -> int:
    """Measure and print. Return 0, or 1 if the node did not answer or failed the soak."""
    settings = [setting_of(args)]
    if args.vs:
        settings.append(setting_of(changed(args, args.vs)))
        if args.pairs < 1:
            raise ValueError(f"--pairs is {args.pairs}; expected at least 1")
    if args.json and not args.json.absolute().parent.is_dir():
        raise ValueError(f"--json is {args.json}, whose folder does not exist")
    runs: list[list[Result]] = [[] for _ in settings]
    with interruptible():
        try:
            for _ in range(args.pairs if args.vs else 1):
                for setting, results in zip(settings, runs, strict=True):
                    with tempfile.TemporaryDirectory(prefix="depthforge-benchmark-") as folder:
                        results.append(measure(setting, Path(folder)))
                    print(text(setting, results[-1]), end="\n\n" if args.vs else "\n", flush=True)
        except RuntimeError as error:
            print(f"depthforge benchmark: {error}", file=sys.stderr)
            return 1
    if args.vs:
        print(compared(args.vs, *runs))
    if args.json:
        figures = [
            result.as_mapping(setting)
            for setting, results in zip(settings, runs, strict=True)
            for result in results
        ]
        content = figures if args.vs else figures[0]
        args.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return 1 if args.what == "soak" and failed(runs[0][0]) else 0


def failed(result: Result) -> bool:
    """Return whether a soak failed: a wrong stamp or growing memory."""
    slope = result.slope_mib_per_hour()
    return result.wrong_stamps > 0 or (slope is not None and slope > MAX_GROWTH_MIB_PER_HOUR)


def changed(args: argparse.Namespace, changes: str) -> argparse.Namespace:
    """Return the arguments with `NAME=VALUE,...` applied. Raises ValueError naming the fault."""
    other = argparse.Namespace(**vars(args))
    for change in changes.split(","):
        name, _, value = change.partition("=")
        if name not in COMPARABLE:
            parameter(change, "--vs", f" of {', '.join(COMPARABLE)} or a parameter")
            other.set = ",".join(filter(None, (other.set, change)))
            continue
        try:
            setattr(other, name, NUMBERS.get(name, str)(value))
        except ValueError:
            raise ValueError(f"--vs has {change!r}, which is no number") from None
    return other


def parameter(text: str, option: str = "--set", of: str = " of a parameter") -> tuple[str, Any]:
    """Return name and value of `NAME=VALUE`.

    Raises ValueError if the node has no such parameter, if the type is wrong, or if an argument of
    its own sets it. The node checks the range.
    """
    name, _, value = text.partition("=")
    if name in COMPARABLE:
        raise ValueError(f"{option} has {text!r}; give --{name}, which is shown with the figures")
    kind = typing.get_type_hints(Parameters).get(name)
    if kind not in SETTABLE:
        raise ValueError(f"{option} has {text!r}; expected NAME=VALUE{of}")
    try:
        return name, SETTABLE[kind](value)
    except (KeyError, ValueError):
        raise ValueError(f"{option} has {text!r}; {name} is a {kind.__name__}") from None


def setting_of(args: argparse.Namespace) -> Setting:
    """Return the setting that the arguments describe. Raises ValueError naming the fault."""
    width, height = size_of(args.size)
    for name in ("rate", "seconds", "memory_every"):
        value = getattr(args, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected a number above 0")
    if args.rate * args.seconds < 1:
        raise ValueError(f"{args.seconds:g} s at {args.rate:g} Hz is not even one image")
    if not 1 <= args.cameras <= MAX_CAMERAS:
        raise ValueError(f"--cameras is {args.cameras}; expected 1..{MAX_CAMERAS}")
    if args.transport not in TRANSPORTS:
        raise ValueError(f"transport is {args.transport!r}; expected {' or '.join(TRANSPORTS)}")
    return Setting(
        cameras=args.cameras,
        width=width,
        height=height,
        rate_hz=args.rate,
        seconds=args.seconds,
        variant=args.variant,
        checkpoint=args.checkpoint,
        device=args.device,
        profile=args.transport == "profile",
        memory_every_s=args.memory_every,
        domain_id=args.domain_id,
        parameters=dict(map(parameter, filter(None, args.set.split(",")))),
    )


def size_of(text: str) -> tuple[int, int]:
    """Return width and height of `WxH`. Raise ValueError for what the node would not take."""
    width, height = parse_size(text, "--size")
    short, long = sorted((width, height))
    if short < MIN_SIDE_PX or long > MAX_ASPECT * short or width * height > MAX_PIXELS:
        raise ValueError(
            f"--size is {text!r}; the node takes sides of at least {MIN_SIDE_PX}, an aspect ratio "
            f"of at most {MAX_ASPECT}:1 and {MAX_PIXELS} pixels"
        )
    return width, height


def text(setting: Setting, result: Result) -> str:
    """Return the figures as lines of text."""
    drops = ", ".join(f"{count} {cause}" for cause, count in sorted(result.drops.items())) or "none"
    p50, p90, p99, worst = (f"{value:.1f} ms" for value in result.latency_ms)
    slope = result.slope_mib_per_hour()
    growth = "" if slope is None else f", slope {slope:+.1f} MiB/h over the second half"
    each = "/".join(str(count) for count in result.received_each)
    cameras = f"{setting.cameras} cameras of " if setting.cameras > 1 else ""
    lines = [
        f"{cameras}{setting.width}x{setting.height} rgb8 at {setting.rate_hz:g} Hz for "
        f"{setting.seconds:g} s, variant {setting.variant}, "
        f"checkpoint {setting.checkpoint or 'shipped'}, "
        f"transport {'profile' if setting.profile else 'default'}, masks only, "
        + "".join(f"{name} {value}, " for name, value in setting.parameters.items())
        + processor(),
        f"images sent {result.sent} in {result.sent_s:.1f} s, at most "
        f"{result.camera_late_ms:.1f} ms late; reached the node {result.frames_in} "
        f"({result.frames_in / result.sent:.1%}), masks received {result.received} "
        f"({result.received / result.sent:.1%}{f', {each}' if cameras else ''}), of which "
        f"{result.wrong_stamps} have a wrong stamp, dropped in the node: {drops}",
        f"{result.rate_hz:.2f} masks/s; stamp to mask: p50 {p50}, p90 {p90}, p99 {p99}, worst "
        f"{worst}, jitter {result.jitter_ms:.1f} ms",
        f"node: {result.cpu_s / result.sent_s:.0%} of one core, "
        f"{1000 * result.cpu_s / result.received:.1f} ms for every mask; memory "
        f"{result.memory[0][1]:.1f} MiB at the start, {result.memory[-1][1]:.1f} MiB at the end"
        f"{growth}",
    ]
    return "\n".join(lines)


def compared(changes: str, first: list[Result], second: list[Result]) -> str:
    """Return ratios of the first setting to the second, pair by pair."""

    def ratio(figure: Callable[[Result], float]) -> str:
        ratios = [figure(a) / figure(b) for a, b in zip(first, second, strict=True)]
        return f"{np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"

    return (
        f"over {changes}, median of {len(first)} pairs: "
        f"masks/s {ratio(lambda result: result.rate_hz)}, "
        f"p50 {ratio(lambda result: result.latency_ms[0])}, "
        f"CPU a mask {ratio(lambda result: result.cpu_s / result.received)}"
    )
