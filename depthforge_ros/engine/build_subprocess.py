# SPDX-License-Identifier: Apache-2.0
"""Compilation in a subprocess: `python -m depthforge_ros.engine.build_subprocess JOB`, JOB in JSON.

A compiler is one call of minutes that no thread can interrupt, keeps gigabytes of memory, and can
crash its process. In a subprocess it can be cancelled at any time and cannot take the node down.
"""

from __future__ import annotations

import contextlib
import ctypes
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
from depthforge_ros.engine.engine import CancelledError, Shape

POLL_S = 0.1
PROGRESS_S = 5.0
NICENESS = 10
"""Builds yield the processor to inference and to the rest of the vehicle."""
PR_SET_PDEATHSIG = 1  # of sys/prctl.h


@dataclass(frozen=True)
class Job:
    """An engine to build into `folder`. variant: an argument of load_variant."""

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
    """A build failed; the message gives the reason."""


def build_in_subprocess(
    job: Job,
    on_progress: Callable[[str], None],
    keep_going: Callable[[], bool],
    module: str = "depthforge_ros.engine.build_subprocess",
) -> None:
    """Build an engine in a subprocess and wait for it. module: the module that it runs.

    on_progress: called every few seconds with the elapsed time. Raises BuildError, and
    CancelledError once keep_going returns False; the subprocess and its children have ended then.
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
            start_new_session=True,  # a process group, so that the compiler's children end too
        )
        try:
            while process.poll() is None:
                if not keep_going():
                    raise CancelledError
                now = time.monotonic()
                if now - last_progress > PROGRESS_S:
                    last_progress = now
                    on_progress(f"{now - started:.0f} s")
                time.sleep(POLL_S)
        finally:
            _kill_group(process)
        if process.returncode:
            output.seek(0)
            raise BuildError(_failure(process.returncode, output.read()))


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):  # the whole group has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(status: int, output: str) -> str:
    """Return the last line that a failed process printed, or the signal that ended it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1][:500] if lines else "(no output)"
    if status >= 0:
        return f"build failed: {last}"
    name = signal.Signals(-status).name
    hint = ", which the kernel sends if memory is short" if -status == signal.SIGKILL else ""
    return f"build was ended by {name}{hint}; its last output: {last}"


def main() -> int:
    """Run the job of the command line; return 1 and print the reason last if it fails."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # end with the parent
    os.nice(NICENESS)
    from depthforge_ros.engine.backends import backend_on
    from depthforge_ros.engine.backends.openvino import target_of
    from depthforge_ros.engine.load import load_network, pick_device
    from depthforge_ros.variant import load_variant

    job = Job(**json.loads(sys.argv[1]))
    try:
        network = load_network(load_variant(job.variant), job.checkpoint)
        target = target_of(job.device)
        network = (
            network.to(pick_device("cpu" if target else job.device)).eval().requires_grad_(False)
        )
        shape = Shape(job.height, job.width, job.batch)
        backend_on(job.backend, target).build(network, shape, job.precision, Path(job.folder))
    except Exception as error:
        print(f"\n{_description(error)}", flush=True)
        return 1
    return 0


def _description(error: BaseException) -> str:
    """Return the root cause first: compilers wrap it in texts that contain whole graphs."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = f"{type(root).__name__}: {' '.join(str(root).split())}"
    if root is not error:
        text += f" (in {type(error).__name__}: {' '.join(str(error).split())[:80]})"
    return text


if __name__ == "__main__":
    sys.exit(main())
