# SPDX-License-Identifier: Apache-2.0
"""Ways to run one network that can be compared."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from depthforge_ros.benchmark.stages import Compiled
from depthforge_ros.engine.backends import openvino
from depthforge_ros.engine.backends.onnx_graph import OnnxRuntimeEngine, convert, write_graph
from depthforge_ros.engine.engine import Program, Shape
from depthforge_ros.network.deploy import Deployed, Folded, tune
from depthforge_ros.network.depthforge import DepthForge

SETTINGS = {
    "plain": "as the authors compute it: nothing folded, softmax attention written out, fp32",
    "unfolded": "nothing folded, PyTorch's attention, fp32",
    "fp32": "the eager engine in fp32",
    "bf16": "the eager engine in bf16",
    "openvino_fp32": "the openvino engine in fp32",
    "openvino_bf16": "the openvino engine in bf16",
    "openvino_plain_fp32": "the graph of `depthforge export`, not rewritten, in OpenVINO in fp32",
    "openvino_plain_bf16": "the same in bf16",
    "onnxruntime_fp32": "the graph of `depthforge export` in ONNX Runtime on the CPU",
}


class WrittenOutAttention(TorchFunctionMode):
    """While active, attention is softmax(q·kᵀ / √D)·v in three steps."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return written_out(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def written_out(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Attention [..., N, D]; attn_mask: True where to look."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, float("-inf"))
    return logits.softmax(-1) @ v


@dataclass(frozen=True)
class Prepared:
    """A network as a setting runs it. countable: the same one as torch can count its operations."""

    network: DepthForge | Deployed | Compiled
    written_out: bool
    dtype: torch.dtype

    def mode(self) -> AbstractContextManager[Any]:
        """What has to be active while the network runs."""
        return WrittenOutAttention() if self.written_out else nullcontext()


def prepare(name: str, network: DepthForge, height: int, width: int, batch: int = 1) -> Prepared:
    """The network as SETTINGS name it, for one size. Raises ValueError naming the setting."""
    if name not in SETTINGS:
        raise ValueError(f"setting is {name!r}; expected one of {', '.join(SETTINGS)}")
    if name in ("plain", "unfolded"):
        return Prepared(network.at_size(height, width), name == "plain", torch.float32)
    if name.startswith(("openvino", "onnxruntime")):
        dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
        return Prepared(Compiled(program(name, network, Shape(height, width, batch))), False, dtype)
    half = torch.bfloat16 if name == "bf16" else None
    folded = tune(Folded(network, half))
    return Prepared(folded.at_size(height, width), False, half or torch.float32)


def program(name: str, network: DepthForge, shape: Shape) -> Program:
    """Convert the network and compile it as a setting of another runtime says."""
    runtime, precision = name.partition("_")[0], name.rpartition("_")[2]
    if network.mean.device.type != "cpu":
        raise ValueError(f"setting {name!r} runs on a CPU; the device is {network.mean.device}")
    with tempfile.TemporaryDirectory(prefix="depthforge_benchmark_") as folder:
        file = Path(folder) / "network.onnx"
        if name in ("openvino_fp32", "openvino_bf16"):
            openvino.build(network, shape, precision, Path(folder))
            return openvino.load(Path(folder), shape, torch.device("cpu"))
        write_graph(convert(network, shape), file)
        if runtime == "openvino":
            return openvino.run_graph(file, network.variant, shape, precision)
        engine = OnnxRuntimeEngine(file, network.variant, shape, torch.get_num_threads())

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        found = engine(images, depth=True)
        assert found.depth is not None
        return found.scores, found.depth

    return run


def countable(name: str, variant_network: DepthForge, height: int, width: int) -> Prepared:
    """The same setting without weights, on the meta device, for counting operations."""
    if name in ("plain", "unfolded"):
        return Prepared(variant_network.at_size(height, width), name == "plain", torch.float32)
    return Prepared(Folded(variant_network).at_size(height, width), False, torch.float32)
