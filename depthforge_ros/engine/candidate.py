# SPDX-License-Identifier: Apache-2.0
"""Candidates: the engines that a request allows, made from one loaded network."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from depthforge_ros.cpu_tuning import return_freed_memory
from depthforge_ros.engine.backends import BACKENDS, OPENVINO
from depthforge_ros.engine.backends.openvino import target_of, target_precisions
from depthforge_ros.engine.build_subprocess import BuildError, build_in_subprocess
from depthforge_ros.engine.cache import EngineCache, checkpoint_hash, weights_hash
from depthforge_ros.engine.compiler import Build, CompiledEngine, Compiler, NetworkSource
from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.engine.engine import (
    AUTO,
    EAGER,
    PRECISIONS,
    SIDE_MULTIPLE_PX,
    CropOutput,
    Journal,
    Program,
    Shape,
    fast_precisions,
)
from depthforge_ros.engine.load import UNTRAINED, checkpoint_files, load_network, pick_device
from depthforge_ros.engine.memory_fallback import is_device_lost, is_out_of_memory
from depthforge_ros.engine.self_check import Recorded, Recorder, Verdict, check, worst
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.weights import WeightsError
from depthforge_ros.resources import engines_folder
from depthforge_ros.variant import Variant, load_variant


@dataclass(frozen=True)
class Request:
    """The engine that the caller needs. Raises ValueError naming an unknown backend or precision.

    variant: an argument of load_variant. checkpoint, device: see build_engine; device also GPU,
    GPU.1 or NPU, of OpenVINO. backend: AUTO, EAGER or one
    of BACKENDS. precision: AUTO or one of PRECISIONS. shapes: to compile for; none: the shapes in
    the cache. background: whether shapes that appear later are compiled while eager runs.
    """

    variant: str
    checkpoint: str = ""
    device: str = AUTO
    backend: str = AUTO
    precision: str = AUTO
    shapes: tuple[Shape, ...] = ()
    background: bool = False
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


class Candidates:
    """Makes and checks the engines of a request. The network is loaded while it is needed.

    Raises ValueError or WeightsError if the variant, the weights or the device are wrong.
    """

    def __init__(
        self,
        request: Request,
        journal: Journal,
        keep_going: Callable[[], bool] = lambda: True,
        build: Build = build_in_subprocess,
    ) -> None:
        self.request = request
        self.variant = load_variant(request.variant)
        self.target = target_of(request.device)
        if self.target and request.backend not in (AUTO, OPENVINO):
            raise ValueError(
                f"backend is {request.backend!r}; expected {AUTO} or {OPENVINO} for the device "
                f"{request.device!r}, which only OpenVINO can use"
            )
        self.device = pick_device("cpu" if self.target else request.device)
        self._journal = journal
        self._lock = threading.RLock()
        self._network: DepthForge | None = None
        self._reference: EagerEngine | None = None
        self._weights = self._known_weights()
        source = NetworkSource(
            self.variant,
            request.variant,
            request.checkpoint,
            self.device,
            self._weights,
            self.target,
        )
        self._source = source
        self.compiler = Compiler(
            source, request.cache, journal, keep_going, build, before_build=self.release
        )

    def _known_weights(self) -> str:
        """Return the weights_hash, from the cache if these files were loaded before.

        Otherwise the network is loaded.
        """
        cache, checkpoint = self.request.cache, ""
        if self.request.checkpoint != UNTRAINED:
            files = checkpoint_files(self.variant, self.request.checkpoint)
            with contextlib.suppress(OSError):  # loading says what is wrong
                checkpoint = checkpoint_hash(self.variant, files)
                if known := cache.weights_of(checkpoint):
                    return known
        self._network = load_network(self.variant, self.request.checkpoint)
        weights = weights_hash(self._network)
        if checkpoint:
            cache.record_weights(checkpoint, weights)
        return weights

    def network(self) -> DepthForge:
        """Return the network. Raises WeightsError if its files have changed since the start."""
        with self._lock:
            if self._network is None:
                network = load_network(self.variant, self.request.checkpoint)
                if weights_hash(network) != self._weights:
                    raise WeightsError(
                        f"the weights of {self.variant.name} have changed since they were loaded; "
                        "configure again"
                    )
                self._network = network
            return self._network

    def reference(self) -> EagerEngine:
        """Return eager fp32, which the others are compared with and which replaces them."""
        with self._lock:
            if self._reference is None:
                self._reference = EagerEngine(self.network(), self.device)
            return self._reference

    def release(self) -> None:
        """Give up the network and the reference, so that only engines in use keep memory."""
        with self._lock:
            self._network = self._reference = None
        gc.collect()
        return_freed_memory()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def pairs(self, backends: Sequence[str]) -> list[tuple[str, str]]:
        """Return backend and precision of all candidates but eager fp32, the fastest first."""
        if not self.target:
            return candidate_pairs(backends, self.request.precision, self.device)
        precision = self.request.precision
        own = target_precisions(self.target) if precision == AUTO else (precision,)
        others = candidate_pairs((EAGER,), precision, self.device) if EAGER in backends else []
        return [(OPENVINO, one) for one in own] + others

    def missing(self, backend: str) -> str:
        """Return what a backend lacks to run on the device; empty if nothing."""
        return "" if backend == EAGER else self._source.backend(backend).missing(self.device)

    def can_build(self, backend: str) -> bool:
        """Return whether a compiler can build for the device; False for eager."""
        if backend == EAGER:
            return False
        return not self._source.backend(backend).missing_to_build(self.device)

    def shapes(self, backend: str, precision: str) -> tuple[Shape, ...]:
        """Return the requested shapes, or those in the cache if none is requested."""
        return self.request.shapes or self.compiler.cached_shapes(backend, precision)

    def make(
        self, backend: str, precision: str, shape: Shape | None = None
    ) -> EagerEngine | CompiledEngine:
        """Return an unchecked engine; a compiled one is built unless it is in the cache.

        shape: of a compiled engine; None: those of `shapes`. Raises BuildError, CancelledError, or
        what a compiler, a loader or a driver raises.
        """
        if backend == EAGER:
            self._journal.proceed(f"preparing {backend} {precision}")
            return EagerEngine(self.network(), self.device, precision, graphed=True)
        if reason := self.missing(backend):
            raise BuildError(reason)
        shapes = (shape,) if shape else self.shapes(backend, precision)
        if not shapes:
            raise BuildError(
                "nothing is compiled, and the size of images is not known: set image_size, or use "
                "`depthforge compile`"
            )
        programs: dict[Shape, Program] = {}
        for one in sorted(shapes):
            try:
                programs[one] = self.compiler.load(backend, precision, one)
            except Exception as error:
                if not (programs and is_out_of_memory(error)):
                    raise
                self._journal.note("memory", f"{self.device} has no memory for {backend} at {one}")
        return CompiledEngine(
            backend, precision, programs, self.variant, self.device, self.reference, self._journal
        )

    def failure(self, error: Exception) -> str:
        """Return why a candidate failed. Raise the error itself if the device is lost."""
        if is_device_lost(error, self.device):
            raise error
        kind = "" if isinstance(error, BuildError) else f"{type(error).__name__}: "
        return f"{kind}{error}"

    def check(self, engine: EagerEngine | CompiledEngine) -> Verdict:
        """Compare an engine with the reference at every shape that it was made for.

        A compiled engine is compared on all images once. When it is loaded again, it is compared on
        the first ones with what the reference answered before: no network is loaded then. Eager
        runs PyTorch's own kernels and is compared on the first ones.
        """
        backend, precision = engine.backend, engine.precision
        self._journal.proceed(f"checking {backend} {precision} on known images")
        if not isinstance(engine, CompiledEngine):
            # The reference runs batches with the same operators: one image of each size is enough.
            shapes = {Shape(shape.height, shape.width) for shape in self.request.shapes}
            shapes = shapes or {crop_shape(self.variant)}
            return check(engine, self.reference(), sorted(shapes), thorough=False)
        return worst([self._check_compiled(engine, shape) for shape in engine.shapes])

    def _check_compiled(self, engine: CompiledEngine, shape: Shape) -> Verdict:
        backend, precision = engine.backend, engine.precision
        expected = self.compiler.recorded_check(backend, precision, shape)
        if expected is not None:
            recorded = Recorded(expected, shape, self.variant, self.device)
            verdict = check(engine, recorded, [shape], thorough=False)
            if not verdict.faults:
                return verdict
        recorder = Recorder(self.reference(), shape.batch)
        verdict = check(engine, recorder, [shape])
        if not verdict.faults:
            scores = torch.cat([answer.scores for answer in recorder.answers])
            depths = [answer.depth for answer in recorder.answers if answer.depth is not None]
            self.compiler.record_check(
                backend, precision, shape, CropOutput(scores, torch.cat(depths))
            )
        return verdict


def preferred_backends(backend: str) -> tuple[str, ...]:
    """Return what AUTO means, the fastest first; a named backend stands alone."""
    return (*BACKENDS, EAGER) if backend == AUTO else (backend,)


def candidate_pairs(
    backends: Sequence[str], precision: str, device: torch.device
) -> list[tuple[str, str]]:
    """Return backend and precision of all candidates but eager fp32, the fastest first."""
    precisions = [*fast_precisions(device), "fp32"] if precision == AUTO else [precision]
    # Half precision gains more than a compiler.
    pairs = [(backend, precision) for precision in precisions for backend in backends]
    return [pair for pair in pairs if pair != (EAGER, "fp32")]


def crop_shape(variant: Variant) -> Shape:
    """Return the crop of a variant, rounded down to sides that the network accepts."""
    side = max(SIDE_MULTIPLE_PX, variant.crop // SIDE_MULTIPLE_PX * SIDE_MULTIPLE_PX)
    return Shape(side, side)
