# SPDX-License-Identifier: Apache-2.0
"""Compiled engines of one network: from the cache, or built where they are not in it."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from depthforge_ros.engine.apart import BuildError, Job, build_apart
from depthforge_ros.engine.backends import BACKENDS
from depthforge_ros.engine.cache import CacheError, EngineCache, Key
from depthforge_ros.engine.cuda_graph import Program
from depthforge_ros.engine.identity import engine_key, weights_hash
from depthforge_ros.engine.journal import Journal
from depthforge_ros.engine.shape import Shape
from depthforge_ros.network.depthforge import DepthForge

Build = Callable[[Job, Callable[[str], None], Callable[[], bool]], None]
"""How an engine is built: `build_apart`, or what a test has instead."""


@dataclass(frozen=True)
class Origin:
    """Where a network came from, so that another process can load it too."""

    variant: str
    checkpoint: str
    device: torch.device


class Compiler:
    """Finds, builds and loads the engines of a loaded network."""

    def __init__(
        self,
        network: DepthForge,
        origin: Origin,
        cache: EngineCache,
        journal: Journal,
        keep_going: Callable[[], bool] = lambda: True,
        build: Build = build_apart,
    ) -> None:
        self._network = network
        self._origin = origin
        self._cache = cache
        self._journal = journal
        self._keep_going = keep_going
        self._build = build
        self._weights = ""

    def cached_shapes(self, backend: str, precision: str) -> tuple[Shape, ...]:
        """What the cache seems to have; the files are looked at once they are loaded."""
        keys = self._cache.keys()
        if not keys:
            return ()  # spares reading every weight
        shapes = {key.get("size", "") for key in keys if key.get("backend") == backend}
        found = []
        for text in shapes:
            with contextlib.suppress(ValueError):
                shape = Shape.parse(text)
                if self._key(backend, precision, shape) in keys:
                    found.append(shape)
        return tuple(sorted(found))

    def load(self, backend: str, precision: str, shape: Shape) -> Program:
        """An engine that is ready to run; one that is not in the cache is built, in minutes.

        Raises BuildError, GivenUpError, or what loading raises.
        """
        with self._obtained(backend, precision, shape) as folder:
            return BACKENDS[backend].load(folder, shape, self._origin.device)

    @contextlib.contextmanager
    def _obtained(self, backend: str, precision: str, shape: Shape) -> Iterator[Path]:
        """The folder of an engine, while it is needed."""
        key = self._key(backend, precision, shape)
        found = self._find(key)
        if found is not None:
            yield found
            return
        if reason := BACKENDS[backend].missing_to_build(self._origin.device):
            raise BuildError(reason)
        with tempfile.TemporaryDirectory(prefix="depthforge_engine_") as temporary:
            yield self._built(key, backend, precision, shape, Path(temporary))

    def _built(self, key: Key, backend: str, precision: str, shape: Shape, temporary: Path) -> Path:
        """Build into `temporary` and store that in the cache, where the cache can be used."""
        what = f"building {backend} {precision} for {shape}"
        with contextlib.ExitStack() as stack:
            locked = False
            with self._cache_at_will():
                waiting_text = f"{what}: waiting for another process that builds it"
                waiting = functools.partial(self._journal.proceed, waiting_text)
                stack.enter_context(self._cache.lock(key, self._keep_going, waiting))
                locked = True
            if locked and (found := self._find(key)) is not None:
                return found  # the other process built it
            self._journal.proceed(what)
            job = Job(
                variant=self._origin.variant,
                checkpoint=self._origin.checkpoint,
                device=str(self._origin.device),
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
                with self._cache_at_will():
                    return self._cache.store(key, temporary)
            return temporary

    def _find(self, key: Key) -> Path | None:
        with self._cache_at_will():
            return self._cache.find(key)
        return None

    @contextlib.contextmanager
    def _cache_at_will(self) -> Iterator[None]:
        """A cache is a convenience: where it fails, that is said and done without."""
        try:
            yield
        except CacheError as error:
            self._journal.note("cache", f"{error}; engines are not kept")

    def _key(self, backend: str, precision: str, shape: Shape) -> Key:
        self._weights = self._weights or weights_hash(self._network)
        versions = BACKENDS[backend].versions()
        return engine_key(
            self._network, self._weights, backend, precision, shape, self._origin.device, versions
        )
