# SPDX-License-Identifier: Apache-2.0
"""TensorRT: two builders of an engine, one runner. Its libraries are imported in functions only.

`torch_tensorrt` converts the exported graph in PyTorch; each of its releases supports one release
of TensorRT. `onnx` gives the exported ONNX file to TensorRT's own parser, which every TensorRT
since 10.3 has, those of JetPack included. Both networks are strongly typed: TensorRT computes in
the types of the graph. Deformable attention samples by gathering, because TensorRT's grid sampling
is wrong in several releases.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import inspect
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from depthforge_ros.engine.backends.cuda_graph import GraphedProgram
from depthforge_ros.engine.engine import DTYPES, Program, Shape
from depthforge_ros.network.deploy import Folded, Sampling
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.export import export_network
from depthforge_ros.resources import engines_folder

ENGINE = "network.engine"
NUM_OUTPUTS = 2  # scores and depth
TORCH_TENSORRT, ONNX = "torch_tensorrt", "onnx"
BUILDER_VARIABLE = "DEPTHFORGE_TENSORRT_BUILDER"
"""Environment variable that names the builder."""
MIN_TENSORRT = (10, 3)
MIN_TORCH_TENSORRT = (2, 6)
"""The first release whose engines can be strongly typed."""
TEGRA_RELEASE = Path("/etc/nv_tegra_release")
"""Exists on Jetsons."""
ONNX_MODULES = ("onnx", "onnxscript")


def missing(device: torch.device) -> str:
    """Return what is missing to run an engine on the device; empty if nothing is."""
    if device.type != "cuda":
        return f"tensorrt needs an NVIDIA GPU; the device is {device}"
    version = tensorrt_version()
    if not version:
        return "tensorrt is not installed"
    if _numbers(version) < MIN_TENSORRT:
        return f"tensorrt is {version}; expected 10.3 or later"
    return ""


def missing_to_build(device: torch.device) -> str:
    """Return what is missing to build for the device; empty if nothing is."""
    if reason := missing(device):
        return reason
    requested = os.environ.get(BUILDER_VARIABLE, "")
    if requested not in ("", TORCH_TENSORRT, ONNX):
        return f"{BUILDER_VARIABLE} is {requested!r}; expected {TORCH_TENSORRT} or {ONNX}"
    if builder() == TORCH_TENSORRT:
        return torch_tensorrt_fault()
    absent = [name for name in ONNX_MODULES if importlib.util.find_spec(name) is None]
    return f"the builder onnx needs {' and '.join(absent)}" if absent else ""


def versions() -> dict[str, str]:
    """Return the versions that an engine depends on, besides PyTorch's."""
    return {
        "tensorrt": tensorrt_version() or "absent",
        "builder": builder(),
        "torch_tensorrt": _distribution_version(TORCH_TENSORRT) or "absent",
    }


def tensorrt_version() -> str:
    """Return the version of the TensorRT that is imported; empty if there is none.

    Its distributions have several names, and JetPack installs it without one.
    """
    try:
        import tensorrt
    except (ImportError, OSError):  # absent, or without its libraries
        return ""
    return tensorrt.__version__


def builder() -> str:
    """Return the builder: the requested one, else torch_tensorrt where it fits, else onnx."""
    if requested := os.environ.get(BUILDER_VARIABLE, ""):
        return requested
    if TEGRA_RELEASE.exists() or torch_tensorrt_fault():
        return ONNX
    return TORCH_TENSORRT


def torch_tensorrt_fault() -> str:
    """Return why torch-tensorrt cannot build for the installed TensorRT; empty if it can."""
    version, tensorrt = _distribution_version(TORCH_TENSORRT), tensorrt_version()
    if not version:
        return "torch_tensorrt is not installed"
    if _numbers(version) < MIN_TORCH_TENSORRT:
        return f"torch_tensorrt is {version}; expected 2.6 or later, which types engines strongly"
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires(TORCH_TENSORRT) or ():
        need = Requirement(text)
        applies = need.name.startswith("tensorrt") and need.specifier
        if not applies or (need.marker is not None and not need.marker.evaluate({"extra": ""})):
            continue
        if not need.specifier.contains(tensorrt, prereleases=True):
            return f"torch_tensorrt {version} needs {need.name}{need.specifier}, not {tensorrt}"
    return ""


def build(network: DepthForge, shape: Shape, precision: str, folder: Path) -> None:
    """Compile a network on its CUDA device into `folder`, which exists and is empty.

    Raises ValueError or RuntimeError, or what a builder raises, if an operator cannot be
    converted: the whole graph becomes one engine or none.
    """
    make = _build_torch_tensorrt if builder() == TORCH_TENSORRT else _build_onnx
    device: torch.device = network.mean.device  # type: ignore[assignment]
    with torch.cuda.device(device), _timing_cache(device) as cache:
        serialized = make(network, shape, precision, cache)
    (folder / ENGINE).write_bytes(serialized)


def load(folder: Path, shape: Shape, device: torch.device) -> Program:
    """Load an engine, ready to run. Raises RuntimeError if TensorRT does not accept it."""
    images = torch.zeros(shape.sizes, dtype=torch.uint8, device=device)
    with torch.cuda.device(device), torch.inference_mode():
        return _Graphed(_Runner((folder / ENGINE).read_bytes(), device), images)


def _build_torch_tensorrt(
    network: DepthForge, shape: Shape, precision: str, timing_cache: Path
) -> bytes:
    import torch_tensorrt

    device: torch.device = network.mean.device  # type: ignore[assignment]
    folded = Folded(network, None if precision == "fp32" else DTYPES[precision], Sampling.GATHER)
    # Images become floats outside of the engine, which then needs no bytes.
    program = export_network(
        folded, shape.height, shape.width, shape.batch, images_type=torch.float32
    )
    convert = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine
    options = {
        "device": device,
        "use_explicit_typing": True,  # 2.6 to 2.9 build fp32 engines without it
        "disable_tf32": True,
        "require_full_compilation": True,
        "attn_bias_is_causal": False,  # the default makes masks of queries causal
        "cache_built_engines": False,
        "reuse_cached_engines": False,
        "timing_cache_path": str(timing_cache),
    }
    return convert(
        program,
        arg_inputs=[torch.zeros(shape.sizes, device=device)],
        **_accepted(convert, options),
    )


def _build_onnx(network: DepthForge, shape: Shape, precision: str, timing_cache: Path) -> bytes:
    import tempfile

    import tensorrt

    from depthforge_ros.engine.backends.onnx_graph import convert, write_graph

    with tempfile.TemporaryDirectory(prefix="depthforge_onnx_") as folder:
        file = Path(folder) / "network.onnx"
        write_graph(convert(network.cpu(), shape, precision), file)
        return build_onnx_file(tensorrt, file, timing_cache)


def build_onnx_file(tensorrt, file: Path, timing_cache: Path) -> bytes:
    """Return the serialized engine of an ONNX file. tensorrt: the module.

    Raises RuntimeError naming the node that the parser refuses.
    """
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    typed = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    definition = builder.create_network(typed)
    parser = tensorrt.OnnxParser(definition, logger)
    if not parser.parse_from_file(str(file)):
        faults = [parser.get_error(index) for index in range(parser.num_errors)]
        texts = [f"{f.node_operator()} {f.node_name()}: {f.desc()}" for f in faults]
        raise RuntimeError(f"TensorRT's parser refuses {'; '.join(texts) or 'the file'}")
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)  # fp32 means fp32
    known = timing_cache.read_bytes() if timing_cache.is_file() else b""
    config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    serialized = builder.build_serialized_network(definition, config)
    if serialized is None:
        raise RuntimeError("TensorRT could not build the engine; its log says why")
    timing_cache.write_bytes(config.get_timing_cache().serialize())
    return bytes(serialized)


@contextlib.contextmanager
def _timing_cache(device: torch.device) -> Iterator[Path]:
    """Yield a copy of the lasting timing cache, and keep what the builder made of it.

    It holds the measured times of kernels, so that later builds are faster.
    """
    gpu = torch.cuda.get_device_properties(device)
    name = f"{gpu.name}-{gpu.multi_processor_count}-{tensorrt_version()}"
    lasting = engines_folder() / f"timing-{''.join(c if c.isalnum() else '_' for c in name)}.cache"
    copy = lasting.with_name(f"{lasting.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # an unwritable folder only makes builds slower
        lasting.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if lasting.is_file():
            shutil.copyfile(lasting, copy)
    try:
        yield copy
        with contextlib.suppress(OSError):
            copy.replace(lasting)
    finally:
        copy.unlink(missing_ok=True)


def _accepted(function: Callable, options: dict) -> dict:
    """Return the options that are parameters of a function: they differ between releases."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in parameters}


def _distribution_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, int]:
    """Return major and minor of a version."""
    major, minor, *_ = (*version.split("."), "0")
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


class _Graphed:
    """A runner in a CUDA graph of its own. kernels: the runner, for a larger graph."""

    def __init__(self, runner: _Runner, images: Tensor) -> None:
        self.kernels = runner
        self._graphed = GraphedProgram(runner, images)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores, depth = self._graphed(images)
        return scores, depth


class _Runner:
    """Runs an engine on the current stream, with buffers of its own."""

    def __init__(self, serialized: bytes, device: torch.device) -> None:
        import tensorrt

        types = {
            tensorrt.DataType.FLOAT: torch.float32,
            tensorrt.DataType.HALF: torch.float16,
            tensorrt.DataType.BF16: torch.bfloat16,
            tensorrt.DataType.UINT8: torch.uint8,
        }
        logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        self._runtime = tensorrt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(serialized)
        if self._engine is None:
            raise RuntimeError("TensorRT does not accept the engine; its log says why")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise RuntimeError("TensorRT has no memory for the engine's context")
        self._buffers: dict[str, Tensor] = {}
        inputs: list[str] = []
        outputs: list[str] = []
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            buffer = torch.empty(
                tuple(self._engine.get_tensor_shape(name)),
                dtype=types[self._engine.get_tensor_dtype(name)],
                device=device,
            )
            is_input = self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
            (inputs if is_input else outputs).append(name)
            self._buffers[name] = buffer
            self._context.set_tensor_address(name, buffer.data_ptr())
        if len(inputs) != 1 or len(outputs) != NUM_OUTPUTS:
            raise RuntimeError(
                f"engine has inputs {inputs} and outputs {outputs}; expected 1 and 2"
            )
        self._input = self._buffers[inputs[0]]
        # By rank, not by name: scores [B, K, h, w], depth [B, h, w].
        self._depth, self._scores = sorted((self._buffers[n] for n in outputs), key=Tensor.dim)
        self._device = device

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self._input.copy_(images)
        stream = torch.cuda.current_stream(self._device).cuda_stream
        if not self._context.execute_async_v3(stream):
            raise RuntimeError("TensorRT could not start the engine; its log says why")
        return self._scores.float(), self._depth.float()
