# SPDX-License-Identifier: Apache-2.0
"""What a process that infers on a CPU sets before PyTorch comes."""

from __future__ import annotations

import contextlib
import ctypes
import os

WAIT_POLICY, SPIN_COUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"

SPINS = 1000
"""Looks that a waiting thread takes before it sleeps, some microseconds: about as long as the gaps
between the operations of a small network, and nothing beside a slice of the scheduler's time."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def calm_idle_threads() -> None:
    """Let PyTorch's threads sleep soon after they have nothing to do, unless the user says how.

    By default they spin: beside a camera driver and a planner they take the very cores that the
    thread they wait for needs. Sleeping at once costs as much: a small network has a thousand
    operations, and each would have to wake them. It counts once PyTorch is imported, later. Other
    OpenMP libraries than GNU's know the policy alone.
    """
    if WAIT_POLICY not in os.environ:
        os.environ[WAIT_POLICY] = "PASSIVE"
        os.environ.setdefault(SPIN_COUNT, str(SPINS))


def keep_freed_memory() -> None:
    """Let glibc reuse the memory of images: the page faults of getting it anew outweigh a copy."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that every glibc takes; above 4K rgb8
        mallopt(M_TRIM_THRESHOLD, 512 << 20)
