# SPDX-License-Identifier: Apache-2.0
"""Thread and memory settings of a process that infers on a CPU, set before PyTorch is imported."""

from __future__ import annotations

import contextlib
import ctypes
import os

WAIT_POLICY, SPIN_COUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"

SPINS = 1000
"""Spins of a waiting thread before it sleeps: some microseconds, as long as the gaps between the
operations of a small network, and much less than a time slice of the scheduler."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def calm_idle_threads() -> None:
    """Make idle OpenMP threads of PyTorch sleep after a short spin, unless the user set the policy.

    By default they spin for long and take cores from a camera driver or planner. Sleeping at once
    is slow too: each of the thousand operations of a small network would have to wake them. The
    setting takes effect when PyTorch is imported. OpenMP libraries other than GNU's know only the
    policy.
    """
    if WAIT_POLICY not in os.environ:
        os.environ[WAIT_POLICY] = "PASSIVE"
        os.environ.setdefault(SPIN_COUNT, str(SPINS))


def keep_freed_memory() -> None:
    """Make glibc keep freed image memory; page faults of new memory cost more than a copy."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the maximum of every glibc; above 4K rgb8
        mallopt(M_TRIM_THRESHOLD, 512 << 20)


def return_freed_memory() -> None:
    """Return what glibc keeps of freed memory to the system, after a phase that needed much."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
