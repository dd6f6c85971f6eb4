# SPDX-License-Identifier: Apache-2.0
"""Build, check and time every candidate against eager fp32."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from depthforge_ros.engine.backends import BACKENDS
from depthforge_ros.engine.cache import driver_major
from depthforge_ros.engine.candidate import Candidates, Request
from depthforge_ros.engine.engine import AUTO, EAGER, CancelledError, Engine, Journal, Shape
from depthforge_ros.engine.self_check import Verdict, check_images

WARM_UPS = 3
REFERENCE = "eager fp32"


@dataclass(frozen=True)
class Trial:
    """The result for one candidate. ready_s: time to build or load it. reason: why it failed."""

    name: str
    engine: Engine | None = None
    ready_s: float = 0.0
    verdict: Verdict | None = None
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Return whether it runs and passed the self-check."""
        return self.verdict is not None and not self.verdict.faults


@dataclass(frozen=True)
class Timing:
    """Milliseconds a batch at one shape. speedup: median of the ratios to eager fp32 by round."""

    median_ms: float
    p90_ms: float
    speedup: float


def trials(request: Request, journal: Journal, keep_going: Callable[[], bool]) -> Iterator[Trial]:
    """Yield the result of every candidate, the fastest first, eager fp32 last.

    Raises CancelledError, and what `select_engine` raises for a wrong request.
    """
    candidates = Candidates(request, journal, keep_going)
    backends = (*BACKENDS, EAGER) if request.backend == AUTO else (request.backend,)
    for backend, precision in candidates.pairs(backends):
        name = f"{backend} {precision}"
        started = time.monotonic()
        try:
            engine = candidates.make(backend, precision)
            ready_s = time.monotonic() - started
            yield Trial(name, engine, ready_s, candidates.check(engine))
        except CancelledError:
            raise
        except Exception as error:  # whatever a compiler, a loader or a driver may raise
            yield Trial(name, reason=candidates.failure(error))
    yield Trial(REFERENCE, candidates.reference(), 0.0, Verdict())


def interleaved(engines: Mapping[str, Engine], shape: Shape, rounds: int) -> dict[str, Timing]:
    """Time engines in turns, so that other load on the machine affects all of them alike.

    engines: by name; includes REFERENCE.
    """
    times: dict[str, list[float]] = {name: [] for name in engines}
    for index in range(WARM_UPS + rounds):
        for name, engine in engines.items():
            images = check_images(shape).to(engine.device)
            _synchronize(engine.device)
            started = time.perf_counter()
            engine(images, depth=True)
            _synchronize(engine.device)
            if index >= WARM_UPS:
                times[name].append(1e3 * (time.perf_counter() - started))
    reference = times[REFERENCE]
    return {
        name: Timing(
            statistics.median(measured),
            sorted(measured)[int(0.9 * (len(measured) - 1))],
            statistics.median(r / m for r, m in zip(reference, measured, strict=True)),
        )
        for name, measured in times.items()
    }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(request: Request, tried: Sequence[Trial], rounds: int) -> str:
    """Return a page in Markdown: machine, self-checks, and times of the engines that passed."""
    engines = {trial.name: trial.engine for trial in tried if trial.passed and trial.engine}
    device = engines[REFERENCE].device
    lines = [f"# Engines of {request.variant}", "", *_machine(device), ""]
    lines += ["| engine | ready after | self-check |", "|---|---|---|"]
    for trial in tried:
        result = trial.reason or ("passed: " if trial.passed else "failed: ") + str(trial.verdict)
        result = " ".join(result.split()).replace("|", "/")
        lines.append(f"| {trial.name} | {trial.ready_s:.1f} s | {result} |")
    for shape in request.shapes:
        lines += ["", f"{shape}, {rounds} rounds in turns, milliseconds a batch:", ""]
        lines += ["| engine | median | p90 | times eager fp32 |", "|---|---|---|---|"]
        for name, timing in interleaved(engines, shape, rounds).items():
            lines.append(
                f"| {name} | {timing.median_ms:.1f} | {timing.p90_ms:.1f} | {timing.speedup:.2f} |"
            )
    return "\n".join(lines) + "\n"


def _machine(device: torch.device) -> list[str]:
    found = [f"PyTorch {torch.__version__}, Python {platform.python_version()}."]
    for name, backend in BACKENDS.items():
        versions = ", ".join(f"{k} {v}" for k, v in backend.versions().items())
        if versions:
            found.append(f"{name}: {versions}.")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found.append(
            f"{properties.name}, capability {properties.major}.{properties.minor}, "
            f"{properties.total_memory / 2**30:.1f} GiB; CUDA {torch.version.cuda}, driver "
            f"{driver_major()}; at most {torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB "
            "allocated by PyTorch so far."
        )
    else:
        found.append(
            f"CPU {platform.machine()} ({torch.backends.cpu.get_cpu_capability()}), "
            f"{torch.get_num_threads()} threads."
        )
    return found
