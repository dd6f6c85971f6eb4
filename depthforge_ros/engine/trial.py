# SPDX-License-Identifier: Apache-2.0
"""Every engine that there could be, built, checked and measured against eager fp32."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from depthforge_ros.engine.backends import BACKENDS, EAGER
from depthforge_ros.engine.build import load_network, pick_device
from depthforge_ros.engine.cache import GivenUpError
from depthforge_ros.engine.compiled import CompiledEngine
from depthforge_ros.engine.compiler import Compiler, Origin
from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.engine.guard import is_device_lost
from depthforge_ros.engine.identity import driver_major
from depthforge_ros.engine.journal import Journal
from depthforge_ros.engine.precision import AUTO
from depthforge_ros.engine.ready import Request, candidates
from depthforge_ros.engine.self_check import Verdict, check, street_images
from depthforge_ros.engine.shape import Shape
from depthforge_ros.variant import load_variant

WARM_UPS = 3

Engine = EagerEngine | CompiledEngine


@dataclass(frozen=True)
class Trial:
    """What became of one engine. ready_s: to build or read it. reason: why it is none."""

    name: str
    engine: Engine | None = None
    ready_s: float = 0.0
    verdict: Verdict | None = None
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether it may drive."""
        return self.verdict is not None and not self.verdict.faults


@dataclass(frozen=True)
class Timing:
    """Of one engine at one shape, in milliseconds a batch. faster: than eager fp32, paired."""

    median_ms: float
    p90_ms: float
    faster: float


def trials(request: Request, journal: Journal, keep_going: Callable[[], bool]) -> Iterator[Trial]:
    """One after the other, the fastest expected first, eager fp32 last.

    Raises what `ready_engine` raises for a wrong request, and GivenUpError.
    """
    device = pick_device(request.device)
    network = load_network(load_variant(request.variant), request.checkpoint)
    reference = EagerEngine(network, device)
    origin = Origin(request.variant, request.checkpoint, device)
    compiler = Compiler(network, origin, request.cache, journal, keep_going)
    backends = (*BACKENDS, EAGER) if request.backend == AUTO else (request.backend,)
    for backend, precision in candidates(backends, request.precision, device):
        name = f"{backend} {precision}"
        if backend != EAGER and (reason := BACKENDS[backend].missing_to_build(device)):
            yield Trial(name, reason=reason)
            continue
        started = time.monotonic()
        try:
            engine: Engine
            if backend == EAGER:
                engine = EagerEngine(network, device, precision)
            else:
                programs = {
                    shape: compiler.load(backend, precision, shape) for shape in request.shapes
                }
                engine = CompiledEngine(backend, precision, programs, reference, journal)
            ready_s = time.monotonic() - started
            journal.proceed(f"checking {name} on known streets")
            yield Trial(name, engine, ready_s, check(engine, reference, request.shapes))
        except GivenUpError:
            raise
        except Exception as error:  # whatever a compiler, a loader or a driver may raise
            if is_device_lost(error):
                raise
            yield Trial(name, reason=f"{type(error).__name__}: {error}")
    yield Trial("eager fp32", reference, 0.0, Verdict(1.0, 0.0, 0.0, ()))


def interleaved(engines: Mapping[str, Engine], shape: Shape, rounds: int) -> dict[str, Timing]:
    """Time engines in turns, so that what else the machine does meets all of them alike.

    engines: `eager fp32` among them.
    """
    times: dict[str, list[float]] = {name: [] for name in engines}
    for index in range(WARM_UPS + rounds):
        for name, engine in engines.items():
            images = street_images(shape).to(engine.device)
            _finish(engine.device)
            started = time.perf_counter()
            engine(images, depth=True)
            _finish(engine.device)
            if index >= WARM_UPS:
                times[name].append(1e3 * (time.perf_counter() - started))
    plain = times["eager fp32"]
    return {
        name: Timing(
            statistics.median(own),
            sorted(own)[int(0.9 * (len(own) - 1))],
            statistics.median(theirs / ours for theirs, ours in zip(plain, own, strict=True)),
        )
        for name, own in times.items()
    }


def _finish(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(request: Request, tried: Sequence[Trial], rounds: int) -> str:
    """A page in Markdown: the machine, every engine's check, and the times of those that passed."""
    engines = {trial.name: trial.engine for trial in tried if trial.passed and trial.engine}
    device = engines["eager fp32"].device
    lines = [f"# Engines of {request.variant}", "", *_machine(device), ""]
    lines += ["| engine | ready after | self-check |", "|---|---|---|"]
    for trial in tried:
        texts = trial.reason or ("passed: " if trial.passed else "failed: ") + str(trial.verdict)
        texts = " ".join(texts.split()).replace("|", "/")
        lines.append(f"| {trial.name} | {trial.ready_s:.1f} s | {texts} |")
    for shape in request.shapes:
        lines += ["", f"{shape}, {rounds} rounds in turns, milliseconds a batch:", ""]
        lines += ["| engine | median | p90 | times eager fp32 |", "|---|---|---|---|"]
        for name, timing in interleaved(engines, shape, rounds).items():
            lines.append(
                f"| {name} | {timing.median_ms:.1f} | {timing.p90_ms:.1f} | {timing.faster:.2f} |"
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
