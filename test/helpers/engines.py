# SPDX-License-Identifier: Apache-2.0
"""An engine that answers when the test lets it, so that a test can look at the node meanwhile."""

from __future__ import annotations

import threading

from torch import Tensor
from waits import WAIT_S

from depthforge_ros.engine.engine import CropOutput
from depthforge_ros.engine.fake import FakeEngine
from depthforge_ros.variant import load_variant


class HeldEngine(FakeEngine):
    """Answers once it may, notes what it was asked for, and fails where the test says so.

    sky: whether what is above the horizon is labelled sky; buildings otherwise.
    """

    def __init__(self, variant: str = "nano") -> None:
        super().__init__(load_variant(variant))
        self.depths: list[bool] = []
        self.batches: list[int] = []
        self.error: Exception | None = None
        self.sky = True
        self.started = threading.Semaphore(0)
        self.permits = threading.Semaphore(0)

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        self.depths.append(depth)
        self.batches.append(len(crops))
        self.started.release()
        assert self.permits.acquire(timeout=WAIT_S)
        if self.error is not None:
            raise self.error
        seen = super().__call__(crops, depth=depth)
        scores = seen.scores
        if not self.sky:
            order = list(range(scores.shape[1]))
            sky, building = (self.variant.labels.id_of(name) for name in ("sky", "building"))
            order[sky], order[building] = building, sky
            scores = scores[:, order]
        return CropOutput(scores, seen.depth if depth else None)
