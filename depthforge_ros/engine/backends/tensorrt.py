# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's compiler. Only here, and only inside functions, are its libraries imported.

torch-tensorrt turns the exported graph into one engine, which is then run by TensorRT alone. The
graph is typed by us, because TensorRT computes in the types that it is told; deformable attention
samples by gathering, because TensorRT's grid sampling is wrong in several releases.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from depthforge_ros.engine.backends.cuda_graph import GraphedProgram
from depthforge_ros.engine.engine import DTYPES, Program, Shape
from depthforge_ros.network.deploy import Folded, Sampling
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.export import export_network

ENGINE = "network.engine"
OUTPUTS = 2  # scores and depth
DISTRIBUTIONS = ("tensorrt", "torch_tensorrt")


def missing(device: torch.device) -> str:
    """What is not there to run an engine on the device; empty: everything is."""
    if device.type != "cuda":
        return f"tensorrt needs an NVIDIA GPU; the device is {device}"
    if importlib.util.find_spec("tensorrt") is None:
        return "tensorrt is not installed"
    return ""


def missing_to_build(device: torch.device) -> str:
    """What is not there to compile for the device; empty: everything is."""
    if not missing(device) and importlib.util.find_spec("torch_tensorrt") is None:
        return "torch_tensorrt, which tensorrt engines are built with, is not installed"
    return missing(device)


def versions() -> dict[str, str]:
    """What an engine depends on, beyond the device."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def build(network: DepthForge, shape: Shape, precision: str, folder: Path) -> None:
    """Compile a network into `folder`, which exists and is empty.

    Raises RuntimeError, or what torch-tensorrt raises, where an operator cannot be converted: the
    whole graph becomes one engine or none.
    """
    import torch_tensorrt

    device = network.mean.device
    folded = Folded(network, None if precision == "fp32" else DTYPES[precision], Sampling.GATHER)
    # No engine has to know bytes: images are made float outside of it.
    program = export_network(
        folded, shape.height, shape.width, shape.batch, images_type=torch.float32
    )
    serialized = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
        program,
        arg_inputs=[torch.zeros(shape.sizes, device=device)],
        device=device,
        disable_tf32=True,  # fp32 means fp32
        require_full_compilation=True,
        attn_bias_is_causal=False,  # it is by default: masks of queries would become triangles
        cache_built_engines=False,
        reuse_cached_engines=False,
        engine_cache_dir=str(folder),
        timing_cache_path=str(folder / "timing.cache"),
    )
    for left in folder.iterdir():  # the timing cache has served
        left.unlink()
    (folder / ENGINE).write_bytes(serialized)


def load(folder: Path, shape: Shape, device: torch.device) -> Program:
    """The engine, ready to run. Raises RuntimeError where TensorRT does not take it."""
    images = torch.zeros(shape.sizes, dtype=torch.uint8, device=device)
    with torch.cuda.device(device), torch.inference_mode():
        return GraphedProgram(_Runner((folder / ENGINE).read_bytes(), device), images)


class _Runner:
    """Runs an engine on the current stream. Buffers are allocated once."""

    def __init__(self, serialized: bytes, device: torch.device) -> None:
        import tensorrt

        types = {
            tensorrt.DataType.FLOAT: torch.float32,
            tensorrt.DataType.HALF: torch.float16,
            tensorrt.DataType.BF16: torch.bfloat16,
        }
        logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        self._runtime = tensorrt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(serialized)
        if self._engine is None:
            raise RuntimeError("TensorRT does not take the engine; its log says why")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise RuntimeError("TensorRT has no memory for the engine's context")
        self._buffers: dict[str, Tensor] = {}
        inputs, outputs = [], []
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
        if len(inputs) != 1 or len(outputs) != OUTPUTS:
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
