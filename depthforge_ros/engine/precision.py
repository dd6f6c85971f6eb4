# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of a network, and which of it a device has in hardware."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

AUTO = "auto"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = tuple(DTYPES)

FAST_BF16 = {"amx_bf16", "avx512_bf16", "bf16"}  # Intel, Intel and AMD, ARM
CPUINFO = Path("/proc/cpuinfo")


def fast_precisions(device: torch.device) -> tuple[str, ...]:
    """Precisions below fp32 that the device is faster in, the one to prefer first."""
    if device.type == "cpu":
        return ("bf16",) if cpu_flags() & FAST_BF16 else ()
    if device.type == "cuda":
        # fp16 has three more bits than bf16 and the same speed; range is what bf16 is for.
        return ("fp16", "bf16") if torch.cuda.get_device_capability(device)[0] >= 8 else ("fp16",)
    return ()


@functools.cache
def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """What Linux says the processor can do; empty where it does not say."""
    try:
        lines = cpuinfo.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    # x86: "flags : fpu …"; ARM: "Features : fp asimd …"
    line = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return frozenset(line.partition(":")[2].split())
