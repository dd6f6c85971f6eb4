# SPDX-License-Identifier: Apache-2.0
"""Compiled engines of one network: found in the cache or built, then run as one engine."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from depthforge_ros.engine.backends import Backend, backend_on
from depthforge_ros.engine.build_subprocess import BuildError, Job, build_in_subprocess
from depthforge_ros.engine.cache import CacheError, EngineCache, Key, engine_key
from depthforge_ros.engine.engine import (
    Capturable,
    CropOutput,
    Engine,
    Journal,
    Operation,
    Program,
    Shape,
)
from depthforge_ros.engine.memory_fallback import is_device_lost, is_out_of_memory
from depthforge_ros.engine.self_check import check_hash
from depthforge_ros.variant import Variant

Build = Callable[[Job, Callable[[str], None], Callable[[], bool]], None]
"""Builds an engine: `build_in_subprocess`, or a test's replacement."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkSource:
    """A network, and the arguments with which a subprocess loads it.

    weights: of weights_hash. target: see `backend_on`.
    """

    variant: Variant
    variant_name: str
    checkpoint: str
    device: torch.device
    weights: str
    target: str = ""

    def backend(self, name: str) -> Backend:
        """Return the backend of that name for the network's device."""
        return backend_on(name, self.target)


class Compiler:
    """Finds, builds and loads the compiled engines of a network.

    before_build: called before every build, to free memory for it.
    """

    def __init__(
        self,
        source: NetworkSource,
        cache: EngineCache,
        journal: Journal,
        keep_going: Callable[[], bool] = lambda: True,
        build: Build = build_in_subprocess,
        before_build: Callable[[], None] = lambda: None,
    ) -> None:
        self._source = source
        self._cache = cache
        self._journal = journal
        self._keep_going = keep_going
        self._build = build
        self._before_build = before_build

    def cached_shapes(self, backend: str, precision: str) -> tuple[Shape, ...]:
        """Return the shapes with an entry in the cache; `load` checks their files."""
        keys = self._cache.keys()
        found = []
        for text in {key.get("size", "") for key in keys if key.get("backend") == backend}:
            with contextlib.suppress(ValueError):
                shape = Shape.parse(text)
                if self._key(backend, precision, shape) in keys:
                    found.append(shape)
        return tuple(sorted(found))

    def load(self, backend: str, precision: str, shape: Shape) -> Program:
        """Return a program that is ready to run; build it, in minutes, if the cache lacks it.

        An entry that does not load is removed and built again. Raises BuildError, CancelledError,
        or what the backend raises when it loads a new build.
        """
        key = self._key(backend, precision, shape)
        cached = self._find(key)
        if cached is not None:
            try:
                return self._source.backend(backend).load(cached, shape, self._source.device)
            except Exception as error:
                if is_out_of_memory(error) or is_device_lost(error, self._source.device):
                    raise
                _log.warning("cached engine %s does not load and is built again: %s", cached, error)
                self._cache.remove(key)
        if reason := self._source.backend(backend).missing_to_build(self._source.device):
            raise BuildError(reason)
        with tempfile.TemporaryDirectory(prefix="depthforge_engine_") as temporary:
            built = self._built(key, backend, precision, shape, Path(temporary))
            return self._source.backend(backend).load(built, shape, self._source.device)

    def recorded_check(self, backend: str, precision: str, shape: Shape) -> CropOutput | None:
        """Return the reference's recorded answer if the cached engine passed the whole self-check.

        None if it did not pass that of this release.
        """
        return self._cache.recorded_check(self._key(backend, precision, shape), check_hash())

    def record_check(
        self, backend: str, precision: str, shape: Shape, expected: CropOutput
    ) -> None:
        """Record that the engine passed. expected: the reference's answer to the first batch."""
        self._cache.record_check(self._key(backend, precision, shape), check_hash(), expected)

    def _built(self, key: Key, backend: str, precision: str, shape: Shape, temporary: Path) -> Path:
        """Build into `temporary`, copy that into the cache if possible, return the folder."""
        what = f"building {backend} {precision} for {shape}"
        with contextlib.ExitStack() as stack:
            locked = False
            with self._cache_optional():
                waiting = f"{what}: waiting for another process that builds it"
                stack.enter_context(
                    self._cache.lock(key, self._keep_going, lambda: self._journal.proceed(waiting))
                )
                locked = True
            if locked and (found := self._find(key)) is not None:
                return found  # another process built it
            self._journal.proceed(what)
            self._before_build()
            job = Job(
                variant=self._source.variant_name,
                checkpoint=self._source.checkpoint,
                device=self._source.target or str(self._source.device),
                backend=backend,
                precision=precision,
                height=shape.height,
                width=shape.width,
                batch=shape.batch,
                folder=str(temporary),
            )
            self._build(
                job, lambda text: self._journal.proceed(f"{what}: {text}"), self._keep_going
            )
            if locked:
                with self._cache_optional():
                    return self._cache.store(key, temporary)
            return temporary

    def _find(self, key: Key) -> Path | None:
        with self._cache_optional():
            return self._cache.find(key)
        return None

    @contextlib.contextmanager
    def _cache_optional(self) -> Iterator[None]:
        """Note that the cache failed, and continue without it."""
        try:
            yield
        except CacheError as error:
            self._journal.note("cache", f"{error}; engines are not kept")

    def _key(self, backend: str, precision: str, shape: Shape) -> Key:
        source, versions = self._source, self._source.backend(backend).versions()
        return engine_key(
            source.variant, source.weights, backend, precision, shape, source.device, versions
        )


class CompiledEngine:
    """Runs the program of the image size; batches are split and padded to the compiled ones.

    Images of a size without a program run on the engine that `fallback` makes, and the journal
    notes the size. Depth is always computed, because it is part of the program.
    """

    def __init__(
        self,
        backend: str,
        precision: str,
        programs: Mapping[Shape, Program],
        variant: Variant,
        device: torch.device,
        fallback: Callable[[], Engine],
        journal: Journal,
    ) -> None:
        self.variant = variant
        self.device = device
        self.backend = backend
        self.precision = precision
        self.programs = dict(programs)
        self._make_fallback = fallback
        self._fallback: Engine | None = None
        self._journal = journal

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Return the shapes that have a program."""
        return tuple(sorted(self.programs))

    def add(self, shape: Shape, program: Program) -> None:
        """Run images of another shape on a program, from the next call on."""
        self.programs = {**self.programs, shape: program}

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Return scores [B, K, h, w] and depth [B, h, w] float32 for crops [B, 3, h, w] uint8."""
        height, width = crops.shape[2:]
        fitting = [s for s in self.shapes if (s.height, s.width) == (height, width)]
        if not fitting:
            self._fallback = self._fallback or self._make_fallback()
            self._journal.note(
                f"{width}x{height}",
                f"no {self.backend} engine for images inferred at {width}x{height}: they run in "
                f"{self._fallback.backend} {self._fallback.precision}; `depthforge compile` "
                f"builds one",
            )
            return self._fallback(crops, depth=depth)
        outputs = [self._run(part, fitting) for part in crops.split(fitting[-1].batch)]
        scores = torch.cat([scores for scores, _ in outputs])
        return CropOutput(scores, torch.cat([d for _, d in outputs]) if depth else None)

    def operation(self, sizes: torch.Size, depth: bool) -> Operation | None:
        """Return the work of a call for crops of sizes [B, 3, h, w], for a capture by the caller.

        None if no program can be captured for that.
        """
        count, _, *side = sizes
        fitting = [s for s in self.shapes if [s.height, s.width] == side and s.batch >= count]
        program = self.programs[fitting[0]] if fitting else None
        if not isinstance(program, Capturable):
            return None
        kernels, batch = program.kernels, fitting[0].batch

        def run(crops: Tensor) -> tuple[Tensor, ...]:
            outputs = [output[:count].float() for output in kernels(_padded(crops, batch))]
            return tuple(outputs if depth else outputs[:1])

        return run

    def _run(self, crops: Tensor, fitting: list[Shape]) -> tuple[Tensor, Tensor]:
        count = len(crops)
        shape = next(shape for shape in fitting if shape.batch >= count)
        with torch.inference_mode():
            scores, depth = self.programs[shape](_padded(crops, shape.batch))
        return scores[:count].float(), depth[:count].float()


def _padded(crops: Tensor, batch: int) -> Tensor:
    """Return crops [B, 3, h, w] with the last one repeated: [batch, 3, h, w], contiguous."""
    if batch > len(crops):
        crops = torch.cat([crops, crops[-1:].expand(batch - len(crops), -1, -1, -1)])
    return crops.contiguous()
