# SPDX-License-Identifier: Apache-2.0
"""The check of metric depth by the camera's height, on streets whose metres are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from engines import HeldEngine
from nodes import HEIGHT, WIDTH, camera_info_message, image_message
from rigs import Rig
from sensor_msgs.msg import CameraInfo
from torch import Tensor

from depthforge_ros.engine.engine import CropOutput
from depthforge_ros.frame import DepthKind, Prediction
from depthforge_ros.ros.calibration import Calibration, calibration_of
from depthforge_ros.ros.node import depth_scale
from depthforge_ros.ros.node.depth_scale import ENOUGH, MAX_AGE_S, DepthScale, DepthScaleCheck
from depthforge_ros.ros.node.diagnostics import NodeStatus, Source, status
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.ros.node.statistics import Statistics
from depthforge_ros.street import HELD_OUT_SEEDS, StreetDrive, StreetFrame
from depthforge_ros.variant import load_variant

OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
NANO = load_variant("nano")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Street:
    """A check that is shown the true depth of a street, scaled, once a second."""

    def __init__(self, variant: str = "nano") -> None:
        drive = StreetDrive(HELD_OUT_SEEDS[0], "clear", 320, 192, frames=1)
        self.frame: StreetFrame = drive[0]
        self.height_m = float(drive.camera(0).position[2])
        info = CameraInfo(width=320, height=192)
        info.k = self.frame.intrinsics.ravel().tolist()
        self.calibration: Calibration | None = calibration_of(info)
        self.clock = Clock()
        self.check = DepthScaleCheck(load_variant(variant), self.clock)

    def show(
        self,
        scale: float = 1.0,
        road: bool = True,
        height_m: float | None = -1.0,
        kind: DepthKind = DepthKind.METRIC,
    ) -> DepthScale | None:
        labels = self.frame.labels if road else np.full_like(self.frame.labels, 2)
        depth_m = (scale * self.frame.depth_m).astype(np.float32)
        seen = Prediction(labels, np.full_like(labels, 255), depth_m, kind)
        if height_m == -1.0:
            height_m = self.height_m
        self.clock.now_s += 1.0
        return self.check(seen, self.calibration, height_m)


@pytest.fixture
def street() -> Street:
    return Street()


def judged(
    measured: DepthScale | None, checkpoint: str = "", **limits: float
) -> tuple[bytes, str, dict[str, str]]:
    statistics = Statistics()
    statistics.open_input()
    statistics.note(depth_scale=measured)
    active = NodeStatus("active", checkpoint=checkpoint, source=Source("/image", 1))
    made = status("depthforge", active, statistics.snapshot(), Parameters(**limits))
    return made.level, made.message, {entry.key: entry.value for entry in made.values}


def test_depth_that_is_30_percent_too_long_is_a_warning_with_the_ratio(street: Street) -> None:
    measured = [street.show(1.3) for _ in range(ENOUGH)]
    for early in measured[:-1]:  # never from a single frame
        assert early is not None
        assert early.ratio is None
        assert judged(early)[0] == OK
    last = measured[-1]
    assert last is not None
    assert last.ratio == pytest.approx(1.3, rel=0.01)
    assert last.height_m == pytest.approx(1.3 * street.height_m, rel=0.01)
    level, message, values = judged(last)
    assert level == WARN
    assert message == (
        f"depth scale is 1.30: by depth the camera is {1.3 * street.height_m:.2f} m above the "
        f"road, configured {street.height_m:.2f} m; allowed 0.75..1.25"
    )
    assert values["depth scale"] == "1.30"
    assert values["camera height by depth m"] == f"{1.3 * street.height_m:.2f}"
    assert judged(last, depth_scale_warn=0.4)[0] == OK
    assert judged(last, depth_scale_warn=0.0)[0] == OK
    assert judged(last, "untrained")[1].startswith("checkpoint 'untrained'")


def test_true_depth_and_one_wrong_frame_are_no_warning(street: Street) -> None:
    for scale in (1.0, 1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        measured = street.show(scale)
    assert measured is not None
    assert measured.ratio == pytest.approx(1.0, abs=0.01)
    assert judged(measured)[0] == OK
    assert judged(measured)[2]["depth scale"] == "1.00"


def test_depth_that_is_too_short_is_a_warning_too(street: Street) -> None:
    for _ in range(ENOUGH):
        measured = street.show(0.6)
    assert judged(measured)[:2] == (
        WARN,
        f"depth scale is 0.60: by depth the camera is {0.6 * street.height_m:.2f} m above the "
        f"road, configured {street.height_m:.2f} m; allowed 0.75..1.25",
    )


def test_without_road_the_scale_is_unknown_and_no_warning(street: Street) -> None:
    for _ in range(2 * ENOUGH):
        measured = street.show(1.3, road=False)
    assert measured == DepthScale(None, None, "road is 0.0% of the image; expected 2.0%")
    level, _, values = judged(measured)
    assert level == OK
    assert values["depth scale"] == "unknown: road is 0.0% of the image; expected 2.0%"
    assert values["camera height by depth m"] == ""
    assert judged(None)[2]["depth scale"] == ""


def test_measurements_end_a_minute_after_the_road_is_gone(street: Street) -> None:
    for _ in range(ENOUGH):
        street.show(1.3)
    kept = street.show(1.3, road=False)
    assert kept is not None
    assert kept.ratio == pytest.approx(1.3, rel=0.01)
    street.clock.now_s += MAX_AGE_S
    gone = street.show(1.3, road=False)
    assert gone is not None
    assert (gone.height_m, gone.ratio) == (None, None)


def test_a_camera_of_unknown_height_has_its_height_estimated(street: Street) -> None:
    for _ in range(ENOUGH):
        measured = street.show(height_m=None)
    assert measured is not None
    assert measured.height_m == pytest.approx(street.height_m, rel=0.01)
    assert (measured.ratio, measured.reason) == (None, "the camera's height is not configured")
    assert judged(measured)[0] == OK


def test_at_most_one_frame_a_second_is_measured(street: Street) -> None:
    assert street.show() is not None
    street.clock.now_s -= 0.5
    assert street.show() is None
    street.check.restart()
    assert street.show() is not None
    street.calibration = None
    assert street.show() == DepthScale(
        pytest.approx(street.height_m, rel=0.01),
        None,
        "1 frames measured; expected 8; no camera_info",
    )


def test_a_relative_variant_is_not_checked_by_the_height_it_is_scaled_with() -> None:
    assert Street("dinov2_s").show(kind=DepthKind.RELATIVE) is None


class PlaneEngine(HeldEngine):
    """Metric depth of a level road `height_m` below the camera of `camera_info_message`."""

    height_m = 1.82

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        seen = super().__call__(crops, depth=depth)
        if not depth:
            return seen
        focal_px, limit_m = self.variant.depth_head.focal_px, self.variant.depth_head.max_depth_m
        below = np.maximum(np.arange(HEIGHT) - 31.5, 1e-3)
        metres = self.height_m * 81.0 / below  # of rows
        units = metres * focal_px / np.sqrt(80.0 * 81.0)
        rows = seen.depth.new_tensor(units).clamp(max=limit_m)
        return CropOutput(seen.scores, rows.view(1, -1, 1).expand(len(crops), -1, WIDTH))


def test_the_node_measures_it_while_depth_has_a_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth_scale, "PERIOD_S", 0.0)
    rig = Rig(PlaneEngine(), camera_height_m=1.4)
    try:
        rig.engine.permits.release(100)
        rig.stream.receive_camera_info(camera_info_message())
        rig.hear("semantic")
        assert rig.through(image_message(1)).depth_scale is None
        rig.hear("depth")
        for index in range(2, 2 + ENOUGH):
            rig.through(image_message(index))
        rig.listener.spin_until(lambda: _ratio(rig) is not None)
        assert _ratio(rig) == pytest.approx(1.3, abs=0.02)
        rig.values = dataclasses.replace(rig.values, depth_scale_warn=0.0)
        rig.through(image_message(20))
        rig.listener.spin_until(lambda: rig.statistics.snapshot().depth_scale is None)
    finally:
        rig.close()


def _ratio(rig: Rig) -> float | None:
    measured = rig.statistics.snapshot().depth_scale
    return None if measured is None else measured.ratio
