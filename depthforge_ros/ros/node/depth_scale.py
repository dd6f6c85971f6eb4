# SPDX-License-Identifier: Apache-2.0
"""Checks the scale of metric depth: the plane of the road must lie the camera's height below it.

Measures at most one frame a second, after its outputs are published, and judges medians of several
frames. A relative variant takes its scale from the camera's height, so it cannot be checked by it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from depthforge_ros.frame import DepthKind, Prediction
from depthforge_ros.ground import NoGroundError, road_height_m
from depthforge_ros.ros.calibration import Calibration
from depthforge_ros.variant import Variant

PERIOD_S = 1.0
"""Seconds between two measurements."""
KEPT, ENOUGH = 10, 8
"""Measurements that the medians are over, and how many of them a ratio needs."""
MAX_AGE_S = 60.0
"""Older measurements are forgotten."""


@dataclass(frozen=True)
class DepthScale:
    """What the measurements of one camera say.

    height_m: of the camera above the road by depth, median; None if nothing was measured. ratio: of
    that height to the configured one, median; None while it is unknown. reason: why it is unknown.
    """

    height_m: float | None
    ratio: float | None
    reason: str = ""


class DepthScaleCheck:
    """Measures one camera. variant: of the network. clock_s: steady seconds."""

    def __init__(self, variant: Variant, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._metric = variant.depth_head.kind is DepthKind.METRIC
        self._road = variant.labels.id_of("road")
        self._clock_s = clock_s
        self.restart()

    def restart(self) -> None:
        """Forget all measurements."""
        self._due_s = 0.0
        self._measured: deque[tuple[float, float, float | None]] = deque(maxlen=KEPT)

    def __call__(
        self, seen: Prediction, calibration: Calibration | None, camera_height_m: float | None
    ) -> DepthScale | None:
        """Measure a prediction with metric depth; return None if it is none, or none is due.

        camera_height_m: above the ground, None if it is not known.
        """
        now_s = self._clock_s()
        if not self._metric or self._road is None or seen.depth is None or now_s < self._due_s:
            return None
        self._due_s = now_s + PERIOD_S
        reason = ""
        if calibration is None:
            reason = "no camera_info"
        else:
            height, width = seen.labels.shape
            try:
                height_m = road_height_m(seen, calibration.rays(width, height), self._road)
                ratio = None if camera_height_m is None else height_m / camera_height_m
                self._measured.append((now_s, height_m, ratio))
            except NoGroundError as error:
                reason = str(error)
        while self._measured and now_s - self._measured[0][0] > MAX_AGE_S:
            self._measured.popleft()
        return self._summary(reason, camera_height_m)

    def _summary(self, reason: str, camera_height_m: float | None) -> DepthScale:
        if not self._measured:
            return DepthScale(None, None, reason)
        height_m = median(height_m for _, height_m, _ in self._measured)
        ratios = [ratio for _, _, ratio in self._measured if ratio is not None]
        if len(ratios) >= ENOUGH:
            return DepthScale(height_m, median(ratios))
        if camera_height_m is None:
            return DepthScale(height_m, None, "the camera's height is not configured")
        count = f"{len(ratios)} frames measured; expected {ENOUGH}"
        return DepthScale(height_m, None, f"{count}; {reason}" if reason else count)
