# SPDX-License-Identifier: Apache-2.0
"""From the names of a variant and its weights to a pipeline with a checked engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from depthforge_ros.engine import INSTANT, Journal, Request, select_engine
from depthforge_ros.pipeline.pipeline import Pipeline
from depthforge_ros.pipeline.settings import PipelineSettings
from depthforge_ros.pipeline.shapes import engine_shapes
from depthforge_ros.variant import load_variant


def select_pipeline(
    variant: str,
    checkpoint: str,
    settings: PipelineSettings,
    *,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
    image_sizes: Iterable[tuple[int, int]] = (),
    cameras: int = 1,
    background: bool = False,
    journal: Journal | None = None,
    keep_going: Callable[[], bool] = lambda: True,
) -> Pipeline:
    """Return a pipeline on the engine that `select_engine` selects, the same for node and tools.

    image_sizes: height and width of the images to come, of so many cameras, which compiled engines
    are built for. background: see Request.
    Raises what `select_engine` raises, and ValueError if the variant or a size is not allowed.
    """
    compiled = checkpoint != INSTANT and backend != "eager"
    known = load_variant(variant)
    shapes = engine_shapes(image_sizes, settings, known, cameras) if compiled else ()
    request = Request(
        variant=variant,
        checkpoint=checkpoint,
        device=device,
        backend=backend,
        precision=precision,
        shapes=shapes,
        background=background,
    )
    return Pipeline(select_engine(request, journal, keep_going), settings)
