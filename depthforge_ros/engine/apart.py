# SPDX-License-Identifier: Apache-2.0
"""Compiling in a process apart: it can be ended at any moment, and it may crash.

A compiler is one call of minutes that no thread can interrupt, takes gigabytes that it does not
always give back, and brings down the process when it fails badly. None of that may happen to a
node on a vehicle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import depthforge_ros
from depthforge_ros.engine.cache import GivenUpError

POLL_S = 0.1
PROGRESS_S = 5.0
NICENESS = 10
"""The vehicle has better things to do."""


@dataclass(frozen=True)
class Job:
    """One engine to be built into `folder`. variant: what load_variant takes."""

    variant: str
    checkpoint: str
    device: str
    backend: str
    precision: str
    height: int
    width: int
    batch: int
    folder: str


class BuildError(RuntimeError):
    """A compiler failed; the text says how."""


def build_apart(
    job: Job,
    tell: Callable[[str], None],
    keep_going: Callable[[], bool],
    module: str = "depthforge_ros.engine.build_process",
) -> None:
    """Build in a process of its own, and wait for it. module: what the process runs.

    tell: gets a line every few seconds. Raises BuildError, and GivenUpError once the engine is no
    longer wanted; the compiler and all that it started have ended then.
    """
    root = str(Path(depthforge_ros.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        started = last_progress = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(dataclasses.asdict(job))],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # a group that can be ended whole, compilers included
        )
        try:
            while process.poll() is None:
                if not keep_going():
                    raise GivenUpError
                now = time.monotonic()
                if now - last_progress > PROGRESS_S:
                    last_progress = now
                    tell(f"{now - started:.0f} s")
                time.sleep(POLL_S)
        finally:
            _end(process)
        if process.returncode:
            output.seek(0)
            raise BuildError(_reason(process.returncode, output.read()))


def _end(process: subprocess.Popen) -> None:
    """End a process and the group that it leads, whatever of it is left."""
    with contextlib.suppress(ProcessLookupError):  # it ended by itself and left nobody
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(status: int, output: str) -> str:
    """The last thing that a failed process said, or the signal that ended it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1][:500] if lines else "it said nothing"
    if status >= 0:
        return f"build failed: {last}"
    name = signal.Signals(-status).name
    hint = ", as the kernel does when memory is short" if -status == signal.SIGKILL else ""
    return f"build was ended by {name}{hint}; its last words: {last}"
