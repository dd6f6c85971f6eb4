# SPDX-License-Identifier: Apache-2.0
"""Whole frames as one program: the pipeline's results, one copy up, one down and one wait.

No CUDA is needed: the capture is replaced by one that runs the program again, and tensors without
data ("meta") show that the program neither waits for the device nor copies from or to it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captures import Replayed
from looking_glass import TINY, LookingGlass, metric_variant, picture
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from depthforge_ros.engine import FallbackEngine, Journal
from depthforge_ros.engine.compiler import CompiledEngine
from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.engine.engine import Shape
from depthforge_ros.engine.load import load_network, untrained_network
from depthforge_ros.engine.memory_fallback import DeviceLostError
from depthforge_ros.engine.self_check import check_images
from depthforge_ros.frame import UNLABELLED, Frame
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.pipeline import Mode, Pipeline, PipelineSettings
from depthforge_ros.pipeline import captured_frames as module
from depthforge_ros.pipeline.captured_frames import CapturedFrames
from depthforge_ros.pipeline.frame_program import FrameProgram, FrameShape
from depthforge_ros.pipeline.labels import label_pixels
from depthforge_ros.variant import load_variant

CPU = torch.device("cpu")
NANO = load_variant("nano")


class Glass(LookingGlass):
    """A LookingGlass whose work a capture can hold."""

    def operation(self, sizes, depth):
        def run(crops):
            assert crops.shape == sizes
            seen = self(crops, depth=depth)
            return (seen.scores,) if seen.depth is None else (seen.scores, seen.depth)

        return run


def decided(variant):
    """An untrained network that gives pixels different classes."""
    network = untrained_network(variant)
    decoder = network.mask_decoder
    with torch.no_grad():
        for weight in [*decoder.class_head.parameters(), *decoder.mask_head.parameters()]:
            weight.mul_(10)
    return EagerEngine(network, CPU)


def capturing(engine, settings, capture=Replayed, journal=None):
    """A pipeline that captures, and the list of the shapes of its captures."""
    captures = []

    def noted(program, images):
        captures.append(program.shape)
        return capture(program, images)

    fallback = FallbackEngine(engine, journal or Journal())
    pipeline = Pipeline(fallback, settings)
    assert pipeline.captured is None  # not on a CPU
    pipeline.captured = CapturedFrames(fallback, pipeline.transfer, noted)
    return pipeline, captures


def streets(height, width, count, first):
    """Frames of the shipped streets, of cameras of different focal lengths."""
    images = F.interpolate(
        check_images(Shape(352, 480, count), first).float(), (height, width), mode="bilinear"
    )
    return [
        Frame(image.permute(1, 2, 0).round().byte().contiguous().numpy(), focal_px=300.0 + index)
        for index, image in enumerate(images)
    ]


def noise(height, width, count=1, seed=0):
    """Frames of blocks of noise, of cameras of different focal lengths."""
    random = np.random.default_rng(seed)
    return [
        Frame(
            random.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
            .repeat(8, 0)
            .repeat(8, 1)[:height, :width],
            focal_px=80.0 + index,
        )
        for index in range(count)
    ]


def same(seen, expected):
    assert len(seen) == len(expected)
    for ours, theirs in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours.confidence, theirs.confidence)
        assert (ours.depth is None) == (theirs.depth is None)
        if theirs.depth is not None:
            assert ours.depth.dtype == np.float32
            np.testing.assert_array_equal(ours.depth, theirs.depth)


@pytest.fixture(scope="module")
def nano():
    return EagerEngine(load_network(NANO, ""), CPU)


@pytest.fixture(scope="module")
def tiny():
    return decided(TINY)


SIZES = [(64, 96), (97, 131), (240, 333), (50, 41)]  # height, width


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("full_size", [True, False])
@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_a_program_gives_the_pipelines_bytes(name, full_size, size, request):
    """Metres and relative depth, one frame and three, with and without enlargement."""
    engine = request.getfixturevalue(name)
    settings = PipelineSettings(
        short_side_px=64, full_size=full_size, confidence_threshold=0.4, antialias=name == "nano"
    )
    pipeline, captures = capturing(engine, settings)
    plain = Pipeline(engine, settings)
    classes = set()
    for count in (1, 3):
        frames = streets(*size, count, first=count)
        for depth in ([True] * count, [False] * count, [index != 1 for index in range(count)]):
            seen = pipeline.batch(frames, depth)
            same(seen, plain.batch(frames, depth))
            for one in seen:
                classes |= set(np.unique(one.labels))
    assert len(captures) == 4  # one frame and three, with depth and without
    assert len(classes) > (5 if name == "nano" else 1)


def test_metres_sky_range_and_threshold_are_those_of_the_pipeline():
    variant = dataclasses.replace(
        metric_variant(), depth_head=dataclasses.replace(metric_variant().depth_head, focal_px=50.0)
    )
    frame = Frame(picture(90, 120), focal_px=200.0)
    frame.rgb[:6, :, 1] = 255  # beyond range
    frame.rgb[80:, :, 1] = 0  # no depth
    plain = Pipeline(Glass(variant), PipelineSettings(short_side_px=64))(frame)
    pipeline, captures = capturing(Glass(variant), PipelineSettings(short_side_px=64))
    same([pipeline(frame)], [plain])
    assert np.isposinf(plain.depth).any()
    assert np.isnan(plain.depth).any()
    assert (plain.depth[np.isfinite(plain.depth)] > 80.0).any()  # multiplied by the focal length
    pipeline.settings = dataclasses.replace(pipeline.settings, confidence_threshold=1.0)
    seen = pipeline(frame)
    assert (seen.labels == UNLABELLED).any()
    same([seen], [Pipeline(Glass(variant), pipeline.settings)(frame)])
    assert len(captures) == 1  # the threshold is an input
    uncalibrated = dataclasses.replace(frame, focal_px=None)
    assert pipeline(uncalibrated).depth is None


@pytest.mark.parametrize("count", [1, 3])
def test_a_frame_costs_one_copy_up_one_down_and_one_wait(count, tiny):
    settings = PipelineSettings(short_side_px=64)
    pipeline, _ = capturing(tiny, settings)
    frames = noise(97, 131, count)
    pipeline.batch(frames, [True] * count)  # captures
    moved = pipeline.transfer
    moved.uploads = moved.downloads = moved.waits = 0
    pipeline.batch(frames, [True] * count)
    assert (moved.uploads, moved.downloads, moved.waits) == (1, 1, 1)
    plain = Pipeline(tiny, settings)
    plain.batch(frames, [True] * count)
    moved = plain.transfer
    assert (moved.uploads, moved.downloads, moved.waits) == (count, 3 * count, 1)


class OnDevice(TorchDispatchMode):
    """Counts operators, and fails where one has tensors of two devices."""

    def __init__(self):
        super().__init__()
        self.operators = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        assert devices <= {"meta"}, f"{function} on {devices}"
        self.operators += 1
        return result


@pytest.mark.parametrize("depth", [True, False])
@pytest.mark.parametrize("full_size", [True, False])
def test_a_program_of_nano_waits_for_nothing_and_copies_nothing(full_size, depth):
    """What would wait for a device (item, nonzero, a copy to the host) fails without data."""
    meta = torch.device("meta")
    with meta:
        network = DepthForge(NANO)
    engine = EagerEngine(network, meta, "bf16")
    size = (1080, 1920) if full_size else (352, 640)
    shape = FrameShape(2, 1080, 1920, (352, 640), size, True, depth)
    program = FrameProgram(engine.operation(shape.network, depth), NANO, shape, meta)
    packed = torch.empty(shape.input_bytes, dtype=torch.uint8, device=meta)
    with torch.inference_mode(), OnDevice() as counter:
        (output,) = program(packed)
    assert output.shape == (2 * size[0] * size[1] * (6 if depth else 2),)
    assert counter.operators > 500


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.max().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.bincount(x.long()),
        lambda x: x.cpu(),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0]).to("meta"),
    ],
)
def test_the_proof_of_no_waits_notices_each_kind(wait):
    with pytest.raises((RuntimeError, AssertionError)), OnDevice():
        wait(torch.zeros(3, device="meta"))


def test_elsewhere_than_on_a_cpu_labels_wait_for_nothing():
    scores = torch.zeros(19, 44, 60, device="meta")
    label_pixels(scores, (97, 131))  # makes its tables
    with OnDevice():
        labels, confidence = label_pixels(scores, (97, 131))
    assert labels.shape == confidence.shape == (97, 131)


def test_large_frames_are_enlarged_in_bands(monkeypatch):
    scores = torch.rand(5, 20, 30, generator=torch.Generator().manual_seed(1))
    from depthforge_ros.pipeline import labels as labels_module

    expected = label_pixels(scores, (91, 77), threshold=0.3)
    monkeypatch.setattr(labels_module, "BAND_ELEMENTS", 6 * 77 * 4)
    axes = (labels_module.neighbours(20, 91, CPU), labels_module.neighbours(30, 77, CPU))
    seen = labels_module.label_every_pixel(scores, *axes, torch.tensor(0.3))
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_each_shape_is_captured_once_and_four_at_most(tiny):
    settings = PipelineSettings(short_side_px=64)
    pipeline, captures = capturing(tiny, settings)
    for size in SIZES[:2] * 2:
        pipeline.batch(noise(*size), [True])
    assert [(one.height, one.width) for one in captures] == SIZES[:2]
    for side in (80, 88, 96, 104):
        seen = pipeline.batch(noise(64, side), [True])
        same(seen, Pipeline(tiny, settings).batch(noise(64, side), [True]))
    assert len(captures) == module.MAX_PROGRAMS
    pipeline.settings = PipelineSettings(short_side_px=96)  # graphs of the old size are given up
    pipeline.batch(noise(64, 80), [True])
    assert len(captures) == module.MAX_PROGRAMS + 1
    assert captures[-1].inferred == (96, 128)


def test_frames_of_several_sizes_and_more_than_max_batch_keep_their_order(tiny):
    settings = PipelineSettings(short_side_px=64, max_batch=2)
    pipeline, captures = capturing(tiny, settings)
    first, second = noise(64, 96, 3), noise(80, 80, 1)
    frames = [first[0], second[0], first[1], first[2]]
    depth = [True, True, False, True]
    same(pipeline.batch(frames, depth), Pipeline(tiny, settings).batch(frames, depth))
    assert sorted(one.batch for one in captures) == [1, 1, 2]


def test_windows_and_engines_without_an_operation_are_left_to_the_pipeline():
    frame = Frame(picture(64, 150))
    for engine, mode in ((Glass(), Mode.SLIDE), (LookingGlass(), Mode.WHOLE)):
        settings = PipelineSettings(mode=mode)
        pipeline, captures = capturing(engine, settings)
        same([pipeline(frame)], [Pipeline(engine, settings)(frame)])
        assert captures == []


def test_an_engine_that_takes_over_is_captured_anew():
    journal = Journal()
    pipeline, captures = capturing(Glass(), PipelineSettings(short_side_px=64), journal=journal)
    frame = Frame(picture(64, 96))
    assert (pipeline(frame).labels != 0).any()

    class Blind(Glass):
        def __call__(self, crops, *, depth):
            return super().__call__(torch.zeros_like(crops), depth=depth)

    pipeline.engine.replace(Blind())
    assert (pipeline(frame).labels == 0).all()
    assert len(captures) == 2


def test_compiled_engines_give_the_work_of_the_smallest_batch_that_fits():
    seen = []

    class Compiled:
        def kernels(self, images):
            seen.append(images.shape)
            return images[:, :1].double(), images[:, 0].double()

        __call__ = kernels

    programs = {Shape(64, 96, batch): Compiled() for batch in (1, 4)}
    engine = CompiledEngine("tensorrt", "fp16", programs, TINY, CPU, lambda: None, Journal())
    images = torch.arange(3 * 3 * 64 * 96).view(3, 3, 64, 96).to(torch.uint8)
    scores, depth = engine.operation(images.shape, depth=True)(images)
    assert seen == [(4, 3, 64, 96)]
    assert torch.equal(scores, images[:, :1].float())
    assert torch.equal(depth, images[:, 0].float())
    assert len(engine.operation(images.shape, depth=False)(images)) == 1
    assert engine.operation(torch.Size((5, 3, 64, 96)), depth=True) is None
    assert engine.operation(torch.Size((1, 3, 64, 64)), depth=True) is None
    engine.add(Shape(64, 64), lambda images: (images, images))  # a program without kernels
    assert engine.operation(torch.Size((1, 3, 64, 64)), depth=True) is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("operation not permitted when stream is capturing"), "not permitted"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
    ],
)
def test_where_a_capture_fails_the_pipeline_goes_on_and_says_why(error, reason, tiny):
    def failing(program, images):
        raise error

    journal = Journal()
    settings = PipelineSettings(short_side_px=64)
    pipeline, captures = capturing(tiny, settings, failing, journal)
    for _ in range(3):
        seen = pipeline.batch(noise(97, 131), [True])
        same(seen, Pipeline(tiny, settings).batch(noise(97, 131), [True]))
    assert len(captures) == 1  # not tried again
    assert journal.notes["graph"].startswith("frames run without a CUDA graph: ")
    assert reason in journal.notes["graph"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda maps: maps[0][0].fill(3), "labels agree on"),
        (lambda maps: np.multiply(maps[0][2], 1.5, out=maps[0][2]), "depth agrees within 1%"),
    ],
)
def test_a_graph_that_computes_something_else_is_not_used(damage, reason, tiny):
    class Wrong(Replayed):
        def replay(self):
            (output,) = super().replay()
            damage(self.program.shape.unpack(output.numpy()))
            return (output,)

    journal = Journal()
    settings = PipelineSettings(short_side_px=64)
    pipeline, _ = capturing(tiny, settings, Wrong, journal)
    seen = pipeline.batch(noise(97, 131), [True])
    same(seen, Pipeline(tiny, settings).batch(noise(97, 131), [True]))
    assert reason in journal.notes["graph"]


def test_a_lost_device_is_reported_and_not_called_again(monkeypatch):
    class Lost(Replayed):
        def replay(self):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    from depthforge_ros.engine import memory_fallback

    monkeypatch.setattr(memory_fallback, "device_works", lambda device: False)
    journal = Journal()
    pipeline, captures = capturing(Glass(), PipelineSettings(), Lost, journal)
    for _ in range(2):
        with pytest.raises(DeviceLostError, match="restart the node"):
            pipeline(Frame(picture(64, 96)))
    assert len(captures) == 1
    assert "illegal memory access" in journal.trouble


def test_graphs_are_given_up_where_memory_is_short():
    pipeline, captures = capturing(Glass(), PipelineSettings(short_side_px=64))
    frame = Frame(picture(64, 96))
    expected = pipeline(frame)
    pipeline.engine.short_of_memory = True
    same([pipeline(frame)], [expected])
    assert pipeline.captured._kept == {}
    assert len(captures) == 1
