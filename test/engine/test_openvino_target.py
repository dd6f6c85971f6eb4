# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on another device than the CPU, with its CPU in the place of a GPU that is not here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from paths import TINY_YAML

from depthforge_ros.engine import Journal, Request, Shape, build_engine, select_engine
from depthforge_ros.engine.backends import BACKENDS, backend_on, openvino
from depthforge_ros.engine.cache import EngineCache
from depthforge_ros.engine.load import load_network
from depthforge_ros.engine.self_check import check_images
from depthforge_ros.variant import load_variant

SHAPE = Shape(64, 96)
CPU = torch.device("cpu")


class OneGpu:
    """OpenVINO's core on a machine with an Intel GPU, which its CPU computes for."""

    def __init__(self, core):
        self._core = core
        self.asked = []

    available_devices = ("CPU", "GPU", "NPU")

    def _real(self, device):
        self.asked.append(device)
        assert device in ("CPU", "GPU", "GPU.0")
        return "CPU"

    def get_property(self, device, name):
        if device != "CPU" and name == "OPTIMIZATION_CAPABILITIES":
            return ["FP32", "INT8", "EXPORT_IMPORT"]
        if device != "CPU" and name == "FULL_DEVICE_NAME":
            return "Intel Arc (iGPU)"
        return self._core.get_property(self._real(device), name)

    def read_model(self, file):
        return self._core.read_model(file)

    def compile_model(self, model, device, options):
        assert ("INFERENCE_NUM_THREADS" in options) == (device == "CPU")
        return self._core.compile_model(model, self._real(device), options)

    def import_model(self, tensor, device, options):
        return self._core.import_model(tensor, self._real(device), options)


@pytest.fixture
def gpu(monkeypatch):
    core = OneGpu(openvino._core())
    monkeypatch.setattr(openvino, "_core", lambda: core)
    return core


def build_here(job, tell, keep_going):
    network = load_network(load_variant(job.variant), job.checkpoint)
    shape = Shape(job.height, job.width, job.batch)
    backend = backend_on(job.backend, openvino.target_of(job.device))
    backend.build(network.eval().requires_grad_(False), shape, job.precision, Path(job.folder))


def request(tmp_path, **changes):
    known = Request(
        str(TINY_YAML), "untrained", "gpu", shapes=(SHAPE,), cache=EngineCache(tmp_path / "cache")
    )
    return dataclasses.replace(known, **changes)


def never(job, tell, keep_going):
    pytest.fail(f"{job} was not to be built")


def test_names_of_openvinos_devices_are_told_from_pytorchs(gpu):
    assert [openvino.target_of(name) for name in ("GPU", "gpu.0", "NPU")] == ["GPU", "GPU.0", "NPU"]
    for name in ("auto", "cpu", "CPU", "cuda", "cuda:1", "GPUs", "AUTO:GPU"):
        assert openvino.target_of(name) == ""
    reason = r"device 'GPU.1' is not available; OpenVINO has CPU, GPU, NPU"
    with pytest.raises(ValueError, match=reason):
        openvino.target_of("GPU.1")


def test_with_several_gpus_the_first_is_gpu(gpu):
    gpu.available_devices = ("CPU", "GPU.0", "GPU.1")
    assert [openvino.target_of(name) for name in ("GPU", "GPU.1")] == ["GPU", "GPU.1"]
    with pytest.raises(ValueError, match=r"'NPU' is not available; OpenVINO has CPU, GPU.0, GPU.1"):
        openvino.target_of("NPU")


def test_a_device_that_this_machine_lacks_is_named_before_anything_is_loaded(tmp_path):
    lacking = next(d for d in ("NPU", "GPU") if d not in openvino._core().available_devices)
    with pytest.raises(ValueError, match=rf"device '{lacking}' is not available; OpenVINO has CPU"):
        select_engine(request(tmp_path, device=lacking, checkpoint="no such file"))


def test_without_openvino_its_devices_are_refused(monkeypatch):
    monkeypatch.setattr(openvino.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="'NPU' is one of OpenVINO, which is not installed"):
        openvino.target_of("NPU")


@pytest.mark.parametrize("backend", ["eager", "tensorrt"])
def test_other_backends_cannot_use_the_device(gpu, backend, tmp_path):
    reason = f"backend is '{backend}'; expected auto or openvino for the device 'gpu'"
    with pytest.raises(ValueError, match=reason):
        select_engine(request(tmp_path, backend=backend))


def test_the_engine_is_built_for_the_device_checked_and_found_again(gpu, tmp_path):
    journal = Journal()
    engine = select_engine(request(tmp_path), journal, build=build_here)
    assert (engine.backend, engine.precision, engine.device) == ("openvino", "fp32", CPU)
    assert set(gpu.asked) == {"GPU"}
    assert journal.self_check.startswith("openvino fp32: labels agree on")
    images = check_images(SHAPE)
    eager = build_engine(load_variant(TINY_YAML), "untrained", device="cpu")
    expected = eager(images, depth=True)
    seen = engine(images, depth=True)
    torch.testing.assert_close(seen.scores, expected.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(seen.depth, expected.depth, rtol=1e-4, atol=1e-4)
    assert select_engine(request(tmp_path), build=never).backend == "openvino"
    (key,) = EngineCache(tmp_path / "cache").keys()
    assert key["openvino_device"] == "GPU Intel Arc (iGPU)"
    on_cpu = request(tmp_path, device="cpu")  # auto on the CPU has an engine of the GPU for nothing
    assert select_engine(on_cpu, build=never).backend == "eager"


def test_where_the_device_cannot_build_eager_runs_and_says_why(gpu, tmp_path):
    def failing(job, tell, keep_going):
        assert job.device == "GPU"
        raise RuntimeError("the driver does not know GridSample")

    journal = Journal()
    engine = select_engine(request(tmp_path), journal, build=failing)
    assert engine.backend == "eager"
    assert journal.refused[0][0] == "openvino fp32"
    assert "does not know GridSample" in journal.refused[0][1]


def test_only_openvino_has_other_devices():
    assert backend_on("tensorrt") is BACKENDS["tensorrt"]
    assert backend_on("openvino") is BACKENDS["openvino"]
    assert backend_on("openvino", "NPU").target == "NPU"


def test_a_precision_that_a_device_lacks_is_named_with_it():
    with pytest.raises(RuntimeError, match="NPU has no instructions for fp32; it has fp16"):
        openvino.require_precision("fp32", ["FP16", "INT8"], "NPU")
