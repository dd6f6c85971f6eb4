# SPDX-License-Identifier: Apache-2.0
"""This machine: its processor, and how fast it multiplies matrices at best, which a network can be
held against.
"""

from __future__ import annotations

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
    """The name of the CPU, or its architecture where the kernel does not tell the name."""
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """The best rate of a square product, over sides and, on a CPU, both of PyTorch's libraries."""
    best = 0.0
    side_of = [side * 4 if device.type == "cuda" else side for side in SIDES]
    for side in side_of:
        a = torch.randn(side, side, device=device).to(dtype)
        b = torch.randn(side, side, device=device).to(dtype)
        ways: list[Callable[[], object]] = [lambda a=a, b=b: F.linear(a, b)]
        if device.type == "cpu" and has_onednn():
            packed = laid_out(b)
            ways.append(lambda a=a, packed=packed: multiply(a, packed, None))
        for way in ways:
            way()
            best = max(best, *(2 * side**3 / seconds(way, device) for _ in range(REPEATS)))
    return best


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long it takes, the device's queue empty before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
