# SPDX-License-Identifier: Apache-2.0
"""Full memory and lost devices, with an engine that fails as the hardware would."""

from __future__ import annotations

import pytest
import torch

from depthforge_ros.engine import memory_fallback
from depthforge_ros.engine.engine import CropOutput, Journal
from depthforge_ros.engine.fake import FakeEngine
from depthforge_ros.engine.memory_fallback import (
    DeviceLostError,
    DeviceMemoryError,
    FallbackEngine,
    device_works,
    is_device_lost,
    is_out_of_memory,
)
from depthforge_ros.variant import load_variant

CUDA_FULL = "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation"
CUDA_LOST = "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronous"


class Limited(FakeEngine):
    """Has memory for so many images at once; stands in for a GPU. Depth tells images apart."""

    def __init__(self, most, backend="tensorrt", precision="fp16"):
        super().__init__(load_variant("nano"))
        self.most, self.backend, self.precision = most, backend, precision
        self.batches = []
        self.error = None

    def __call__(self, crops, *, depth):
        self.batches.append(len(crops))
        if self.error is not None:
            raise self.error
        if len(crops) > self.most:
            raise torch.OutOfMemoryError(CUDA_FULL)
        seen = super().__call__(crops, depth=depth)
        values = crops[:, 0, 0, 0].float()
        scores = seen.scores + values.view(-1, 1, 1, 1)
        return CropOutput(scores, values.view(-1, 1, 1) + 0 * seen.depth if depth else None)


def images(count):
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)


def test_the_batch_is_halved_until_it_fits_and_stays_so():
    engine, journal = Limited(most=2), Journal()
    guarded = FallbackEngine(engine, journal)
    seen = guarded(images(7), depth=True)
    assert engine.batches == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert seen.depth[:, 0, 0].tolist() == list(range(7))
    assert (seen.scores[:, 0, 0, 0] - seen.scores[0, 0, 0, 0]).tolist() == list(range(7))
    assert journal.notes == {"memory": "cpu is short of memory: 1 images at once"}
    engine.batches.clear()
    assert guarded(images(2), depth=False).depth is None
    assert engine.batches == [1, 1]


def test_an_engine_that_has_no_memory_for_one_image_gives_way():
    journal = Journal()
    guarded = FallbackEngine(Limited(0), journal, lambda: Limited(8, "eager", "fp32"))
    assert (guarded.backend, guarded.precision) == ("tensorrt", "fp16")
    assert len(guarded(images(4), depth=True).scores) == 4
    assert (guarded.backend, guarded.precision) == ("eager", "fp32")
    assert journal.notes["memory"] == (
        "cpu is short of memory for tensorrt fp16: eager fp32 from now on"
    )


def test_where_nothing_fits_the_error_says_what_to_do():
    guarded = FallbackEngine(Limited(0), Journal(), lambda: Limited(0, "eager", "fp32"))
    with pytest.raises(DeviceMemoryError) as reported:
        guarded(images(1), depth=True)
    assert str(reported.value) == (
        "cpu has too little memory for one image of 32x32 (CUDA out of memory. Tried to allocate "
        "2.00 GiB.); set a smaller short_side_px or mode slide, or use a smaller variant"
    )


def test_a_lost_device_is_said_and_not_asked_again(monkeypatch):
    monkeypatch.setattr(memory_fallback, "device_works", lambda device: False)
    engine, journal = Limited(8), Journal()
    guarded = FallbackEngine(engine, journal, lambda: Limited(8, "eager", "fp32"))
    engine.error = RuntimeError(CUDA_LOST)
    text = "cpu does not answer any more .CUDA error: unspecified launch failure.; restart the node"
    with pytest.raises(DeviceLostError, match=text):
        guarded(images(1), depth=True)
    engine.error = None
    with pytest.raises(DeviceLostError, match=text):
        guarded(images(1), depth=True)
    assert engine.batches == [1]
    assert journal.trouble.startswith("cpu does not answer any more")


def test_other_errors_are_not_taken_for_either():
    engine, journal = Limited(8), Journal()
    engine.error = ValueError("shapes differ")
    with pytest.raises(ValueError, match="shapes differ"):
        FallbackEngine(engine, journal)(images(1), depth=True)
    assert journal.trouble == ""
    assert journal.notes == {}


def test_a_fallback_that_cannot_be_loaded_for_memory_is_said():
    def full():
        raise torch.OutOfMemoryError(CUDA_FULL)

    with pytest.raises(DeviceMemoryError, match="cpu has too little memory for one image of 32x32"):
        FallbackEngine(Limited(0), Journal(), full)(images(1), depth=True)


CUDNN_FULL = "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"
CAPTURE = "CUDA error: operation not permitted when stream is capturing"
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"
BAD_LAUNCH = "CUDA error: invalid configuration argument"


@pytest.mark.parametrize(
    ("error", "memory", "suspect"),
    [
        (torch.OutOfMemoryError(CUDA_FULL), True, False),
        (MemoryError(), True, False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), True, False),
        (RuntimeError("TensorRT has no memory for the engine's context"), True, False),
        (RuntimeError(CUDNN_FULL), True, False),
        (torch.AcceleratorError("CUDA error: out of memory"), True, False),
        (RuntimeError(CUDA_LOST), False, True),
        (torch.AcceleratorError(CUDA_LOST), False, True),
        (torch.AcceleratorError(CAPTURE), False, True),
        (torch.AcceleratorError(NO_KERNEL), False, True),
        (torch.AcceleratorError(BAD_LAUNCH), False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), False, True),
        (ValueError("CUDA error"), False, False),
    ],
)
def test_only_a_device_that_does_not_answer_is_lost(monkeypatch, error, memory, suspect):
    cpu = torch.device("cpu")
    assert is_out_of_memory(error) == memory
    assert not is_device_lost(error, cpu)  # a real operation on it succeeds
    monkeypatch.setattr(memory_fallback, "device_works", lambda device: False)
    assert is_device_lost(error, cpu) == suspect


def test_a_device_is_asked_by_an_operation(monkeypatch):
    assert device_works(torch.device("cpu"))

    def failing(*_, **__):
        raise torch.AcceleratorError(CUDA_LOST)

    monkeypatch.setattr(memory_fallback.torch, "ones", failing)
    assert not device_works(torch.device("cpu"))


def test_every_batch_is_announced_and_the_end():
    seen = []
    engine = FallbackEngine(Limited(8), Journal())
    engine.attach(lambda sizes: seen.append(tuple(sizes)), lambda: seen.append("closed"))
    engine(images(2), depth=True)
    engine.close()
    assert seen == [(2, 3, 32, 32), "closed"]
