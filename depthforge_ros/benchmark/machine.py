# SPDX-License-Identifier: Apache-2.0
"""The processor's name and its best rate of matrix products, the ceiling of a network."""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from depthforge_ros.network.deploy.cpu import has_onednn, laid_out, multiply

SIDES = (1024, 2048)
REPEATS = 5


def processor() -> str:
    """Return the name of the CPU, or its architecture if the kernel reports no name."""
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best rate of square products over SIDES and, on a CPU, MKL and oneDNN."""
    best = 0.0
    side_of = [side * 4 if device.type == "cuda" else side for side in SIDES]
    for side in side_of:
        a = torch.randn(side, side, device=device).to(dtype)
        b = torch.randn(side, side, device=device).to(dtype)
        ways: list[Callable[[], object]] = [functools.partial(F.linear, a, b)]
        if device.type == "cpu" and has_onednn():
            ways.append(functools.partial(multiply, a, laid_out(b), None))
        for way in ways:
            way()
            best = max(best, *(2 * side**3 / seconds(way, device) for _ in range(REPEATS)))
    return best


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the duration of `work`, with the device synchronised before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
