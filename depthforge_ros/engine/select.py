# SPDX-License-Identifier: Apache-2.0
"""Select the engine that runs: the fastest candidate that passes the self-check."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import torch

from depthforge_ros.cpu_tuning import return_freed_memory
from depthforge_ros.engine.build_subprocess import build_in_subprocess
from depthforge_ros.engine.candidate import Candidates, Request, preferred_backends
from depthforge_ros.engine.compiler import Build, CompiledEngine
from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.engine.engine import AUTO, EAGER, CancelledError, Journal, Shape
from depthforge_ros.engine.fake import FakeEngine
from depthforge_ros.engine.load import INSTANT
from depthforge_ros.engine.memory_fallback import FallbackEngine
from depthforge_ros.variant import load_variant

MAX_BACKGROUND_SHAPES = 4
"""Builds of one process in the background: a bag with images of many sizes must not build forever.
"""
BATCHES_BEFORE_BUILD = 20
"""Of one shape, on a CPU with AUTO: a build takes the processor for up to a minute."""
CLOSE_S = 5.0


def select_engine(
    request: Request,
    journal: Journal | None = None,
    keep_going: Callable[[], bool] = lambda: True,
    build: Build = build_in_subprocess,
) -> FallbackEngine | FakeEngine:
    """Return the first candidate that runs and passes the self-check, else eager fp32.

    With request.background, a backend without engines for the requested shapes is left out, and
    takes over later: its engine for the shape of each batch that appears is built in the
    background. Raises ValueError or WeightsError if the variant, the weights or the device are
    wrong, CancelledError once keep_going returns False, RuntimeError if the device is lost.
    """
    journal = journal or Journal()
    if request.checkpoint == INSTANT:
        return FakeEngine(load_variant(request.variant))
    stopped = threading.Event()
    try:
        journal.proceed("loading the network")
        candidates = Candidates(
            request, journal, lambda: keep_going() and not stopped.is_set(), build
        )
        pairs = candidates.pairs(preferred_backends(request.backend))
        if request.backend == AUTO:  # what nobody asked for by name is not reported as missing
            pairs = [pair for pair in pairs if not candidates.missing(pair[0])]
        engine = None
        for backend, precision in pairs:
            if not keep_going():
                raise CancelledError
            if _left_for_later(candidates, backend, precision):
                continue
            engine = _checked(candidates, backend, precision, journal)
            if engine is not None:
                break
        if engine is None:
            journal.self_check = "none: eager fp32 is the reference of the others"
            selected = FallbackEngine(candidates.reference(), journal)
            return_freed_memory()
        else:
            selected = FallbackEngine(engine, journal, candidates.reference)
            candidates.release()
    finally:
        journal.proceed("")
    if request.background and (later := _at_least_as_fast(pairs, selected, candidates)):
        after = BATCHES_BEFORE_BUILD if _is_auto_on_cpu(candidates) else 1
        BackgroundBuilds(selected, candidates, later, journal, stopped, after)
    return selected


class BackgroundBuilds:
    """Builds the engine for every new shape of a batch in a thread, and lets it take over.

    pairs: backend and precision to try, the fastest first. stopped: set by close; builds end then.
    after: batches of a shape that are counted before its engine is built.
    """

    def __init__(
        self,
        selected: FallbackEngine,
        candidates: Candidates,
        pairs: Sequence[tuple[str, str]],
        journal: Journal,
        stopped: threading.Event,
        after: int = 1,
    ) -> None:
        self._after = after
        self._counts: Counter[torch.Size] = Counter()
        self._selected = selected
        self._candidates = candidates
        self._pairs = pairs
        self._journal = journal
        self._stopped = stopped
        self._seen: set[torch.Size] = set()
        self._queue: queue.Queue[Shape | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="engine_builds", daemon=True)
        selected.attach(self._request, self._close)
        self._thread.start()

    def _request(self, sizes: torch.Size) -> None:
        """Queue the build for a batch [B, 3, h, w] unless an engine takes it or it was queued."""
        if sizes in self._seen or len(self._seen) >= MAX_BACKGROUND_SHAPES:
            return
        self._counts[sizes] += 1
        if self._counts[sizes] < self._after:
            return
        self._seen.add(sizes)
        batch, _, height, width = sizes
        try:
            shape = Shape(height, width, batch)
        except ValueError:  # no engine can be built for it
            return
        running = self._selected.engine
        if not (isinstance(running, CompiledEngine) and shape in running.shapes):
            self._queue.put(shape)

    def _work(self) -> None:
        while (shape := self._queue.get()) is not None:
            try:
                self._build(shape)
            except CancelledError:
                return
            except Exception as error:  # a lost device, which the running engine reports too
                self._journal.note("build", f"no engine is built for {shape}: {error}")
                return
            finally:
                self._candidates.release()
                self._journal.proceed("")

    def _build(self, shape: Shape) -> None:
        running = self._selected.engine
        name = f"{running.backend} {running.precision}"
        self._journal.note("build", f"{name} runs until an engine for {shape} is built")
        for backend, precision in self._pairs:
            engine = _checked(self._candidates, backend, precision, self._journal, shape)
            if self._stopped.is_set():
                raise CancelledError
            if engine is None:
                continue
            assert isinstance(engine, CompiledEngine)
            if isinstance(running, CompiledEngine) and running.precision == precision:
                running.add(shape, engine.programs[shape])
            else:
                self._selected.replace(engine)
            self._journal.resolve("build")
            return
        self._journal.note("build", f"no engine for {shape} could be built: {name} runs")

    def _close(self) -> None:
        self._stopped.set()
        self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_S)


def _left_for_later(candidates: Candidates, backend: str, precision: str) -> bool:
    """Return whether a backend is not built now, because sizes are unknown or nobody waits for it.

    On a CPU, AUTO builds nothing while the caller waits: eager starts at once.
    """
    request = candidates.request
    if backend == EAGER:
        return False
    if _is_auto_on_cpu(candidates):
        cached = candidates.compiler.cached_shapes(backend, precision)
        return not cached or not set(request.shapes) <= set(cached)
    return (
        request.background
        and candidates.can_build(backend)
        and not candidates.shapes(backend, precision)
    )


def _is_auto_on_cpu(candidates: Candidates) -> bool:
    on_cpu = candidates.device.type == "cpu" and not candidates.target
    return candidates.request.backend == AUTO and on_cpu


def _at_least_as_fast(
    pairs: Sequence[tuple[str, str]], selected: FallbackEngine, candidates: Candidates
) -> list[tuple[str, str]]:
    """Return the pairs that can be built and are not slower than the selected engine."""
    running = (selected.backend, selected.precision)
    end = pairs.index(running) + 1 if running in pairs else len(pairs)
    return [pair for pair in pairs[:end] if candidates.can_build(pair[0])]


def _checked(
    candidates: Candidates,
    backend: str,
    precision: str,
    journal: Journal,
    shape: Shape | None = None,
) -> EagerEngine | CompiledEngine | None:
    """Return a candidate that passed the self-check; None, with the reason noted, if it did not.

    shape: make the engine for this shape alone.
    """
    name = f"{backend} {precision}" + (f" for {shape}" if shape else "")
    try:
        engine = candidates.make(backend, precision, shape)
        verdict = candidates.check(engine)
    except CancelledError:
        raise
    except Exception as error:  # whatever a compiler, a loader or a driver may raise
        journal.refuse(name, candidates.failure(error))
        return None
    if verdict.faults:
        journal.refuse(name, f"self-check: {verdict}")
        return None
    journal.self_check = f"{name}: {verdict}"
    return engine
