# SPDX-License-Identifier: Apache-2.0
"""TensorRT without a GPU: fakes of its libraries record what they are asked for.

The names of the fakes' functions and options are those in the wheels of TensorRT 10.3, 11.0 and
11.4 and of torch-tensorrt 2.5, 2.6, 2.8, 2.9, 2.13 and 2.14.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import inspect
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from depthforge_ros.engine.backends import onnx_graph
from depthforge_ros.engine.backends import tensorrt as backend
from depthforge_ros.engine.build_subprocess import _description
from depthforge_ros.engine.engine import Shape

CUDA = torch.device("cuda", 1)
SHAPE = Shape(64, 96)


def module(monkeypatch, name, **content):
    fake = ModuleType(name)
    fake.__spec__ = importlib.machinery.ModuleSpec(name, None)
    for key, value in content.items():
        setattr(fake, key, value)
    monkeypatch.setitem(sys.modules, name, fake)
    return fake


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Install versions of both libraries, by what their wheels require."""
    monkeypatch.setattr(backend, "TEGRA_RELEASE", tmp_path / "absent")
    monkeypatch.delenv(backend.BUILDER_VARIABLE, raising=False)

    def install(tensorrt, torch_tensorrt="", needs=()):
        module(monkeypatch, "tensorrt", __version__=tensorrt)
        monkeypatch.setattr(backend, "_distribution_version", lambda name: torch_tensorrt)
        monkeypatch.setattr(backend.importlib.metadata, "requires", lambda name: list(needs))

    return install


JETPACK_6 = [
    'tensorrt<10.13.0,>=10.12.0; "tegra" not in platform_release',
    'tensorrt<10.4.0,>=10.3.0; "tegra" in platform_release',
]


@pytest.mark.parametrize(
    ("versions", "builder", "reason"),
    [
        # desktop, the pair that the wheel of 2.13 and of 2.14 pins
        (("11.0.0.114", "2.13.0", ["tensorrt<11.1.0,>=11.0.0"]), "torch_tensorrt", ""),
        (("11.1.0.106", "2.14.0", ["tensorrt-cu13<11.2.0,>=11.1.0"]), "torch_tensorrt", ""),
        # JetPack 7: a TensorRT that no release supports
        (
            ("10.13.3.9", "2.14.0", ["torch<2.15.0", "tensorrt-cu13<11.2.0,>=11.1.0"]),
            "onnx",
            "torch_tensorrt 2.14.0 needs tensorrt-cu13<11.2.0,>=11.1.0, not 10.13.3.9",
        ),
        # markers count: this machine is no Jetson
        (("10.12.0.36", "2.8.0", JETPACK_6), "torch_tensorrt", ""),
        (
            ("10.3.0", "2.8.0", JETPACK_6),
            "onnx",
            "torch_tensorrt 2.8.0 needs tensorrt<10.13.0,>=10.12.0, not 10.3.0",
        ),
        (
            ("10.3.0", "2.5.0", ["tensorrt-cu12 (==10.3.0)"]),
            "onnx",
            "torch_tensorrt is 2.5.0; expected 2.6 or later, which types engines strongly",
        ),
        (("10.3.0",), "onnx", "torch_tensorrt is not installed"),
    ],
    ids=["desktop", "only_cu13", "jetpack_7", "2.8", "not_tegra", "2.5", "alone"],
)
def test_the_builder_is_the_one_that_supports_the_installed_tensorrt(
    installed, versions, builder, reason
):
    installed(*versions)
    assert backend.builder() == builder
    assert backend.torch_tensorrt_fault() == reason
    assert backend.missing_to_build(CUDA) == ""
    assert backend.versions() == {
        "tensorrt": versions[0],
        "builder": builder,
        "torch_tensorrt": versions[1] if len(versions) > 1 else "absent",
    }


def test_a_jetson_builds_from_onnx_unless_told_otherwise(installed, monkeypatch, tmp_path):
    installed("10.3.0", "2.8.0", ["tensorrt>=10.3.0"])
    (tmp_path / "release").write_text("# R36")
    monkeypatch.setattr(backend, "TEGRA_RELEASE", tmp_path / "release")
    assert backend.builder() == "onnx"
    monkeypatch.setenv(backend.BUILDER_VARIABLE, "torch_tensorrt")
    assert backend.builder() == "torch_tensorrt"
    monkeypatch.setenv(backend.BUILDER_VARIABLE, "trtexec")
    assert backend.missing_to_build(CUDA) == (
        "DEPTHFORGE_TENSORRT_BUILDER is 'trtexec'; expected torch_tensorrt or onnx"
    )


def test_an_old_or_absent_tensorrt_is_named(installed, monkeypatch):
    installed("8.6.1")
    assert backend.missing(CUDA) == "tensorrt is 8.6.1; expected 10.3 or later"
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # the import fails
    assert backend.missing(CUDA) == "tensorrt is not installed"
    assert backend.versions()["tensorrt"] == "absent"
    assert backend.missing(torch.device("cpu")) == (
        "tensorrt needs an NVIDIA GPU; the device is cpu"
    )


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A second GPU that notes which device is current."""
    entered = []

    @contextlib.contextmanager
    def current(device):
        entered.append(device)
        yield

    properties = SimpleNamespace(name="NVIDIA Thor", multi_processor_count=20)
    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setenv("DEPTHFORGE_ENGINES", str(tmp_path / "engines"))
    return entered


class OnGpu:
    """A network on CUDA as far as the builder looks."""

    mean = SimpleNamespace(device=CUDA)

    def cpu(self):
        return self


def release_2_8(
    exported_program, arg_inputs=None, device=None, require_full_compilation=False,
    disable_tf32=False, use_explicit_typing=False, timing_cache_path="", **kwargs,
):  # fmt: skip
    release_2_8.asked = locals() | {"timings": read(timing_cache_path)}
    with open(timing_cache_path, "ab") as file:
        file.write(b"measured ")
    return b"engine"


def release_2_13(
    exported_program, arg_inputs=None, *, device=None, disable_tf32=False, timing_cache_path="",
    require_full_compilation=False, cache_built_engines=True, reuse_cached_engines=True,
    attn_bias_is_causal=True, **kwargs,
):  # fmt: skip
    release_2_13.asked = locals() | {"timings": read(timing_cache_path)}
    with open(timing_cache_path, "ab") as file:
        file.write(b"measured ")
    return b"engine"


def read(path):
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return file.read()
    return None


@pytest.mark.parametrize("release", [release_2_8, release_2_13])
def test_torch_tensorrt_is_asked_for_a_strongly_typed_engine_on_the_right_gpu(
    installed, gpu, monkeypatch, tmp_path, release
):
    installed("11.0.0", "2.13.0", ["tensorrt>=11.0.0"])
    dynamo = SimpleNamespace(convert_exported_program_to_serialized_trt_engine=release)
    module(monkeypatch, "torch_tensorrt", dynamo=dynamo)
    monkeypatch.setattr(backend, "Folded", lambda *args: args)
    monkeypatch.setattr(backend, "export_network", lambda *args, **kwargs: "program")
    monkeypatch.setattr(backend.torch, "zeros", lambda sizes, device: (sizes, device))
    for built, timings in (("first", None), ("second", b"measured ")):
        (tmp_path / built).mkdir()
        backend.build(OnGpu(), SHAPE, "fp16", tmp_path / built)
        assert (tmp_path / built / backend.ENGINE).read_bytes() == b"engine"
        assert [path.name for path in (tmp_path / built).iterdir()] == [backend.ENGINE]
        assert release.asked["timings"] == timings  # kept from build to build
    asked = release.asked
    assert asked["arg_inputs"] == [((1, 3, 64, 96), CUDA)]
    assert asked["device"] == CUDA
    assert asked["disable_tf32"] is True
    assert asked["require_full_compilation"] is True
    assert asked["kwargs"] == {}  # nothing that this release does not know
    assert asked.get("use_explicit_typing", True) is True
    assert asked.get("attn_bias_is_causal", False) is False
    assert gpu == [CUDA, CUDA]


class FakeTensorRT(SimpleNamespace):
    """The part of TensorRT's API that builds from an ONNX file."""

    WARNING, STRONGLY_TYPED, TF32 = 2, 1, 3

    def __init__(self, faults=(), engine=b"engine"):
        super().__init__(asked=[], faults=faults, engine=engine)
        self.Logger = lambda level: "logger"
        self.Logger.WARNING = self.WARNING
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=self.STRONGLY_TYPED)
        self.BuilderFlag = SimpleNamespace(TF32=self.TF32)
        self.Builder = lambda logger: self
        self.OnnxParser = lambda definition, logger: self
        self.num_errors = len(faults)

    def create_network(self, flags):
        self.asked.append(("network", flags))

    def parse_from_file(self, path):
        self.asked.append(("parse", read(path)))
        return not self.faults

    def get_error(self, index):
        operator, name, text = self.faults[index]
        return SimpleNamespace(
            node_operator=lambda: operator, node_name=lambda: name, desc=lambda: text
        )

    def create_builder_config(self):
        return self

    def clear_flag(self, flag):
        self.asked.append(("clear", flag))

    def create_timing_cache(self, known):
        return known

    def set_timing_cache(self, cache, ignore_mismatch):
        self.asked.append(("timings", cache, ignore_mismatch))

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: b"measured")

    def build_serialized_network(self, definition, config):
        return self.engine


def test_an_onnx_file_becomes_a_strongly_typed_engine(tmp_path):
    (tmp_path / "n.onnx").write_bytes(b"graph")
    fake = FakeTensorRT()
    for timings in (b"", b"measured"):
        fake.asked.clear()
        built = backend.build_onnx_file(fake, tmp_path / "n.onnx", tmp_path / "timings")
        assert built == b"engine"
        assert fake.asked == [
            ("network", 1 << FakeTensorRT.STRONGLY_TYPED),
            ("parse", b"graph"),
            ("clear", FakeTensorRT.TF32),
            ("timings", timings, False),
        ]


def test_the_builder_onnx_exports_the_network_that_it_parses(installed, gpu, monkeypatch, tmp_path):
    installed("10.3.0")
    fake = FakeTensorRT()
    fake.__version__ = "10.3.0"
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    signature = inspect.signature(onnx_graph.convert)
    exported = []

    def convert(*args, **kwargs):
        exported.append(signature.bind(*args, **kwargs).arguments)
        return b"graph of the network"

    monkeypatch.setattr(onnx_graph, "convert", convert)
    monkeypatch.setattr(onnx_graph, "write_graph", lambda model, file: file.write_bytes(model))
    backend.build(OnGpu(), SHAPE, "fp16", tmp_path)
    assert ("parse", b"graph of the network") in fake.asked
    assert exported[0]["shape"] == SHAPE
    assert exported[0]["precision"] == "fp16"
    assert "for_openvino" not in exported[0]  # which samples by GridSample
    assert (tmp_path / backend.ENGINE).read_bytes() == b"engine"
    assert gpu == [CUDA]


def test_a_node_that_the_parser_refuses_is_named(tmp_path):
    fake = FakeTensorRT([("GridSample", "pixel_decoder/sample", "not supported")])
    text = "TensorRT's parser refuses GridSample pixel_decoder/sample: not supported"
    with pytest.raises(RuntimeError, match=text):
        backend.build_onnx_file(fake, tmp_path / "n.onnx", tmp_path / "timings")
    with pytest.raises(RuntimeError, match="could not build the engine"):
        backend.build_onnx_file(FakeTensorRT(engine=None), tmp_path / "n.onnx", tmp_path / "t")
    assert not (tmp_path / "timings").exists()


def test_an_operator_that_torch_tensorrt_refuses_is_named_and_not_cut_off():
    """It wraps the name in an error that holds the whole graph."""

    def convert():
        try:
            raise RuntimeError("Conversion of function aten.foo.default not currently supported!")
        except RuntimeError as error:
            graph = "x = call_module[...]; " * 1000
            raise RuntimeError(f"Conversion of module {graph} not supported") from error

    with pytest.raises(RuntimeError) as caught:
        convert()
    text = _description(caught.value)[:500]
    assert text.startswith("RuntimeError: Conversion of function aten.foo.default not currently")
    assert "in RuntimeError: Conversion of module x = call_module" in text
