# SPDX-License-Identifier: Apache-2.0
"""Resizing, windows, merging and argmax, each against a plain computation of the same thing."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from looking_glass import TINY, LookingGlass, metric_variant, picture

from depthforge_ros.engine import CropOutput, build_engine
from depthforge_ros.frame import UNLABELLED, DepthKind, Frame, Prediction
from depthforge_ros.pipeline import Mode, Pipeline, PipelineSettings
from depthforge_ros.pipeline.labels import label_pixels
from depthforge_ros.pipeline.settings import inference_size
from depthforge_ros.pipeline.windows import fit_affine, window_corners
from depthforge_ros.variant import load_variant


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("width", "height"), [(64, 48), (17, 16), (129, 97), (640, 480), (333, 1001), (4096, 2160)]
)
def test_any_size_gives_masks_of_that_size(width, height, mode):
    pipeline = Pipeline(LookingGlass(), PipelineSettings(mode=mode))
    prediction = pipeline(Frame(picture(height, width), stamp_ns=12_345, frame_id="cam"))
    assert prediction.labels.shape == (height, width)
    assert prediction.depth.shape == (height, width)
    assert (prediction.stamp_ns, prediction.frame_id) == (12_345, "cam")
    # Every column has the class of its red value, but for a step that the resize may move.
    middle = prediction.labels[height // 2].astype(int)
    expected = picture(height, width)[0, :, 0].astype(int) * len(TINY.labels) // 256
    assert np.abs(middle - expected).max() <= 1
    assert (middle == expected).mean() > 0.6


def test_masks_can_stay_at_the_inference_size():
    settings = PipelineSettings(short_side_px=96, full_size=False)
    prediction = Pipeline(LookingGlass(), settings)(Frame(picture(480, 640)))
    assert prediction.labels.shape == (96, 128)
    assert prediction.depth.shape == (96, 128)


@pytest.mark.parametrize("size", [(61, 95), (40, 66), (20, 33), (13, 21), (240, 5)])
def test_labels_equal_the_argmax_of_all_enlarged_scores(size):
    coarse = torch.rand(7, 5, 8, generator=torch.Generator().manual_seed(3))
    scores = F.interpolate(coarse[None], (20, 33), mode="bilinear")[0]  # with agreeing neighbours
    labels, confidence = label_pixels(scores, size)
    enlarged = F.interpolate(scores[None], size, mode="bilinear")[0]
    assert torch.equal(labels.long(), enlarged.argmax(0))
    exact = 255 * enlarged.amax(0) / enlarged.sum(0).clamp_min(1)
    assert (confidence - exact).abs().max() < 24  # the nearest coarse pixel's, inside a class
    assert (confidence - exact).abs().mean() < 1.5


def test_labels_and_confidence_at_edges_are_thresholded_like_everywhere():
    scores = torch.rand(4, 12, 12, generator=torch.Generator().manual_seed(5))
    enlarged = F.interpolate(scores[None], (48, 48), mode="bilinear")[0]
    certainty = enlarged.amax(0) / enlarged.sum(0).clamp_min(1)
    labels, confidence = label_pixels(scores, (48, 48), threshold=0.4)
    mixed = (labels != UNLABELLED) == (certainty >= 0.4)
    assert mixed.float().mean() > 0.97
    assert (
        torch.equal(labels == UNLABELLED, confidence < 0.4 * 255)
        or (confidence[(labels == UNLABELLED) != (confidence < 0.4 * 255)] == 102).all()
    )


def test_certainty_falls_where_no_query_claims_a_pixel():
    scores = torch.zeros(3, 1, 3)
    scores[:, 0, 0] = torch.tensor([0.9, 0.05, 0.05])
    scores[:, 0, 1] = torch.tensor([0.1, 0.0, 0.0])
    scores[:, 0, 2] = torch.tensor([1.5, 1.5, 0.0])
    _, confidence = label_pixels(scores, (1, 3))
    assert confidence[0].tolist() == [round(0.9 * 255), round(0.1 * 255), round(0.5 * 255)]


def test_scores_that_are_not_numbers_are_unlabelled_and_not_road():
    scores = torch.full((3, 8, 8), 0.1)
    scores[2, :, 4:] = 0.8
    scores[:, 2:6] = torch.nan
    for size in [(8, 8), (32, 32)]:
        labels, confidence = label_pixels(scores, size)
        middle = slice(size[0] * 3 // 8, size[0] * 5 // 8)
        assert (labels[middle] == UNLABELLED).all()
        assert (confidence[middle] == 0).all()
        assert (labels[0, -1], labels[-1, -1]) == (2, 2)


def test_pixels_below_the_threshold_are_unlabelled():
    class Unsure(LookingGlass):
        def __call__(self, crops, *, depth):
            output = super().__call__(crops, depth=depth)
            return CropOutput(output.scores * 0.4, output.depth)

    frame = Frame(picture(64, 64))
    settings = PipelineSettings(confidence_threshold=0.3)
    assert (Pipeline(Unsure(), settings)(frame).labels != UNLABELLED).all()
    settings = PipelineSettings(confidence_threshold=0.5)
    prediction = Pipeline(Unsure(), settings)(frame)
    assert (prediction.labels == UNLABELLED).all()
    assert (prediction.confidence == 102).all()


def test_windows_cover_every_pixel_and_stay_inside():
    for height, width in [(64, 64), (65, 64), (96, 135), (64, 1000)]:
        covered = np.zeros((height, width), int)
        for y, x in window_corners(height, width, 64, 43):
            assert 0 <= y <= height - 64
            assert 0 <= x <= width - 64
            covered[y : y + 64, x : x + 64] += 1
        assert covered.min() >= 1


def test_windows_run_in_batches_of_at_most_max_batch():
    engine = LookingGlass()
    Pipeline(engine, PipelineSettings(mode=Mode.SLIDE, max_batch=3))(Frame(picture(64, 300)))
    assert max(engine.batches) == 3
    assert sum(engine.batches) == len(window_corners(64, 300, 64, 43)) + 1  # and the whole frame


def test_relative_depth_of_windows_is_brought_to_one_scale():
    frame = Frame(picture(96, 300))
    settings = PipelineSettings(mode=Mode.SLIDE, short_side_px=96, max_batch=64)
    depth = Pipeline(LookingGlass(), settings)(frame).depth
    green = frame.rgb[..., 1] / 255
    slope, shift = np.polyfit(green.ravel(), depth.ravel(), 1)
    assert slope > 0
    assert np.abs(slope * green + shift - depth).max() < 0.02 * np.ptp(depth)


def test_a_window_without_contrast_takes_the_guides_mean():
    fitted = fit_affine(torch.full((1, 4, 4), 7.0), torch.arange(16.0).view(1, 4, 4))
    assert torch.allclose(fitted, torch.tensor(7.5))


def test_metric_depth_is_infinite_in_the_sky_and_beyond_range_and_unknown_where_they_differ():
    rgb = picture(64, 64)
    rgb[:8, :, 1] = 255
    prediction = Pipeline(LookingGlass(metric_variant()))(Frame(rgb))
    sky = prediction.labels == TINY.labels.id_of("sky")
    told_m = rgb[..., 1] / 255 * 80
    assert np.isposinf(prediction.depth[:8]).all()
    assert np.isposinf(prediction.depth[sky & (told_m > 41)]).all()
    assert np.isnan(prediction.depth[sky & (told_m < 39)]).all()  # labelled sky, but near
    assert prediction.depth[32, 0] == pytest.approx(told_m[32, 0], rel=1e-5)
    assert prediction.depth_kind is DepthKind.METRIC


def test_metric_depth_that_is_no_distance_is_nan():
    class Broken(LookingGlass):
        def __call__(self, crops, *, depth):
            output = super().__call__(crops, depth=depth)
            return CropOutput(output.scores, torch.full_like(output.depth, float("nan")))

    prediction = Pipeline(Broken(metric_variant()))(Frame(picture(64, 64)))
    ground = prediction.labels != TINY.labels.id_of("sky")
    assert np.isnan(prediction.depth[ground]).all()


def test_metres_follow_the_focal_length_of_the_camera():
    head = dataclasses.replace(metric_variant().depth_head, focal_px=400.0)
    variant = dataclasses.replace(TINY, depth_head=head)
    pipeline = Pipeline(LookingGlass(variant), PipelineSettings(short_side_px=64))
    rgb = picture(128, 256)  # inferred at half its size
    reported = 80 * int(rgb[64, 0, 1]) / 255
    for focal_px, metres in [(800.0, reported), (400.0, reported / 2), (1600.0, reported * 2)]:
        depth = pipeline(Frame(rgb, focal_px=focal_px)).depth
        assert depth[64, 0] == pytest.approx(metres, rel=0.02)
    assert pipeline(Frame(rgb)).depth is None  # no metres without a calibrated camera
    with pytest.raises(ValueError, match="focal_px is -1"):
        Frame(rgb, focal_px=-1)


def test_depth_that_nobody_wants_is_not_computed():
    assert Pipeline(LookingGlass())(Frame(picture(64, 64)), depth=False).depth is None


def test_inference_sizes_keep_the_aspect_ratio():
    whole, slide = PipelineSettings(), PipelineSettings(mode=Mode.SLIDE)
    large = load_variant("dinov2_l")
    assert inference_size(1024, 2048, whole, large) == (512, 1024)
    assert inference_size(1080, 1920, whole, large) == (512, 896)
    assert inference_size(1080, 1920, slide, large) == (512, 910)
    assert inference_size(48, 64, slide, large) == (512, 683)
    assert inference_size(1920, 1080, whole, large) == (896, 512)


@pytest.mark.parametrize("mode", list(Mode))
def test_an_inference_that_no_memory_holds_is_refused(mode: Mode):
    largest = PipelineSettings(mode=mode, short_side_px=4096)
    variant = load_variant("nano")
    assert inference_size(64, 64, largest, variant) == (4096, 4096)
    reason = "a 512x64 frame with short side 4096 would be inferred at 32768x4096; expected at most"
    with pytest.raises(ValueError, match=reason):
        inference_size(64, 512, largest, variant)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"short_side_px": 10}, "short_side_px is 10"),
        ({"confidence_threshold": 1.2}, "confidence_threshold is 1.2"),
        ({"max_batch": 0}, "max_batch is 0"),
    ],
)
def test_settings_out_of_range_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        PipelineSettings(**change)


@pytest.mark.parametrize(
    ("rgb", "text"),
    [
        (np.zeros((1, 1, 3), np.uint8), "image is 1x1"),
        (np.zeros((0, 64, 3), np.uint8), "image is 64x0"),
        (np.zeros((16, 200, 3), np.uint8), "aspect ratio"),
        (np.zeros((64, 64), np.uint8), r"rgb is \[64, 64\] uint8"),
        (np.zeros((64, 64, 3), np.float32), "float32"),
    ],
)
def test_images_that_are_none_are_refused(rgb, text):
    with pytest.raises(ValueError, match=text):
        Frame(rgb)


def test_predictions_of_unequal_sizes_are_refused():
    mask = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match=r"depth is \[5, 4\] float32; expected \[4, 5\] float32"):
        Prediction(mask, mask, np.zeros((5, 4), np.float32), DepthKind.METRIC)


def test_untrained_engines_are_the_same_every_time_and_devices_are_checked():
    crops = torch.full((1, 3, 64, 64), 99, dtype=torch.uint8)
    a, b = (build_engine(TINY, "untrained", device="cpu")(crops, depth=True) for _ in range(2))
    assert torch.equal(a.scores, b.scores)
    assert torch.equal(a.depth, b.depth)
    with pytest.raises(ValueError, match=r"device 'npu' is not available .* available: cpu"):
        build_engine(TINY, "untrained", device="npu")
    with pytest.raises(ValueError, match="no weights of variant 'tiny'"):
        build_engine(TINY)
    with pytest.raises(ValueError, match="precision is 'int4'"):
        build_engine(TINY, "untrained", device="cpu", precision="int4")
