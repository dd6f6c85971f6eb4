# SPDX-License-Identifier: Apache-2.0
"""Select the engine that runs: the fastest candidate that passes the self-check."""

from __future__ import annotations

from collections.abc import Callable

from depthforge_ros.engine.backends import BACKENDS
from depthforge_ros.engine.build_subprocess import BuildError, build_in_subprocess
from depthforge_ros.engine.candidate import Candidates, Request, preferred_backends
from depthforge_ros.engine.compiler import Build
from depthforge_ros.engine.engine import AUTO, EAGER, CancelledError, Engine, Journal
from depthforge_ros.engine.fake import FakeEngine
from depthforge_ros.engine.load import INSTANT
from depthforge_ros.engine.memory_fallback import FallbackEngine, is_device_lost
from depthforge_ros.variant import load_variant


def select_engine(
    request: Request,
    journal: Journal | None = None,
    keep_going: Callable[[], bool] = lambda: True,
    build: Build = build_in_subprocess,
) -> FallbackEngine | FakeEngine:
    """Return the first candidate that runs and passes the self-check, else eager fp32.

    Raises ValueError or WeightsError if the variant, the weights or the device are wrong,
    CancelledError once keep_going returns False, RuntimeError if the device is lost.
    """
    journal = journal or Journal()
    if request.checkpoint == INSTANT:
        return FakeEngine(load_variant(request.variant))
    try:
        journal.proceed("loading the network")
        candidates = Candidates(request, journal, keep_going, build)
        for backend, precision in candidates.pairs(
            preferred_backends(request.backend, candidates.device)
        ):
            if not keep_going():
                raise CancelledError
            if request.backend == AUTO and _absent(backend, candidates):
                continue  # nobody asked for it by name
            if engine := _checked(candidates, backend, precision, journal):
                return FallbackEngine([engine, candidates.reference], journal)
        journal.self_check = "none: eager fp32 is what others are compared with"
        return FallbackEngine([candidates.reference], journal)
    finally:
        journal.proceed("")


def _absent(backend: str, candidates: Candidates) -> bool:
    return backend != EAGER and bool(BACKENDS[backend].missing(candidates.device))


def _checked(
    candidates: Candidates, backend: str, precision: str, journal: Journal
) -> Engine | None:
    """Return a candidate that passed the self-check; None, with the reason noted, if it did not."""
    name = f"{backend} {precision}"
    try:
        engine = candidates.make(backend, precision)
        verdict = candidates.check(engine)
    except CancelledError:
        raise
    except Exception as error:  # whatever a compiler, a loader or a driver may raise
        if is_device_lost(error):
            raise
        kind = "" if isinstance(error, BuildError) else f"{type(error).__name__}: "
        journal.refuse(name, f"{kind}{error}")
        return None
    if verdict.faults:
        journal.refuse(name, f"self-check: {verdict}")
        return None
    journal.self_check = f"{name}: {verdict}"
    return engine
