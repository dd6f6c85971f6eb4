# SPDX-License-Identifier: Apache-2.0
"""Several frames at once, as several cameras have them: the same answers by fewer calls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from looking_glass import TINY, LookingGlass, metric_variant, picture

from depthforge_ros.engine import CropOutput
from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.engine.load import untrained_network
from depthforge_ros.frame import Frame
from depthforge_ros.pipeline import Mode, Pipeline, PipelineSettings
from depthforge_ros.variant import Variant, load_variant

SIZES = [(96, 128), (64, 96), (96, 128), (128, 96), (64, 96)]  # height, width


def engine_of(variant: Variant) -> EagerEngine:
    network = untrained_network(variant)
    decoder = network.mask_decoder
    with torch.no_grad():  # an untrained network is sure of nothing, and says the same everywhere
        for weight in [*decoder.class_head.parameters(), *decoder.mask_head.parameters()]:
            weight.mul_(10)
    return EagerEngine(network, torch.device("cpu"))


def frames() -> list[Frame]:
    """Of cameras of different sizes; each shows another noise, and one is not calibrated."""
    random = np.random.default_rng(7)
    return [
        Frame(
            random.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
            .repeat(8, 0)
            .repeat(8, 1),
            stamp_ns=index,
            frame_id=f"camera{index}",
            focal_px=None if index == 1 else 90.0,
        )
        for index, (height, width) in enumerate(SIZES)
    ]


NANO = load_variant("nano")
WHOLE = PipelineSettings(short_side_px=64)
SMALL_BATCHES = PipelineSettings(short_side_px=64, max_batch=2, full_size=False)
SLIDE = PipelineSettings(mode=Mode.SLIDE, max_batch=3)


@pytest.mark.parametrize(
    ("variant", "settings"),
    [(NANO, WHOLE), (NANO, SMALL_BATCHES), (TINY, WHOLE), (TINY, SLIDE)],
    ids=["nano whole", "nano in small batches", "tiny whole", "tiny slide"],
)
@pytest.mark.usefixtures("one_thread")
def test_several_frames_give_what_each_gives_alone(
    variant: Variant, settings: PipelineSettings
) -> None:
    engine = engine_of(variant)
    pipeline = Pipeline(engine, settings)
    expected = [True, True, False, True, True]
    together = pipeline.batch(frames(), expected)
    for index, (frame, depth, seen) in enumerate(zip(frames(), expected, together, strict=True)):
        alone = pipeline(frame, depth=depth)
        assert (seen.stamp_ns, seen.frame_id) == (index, f"camera{index}")
        np.testing.assert_array_equal(seen.labels, alone.labels)
        np.testing.assert_allclose(seen.confidence, alone.confidence.astype(float), atol=1)
        assert (seen.depth is None) == (alone.depth is None)
        if seen.depth is not None:
            np.testing.assert_allclose(seen.depth, alone.depth, rtol=1e-4, atol=1e-4)
    assert together[2].depth is None
    assert (together[1].depth is None) == (engine.variant.depth_head.focal_px is not None)
    assert together[0].confidence.tobytes() != together[2].confidence.tobytes()
    assert len({seen.labels.tobytes() for seen in together}) == len(SIZES)


def test_whole_frames_of_one_inference_size_share_calls() -> None:
    engine = LookingGlass()
    pipeline = Pipeline(engine, PipelineSettings(short_side_px=64, max_batch=2))
    sizes = [(64, 96), (128, 192), (96, 64), (64, 96)]  # the second is inferred like the first
    together = pipeline.batch([Frame(picture(*size)) for size in sizes], [True] * 4)
    assert engine.batches == [2, 1, 1]
    assert [seen.labels.shape for seen in together] == sizes
    for size, seen in zip(sizes, together, strict=True):
        middle = seen.labels[size[0] // 2].astype(int)
        reported = picture(*size)[0, :, 0].astype(int) * len(TINY.labels) // 256
        assert np.abs(middle - reported).max() <= 1


def test_windows_of_several_frames_share_calls() -> None:
    engine = LookingGlass(metric_variant())
    pipeline = Pipeline(engine, PipelineSettings(mode=Mode.SLIDE, max_batch=4))
    pipeline.batch([Frame(picture(64, 107)), Frame(picture(64, 150))], [True, False])
    assert engine.batches == [4, 1]  # of 2 and 3 windows


def test_depth_is_asked_of_the_engine_if_one_frame_wants_it() -> None:
    asked = []

    class Asked(LookingGlass):
        def __call__(self, crops: torch.Tensor, *, depth: bool) -> CropOutput:
            asked.append(depth)
            return super().__call__(crops, depth=depth)

    pipeline = Pipeline(Asked(), PipelineSettings())
    two = [Frame(picture(64, 64)), Frame(picture(64, 64))]
    assert [seen.depth is None for seen in pipeline.batch(two, [False, True])] == [True, False]
    assert [seen.depth is None for seen in pipeline.batch(two, [False, False])] == [True, True]
    assert asked == [True, False]


def test_no_frames_are_no_predictions() -> None:
    engine = LookingGlass()
    assert Pipeline(engine).batch([], []) == []
    assert engine.batches == []


def test_what_shares_a_call_is_known_before_a_frame_is_converted() -> None:
    pipeline = Pipeline(LookingGlass())
    whole = PipelineSettings(short_side_px=64, max_batch=5)
    assert pipeline.batching(64, 96, whole) == pipeline.batching(128, 192, whole) == ((64, 96), 5)
    assert pipeline.batching(96, 64, whole) == ((96, 64), 5)
    slide = PipelineSettings(mode=Mode.SLIDE, max_batch=5)
    assert pipeline.batching(64, 107, slide) == ((64, 64), 2)  # of 2 windows each
    assert pipeline.batching(64, 1000, slide) == ((64, 64), 1)
    with pytest.raises(ValueError, match="expected at most"):
        pipeline.batching(64, 512, PipelineSettings(short_side_px=4096))
