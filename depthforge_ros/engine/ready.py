# SPDX-License-Identifier: Apache-2.0
"""From what is asked for to an engine that has been checked: read `ready_engine` first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from depthforge_ros.engine.apart import BuildError, build_apart
from depthforge_ros.engine.backends import BACKENDS, EAGER
from depthforge_ros.engine.build import INSTANT, load_network, pick_device
from depthforge_ros.engine.cache import EngineCache, GivenUpError
from depthforge_ros.engine.compiled import CompiledEngine
from depthforge_ros.engine.compiler import Build, Compiler, Origin
from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.engine.guard import GuardedEngine, is_device_lost, is_out_of_memory
from depthforge_ros.engine.instant import InstantEngine
from depthforge_ros.engine.journal import Journal
from depthforge_ros.engine.precision import AUTO, PRECISIONS, fast_precisions
from depthforge_ros.engine.self_check import check
from depthforge_ros.engine.shape import SIDE_MULTIPLE_PX, Shape
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.resources import engines_folder
from depthforge_ros.variant import Variant, load_variant


@dataclass(frozen=True)
class Request:
    """What an engine is requested for. Raises ValueError naming what does not exist.

    variant: what load_variant takes. checkpoint: see build_engine. backend: AUTO, EAGER or one of
    BACKENDS. precision: AUTO or one of PRECISIONS. shapes: what to compile for; none: whatever the
    cache has.
    """

    variant: str
    checkpoint: str = ""
    device: str = AUTO
    backend: str = AUTO
    precision: str = AUTO
    shapes: tuple[Shape, ...] = ()
    cache: EngineCache = field(default_factory=lambda: EngineCache(engines_folder()))

    def __post_init__(self) -> None:
        for name, allowed in (
            ("backend", (AUTO, EAGER, *BACKENDS)),
            ("precision", (AUTO, *PRECISIONS)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}"
                )


def ready_engine(
    request: Request,
    journal: Journal | None = None,
    keep_going: Callable[[], bool] = lambda: True,
    build: Build = build_apart,
) -> GuardedEngine | InstantEngine:
    """The first candidate that can run and passes the self-check; eager fp32 always can.

    Raises ValueError or WeightsError where the variant, the weights or the device are wrong,
    GivenUpError once the engine is abandoned, RuntimeError where the device does not answer.
    """
    journal = journal or Journal()
    variant = load_variant(request.variant)
    if request.checkpoint == INSTANT:
        return InstantEngine(variant)
    try:
        journal.proceed("loading the network")
        device = pick_device(request.device)
        network = load_network(variant, request.checkpoint)
        reference = EagerEngine(network, device)
        origin = Origin(request.variant, request.checkpoint, device)
        compiler = Compiler(network, origin, request.cache, journal, keep_going, build)
        backends = preferred_backends(request.backend, device)
        for backend, precision in candidates(backends, request.precision, device):
            if not keep_going():
                raise GivenUpError
            try:
                engine = _made(request, backend, precision, reference, compiler, journal, network)
            except _PassedOverError:
                continue
            except GivenUpError:
                raise
            except Exception as error:  # whatever a compiler, a loader or a driver may raise
                if is_device_lost(error):
                    raise
                kind = "" if isinstance(error, BuildError) else f"{type(error).__name__}: "
                journal.refuse(f"{backend} {precision}", f"{kind}{error}")
                continue
            return GuardedEngine([engine, reference], journal)
        journal.self_check = "none: eager fp32 is what others are compared with"
        return GuardedEngine([reference], journal)
    finally:
        journal.proceed("")


def preferred_backends(backend: str, device: torch.device) -> tuple[str, ...]:
    """What AUTO stands for on a device, the fastest first; a backend that was named stays alone.

    On a CPU that is eager, which is tuned for it and as fast as what takes minutes to compile
    (docs/performance.md).
    """
    if backend != AUTO:
        return (backend,)
    return (*BACKENDS, EAGER) if device.type == "cuda" else (EAGER,)


def candidates(
    backends: Sequence[str], precision: str, device: torch.device
) -> list[tuple[str, str]]:
    """Backend and precision of everything to try before eager fp32, the fastest first."""
    precisions = [*fast_precisions(device), "fp32"] if precision == AUTO else [precision]
    # Half the digits gain more than a compiler does.
    pairs = [(backend, precision) for precision in precisions for backend in backends]
    return [pair for pair in pairs if pair != (EAGER, "fp32")]


class _PassedOverError(Exception):
    """A candidate that nobody named cannot run here, which is nothing to report."""


def _made(
    request: Request,
    backend: str,
    precision: str,
    reference: EagerEngine,
    compiler: Compiler,
    journal: Journal,
    network: DepthForge,
) -> EagerEngine | CompiledEngine:
    """A candidate that has passed the self-check. Raises _PassedOverError, or why there is none."""
    name = f"{backend} {precision}"
    engine: EagerEngine | CompiledEngine
    if backend == EAGER:
        journal.proceed(f"preparing {name}")
        engine = EagerEngine(network, reference.device, precision)
        # The reference runs batches by the same operators: one image of a size says as much.
        shapes = {Shape(shape.height, shape.width) for shape in request.shapes}
        checked = tuple(sorted(shapes)) or (crop_shape(reference.variant),)
    else:
        engine = _compiled(request, backend, precision, reference, compiler, journal)
        checked = engine.shapes
    journal.proceed(f"checking {name} on known streets")
    verdict = check(engine, reference, checked)
    if verdict.faults:
        raise BuildError(f"self-check: {verdict}")
    journal.self_check = f"{name}: {verdict}"
    return engine


def _compiled(
    request: Request,
    backend: str,
    precision: str,
    reference: EagerEngine,
    compiler: Compiler,
    journal: Journal,
) -> CompiledEngine:
    """Programs for every shape that is requested, or was compiled before."""
    device = reference.device
    missing = BACKENDS[backend].missing(device)
    if missing and request.backend == AUTO:
        raise _PassedOverError
    shapes = request.shapes or compiler.cached_shapes(backend, precision)
    if not missing and not shapes:
        missing = (
            "nothing is compiled, and the size of images is not known: set image_size, or use "
            "`depthforge compile`"
        )
    if missing:
        raise BuildError(missing)
    programs = {}
    for shape in sorted(shapes):
        try:
            programs[shape] = compiler.load(backend, precision, shape)
        except Exception as error:
            if not (programs and is_out_of_memory(error)):
                raise
            journal.note("memory", f"{device} has no memory for {backend} at {shape}")
    return CompiledEngine(backend, precision, programs, reference, journal)


def crop_shape(variant: Variant) -> Shape:
    """The crop of a variant, in whole multiples of what a network takes."""
    side = max(SIDE_MULTIPLE_PX, variant.crop // SIDE_MULTIPLE_PX * SIDE_MULTIPLE_PX)
    return Shape(side, side)
