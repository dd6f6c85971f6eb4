# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs without CUDA: a fake records on which stream, device and mode a capture runs."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest
import torch
from paths import TINY_YAML

from depthforge_ros.engine import eager as eager_module
from depthforge_ros.engine.backends import cuda_graph
from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.engine.load import load_network
from depthforge_ros.engine.self_check import Shape, check_images
from depthforge_ros.variant import load_variant

CPU = torch.device("cpu")


class FakeCuda:
    """Stands in for torch.cuda: a replay runs the captured operation once more."""

    def __init__(self):
        self.events = []
        self.now = "default"
        self.failure = None

    class Stream:
        def __init__(self, device):
            self.device = device

        def wait_stream(self, other):
            pass

        def synchronize(self):
            pass

    class CUDAGraph:
        def replay(self):
            pass

    def current_stream(self, device):
        return self.Stream(device)

    @contextlib.contextmanager
    def device(self, device):
        self.events.append(("device", device))
        yield

    @contextlib.contextmanager
    def stream(self, stream):
        self.now = "own"
        yield
        self.now = "default"

    @contextlib.contextmanager
    def graph(self, graph, *, stream, capture_error_mode):
        self.events.append(("capture", type(stream).__name__, capture_error_mode))
        if self.failure is not None:
            raise self.failure
        yield


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    for name in ("device", "Stream", "CUDAGraph", "current_stream", "stream", "graph"):
        monkeypatch.setattr(cuda_graph.torch.cuda, name, getattr(fake, name))
    return fake


def test_a_capture_is_on_a_stream_of_its_own_and_leaves_other_threads_alone(cuda):
    streams = []

    def program(images):
        streams.append(cuda.now)
        return images + 1, images + 2

    images = torch.zeros(2, 3)
    graphed = cuda_graph.GraphedProgram(program, images)
    assert streams == ["own"] * cuda_graph.WARM_UPS + ["default"]
    assert cuda.events == [("device", CPU), ("capture", "Stream", "thread_local")]
    first, second = graphed(torch.ones(2, 3)), graphed(torch.ones(2, 3))
    assert first[0].data_ptr() != second[0].data_ptr()  # copies, not the buffers


@pytest.fixture
def engine(cuda):
    network = load_network(load_variant(TINY_YAML), "untrained")
    made = EagerEngine(network, CPU, graphed=True)
    assert not made._graphed  # not on a CPU
    made._graphed = True
    return made


def captures(cuda):
    return [event for event in cuda.events if event[0] == "capture"]


def test_eager_captures_each_shape_once_and_a_few_at_most(engine, cuda):
    expected = EagerEngine(load_network(load_variant(TINY_YAML), "untrained"), CPU)
    images = check_images(Shape(64, 96))
    for depth in (True, False, True):
        seen = engine(images, depth=depth)
        assert torch.equal(seen.scores, expected(images, depth=depth).scores)
        assert (seen.depth is not None) == depth
    assert len(captures(cuda)) == 2  # with depth and without
    for batch in range(2, 6):
        engine(check_images(Shape(64, 64, batch)), depth=True)
    assert len(captures(cuda)) == eager_module.MAX_GRAPHS


def test_the_tables_of_a_captured_size_outlive_other_sizes(engine):
    """The graph has the addresses of its tensors: they must not be freed."""
    engine(check_images(Shape(64, 96)), depth=True)
    tables = weakref.ref(engine._at_size(64, 96))
    for side in range(1, 6):
        engine._at_size(32, 32 * side)
    assert engine._at_size.cache_info().currsize == 4
    gc.collect()
    assert tables() is not None


def test_eager_runs_without_a_graph_where_capture_fails(engine, cuda, caplog):
    cuda.failure = torch.AcceleratorError("CUDA error: operation not permitted when capturing")
    images = check_images(Shape(64, 96))
    assert engine(images, depth=True).scores.shape == (1, 19, 64, 96)
    engine(images, depth=True)
    assert len(captures(cuda)) == 1
    assert "eager runs without a CUDA graph: CUDA error: operation not perm" in caplog.text
    cuda.failure = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        engine(check_images(Shape(64, 64)), depth=True)


def test_the_reference_computes_without_tf32(monkeypatch):
    """cuDNN's convolutions would keep ten bits of the mantissa by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    EagerEngine(load_network(load_variant(TINY_YAML), "untrained"), CPU)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
