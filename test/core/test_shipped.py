# SPDX-License-Identifier: Apache-2.0
"""The weights that ship: they are found, fit, and see."""

from __future__ import annotations

import numpy as np
import pytest

from depthforge_ros.engine import build_engine
from depthforge_ros.engine.load import default_checkpoint
from depthforge_ros.frame import Frame
from depthforge_ros.pipeline import Pipeline
from depthforge_ros.street import HELD_OUT_SEEDS, StreetDrive
from depthforge_ros.variant import load_variant, models_dir

NANO = load_variant("nano")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(build_engine(NANO, device="cpu"))


def test_nano_ships_in_at_most_32_mib() -> None:
    path = default_checkpoint(NANO)
    assert path == models_dir() / "checkpoints" / "nano.safetensors"
    assert path.stat().st_size <= 32 * 2**20


@pytest.mark.parametrize("condition", ["clear", "night", "snow"])
def test_nano_sees_a_street_it_was_not_trained_on(pipeline: Pipeline, condition: str) -> None:
    frame = StreetDrive(HELD_OUT_SEEDS[0], condition, 512, 384, frames=1)[0]
    focal_px = float(frame.intrinsics[0, 0])
    seen = pipeline(Frame(frame.rgb, focal_px=focal_px))
    assert (seen.labels == frame.labels).mean() > 0.75  # the commonest class fills less than half
    assert seen.depth is not None
    near = np.isfinite(frame.depth_m) & (frame.depth_m < 40) & np.isfinite(seen.depth)
    off = np.abs(np.log(seen.depth[near] / frame.depth_m[near]))
    assert np.median(off) < 0.35
