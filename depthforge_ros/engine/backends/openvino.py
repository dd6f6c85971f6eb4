# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the CPU, an Intel GPU or an NPU. Only in functions here is its library imported.

The exported graph, rewritten for OpenVINO, is compiled once; loading the result compiles its
kernels for this processor, in a second or two.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import mmap
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from depthforge_ros.engine.backends.onnx_graph import (
    OUTPUTS,
    GraphError,
    GraphInfo,
    convert,
    write_graph,
)
from depthforge_ros.engine.engine import Program, Shape
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.variant import Variant

MODEL = "network.blob"
INFO = "graph.json"
DEVICE = "CPU"
TARGET = re.compile(r"(GPU|NPU)(\.\d+)?", re.IGNORECASE)
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
TO_BUILD = ("onnx", "onnxscript")


def target_of(device: str) -> str:
    """Return the name of an Intel GPU or NPU in OpenVINO, such as GPU.1; empty for other devices.

    device: a parameter. Raises ValueError naming the devices that OpenVINO has.
    """
    if not TARGET.fullmatch(device):
        return ""
    target = device.upper()
    if importlib.util.find_spec("openvino") is None:
        raise ValueError(f"device {device!r} is one of OpenVINO, which is not installed")
    available = _core().available_devices
    kind, _, index = target.partition(".")
    aliases = {target} | ({f"{kind}.0"} if not index else {kind} if index == "0" else set())
    if not aliases & set(available):
        raise ValueError(f"device {device!r} is not available; OpenVINO has {', '.join(available)}")
    return target


def target_precisions(target: str) -> tuple[str, ...]:
    """Return the precisions in which a device other than the CPU computes, the preferred first."""
    capabilities = _core().get_property(target, "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name in ("fp16", "bf16", "fp32") if name.upper() in capabilities)


class OnTarget:
    """The backend on a device of OpenVINO other than the CPU; images and outputs are on the CPU."""

    def __init__(self, target: str) -> None:
        self.target = target

    def missing(self, device: torch.device) -> str:
        """Return what is missing; see Backend."""
        return missing(device)

    def missing_to_build(self, device: torch.device) -> str:
        """Return what is missing; see Backend."""
        return missing_to_build(device)

    def versions(self) -> dict[str, str]:
        """Return the version of OpenVINO, and which device it is."""
        name = _core().get_property(self.target, "FULL_DEVICE_NAME")
        return versions() | {"openvino_device": f"{self.target} {name}"}

    def build(self, network: DepthForge, shape: Shape, precision: str, folder: Path) -> None:
        """Compile a network; see Backend."""
        build(network, shape, precision, folder, self.target)

    def load(self, folder: Path, shape: Shape, device: torch.device) -> Program:
        """Load what `build` wrote; see Backend."""
        return load(folder, shape, device, self.target)


def missing(device: torch.device) -> str:
    """Return what is missing to run on the device; empty if nothing is."""
    if device.type != "cpu":
        return f"openvino runs on the CPU; the device is {device}"
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed"
    return ""


def missing_to_build(device: torch.device) -> str:
    """Return what is missing to build for the device; empty if nothing is."""
    absent = [name for name in TO_BUILD if importlib.util.find_spec(name) is None]
    if absent and not missing(device):
        return f"openvino engines are built from ONNX, and {' and '.join(absent)} is not installed"
    return missing(device)


def versions() -> dict[str, str]:
    """Return the version of OpenVINO, by which a compiled network is bound."""
    try:
        return {"openvino": importlib.metadata.version("openvino")}
    except importlib.metadata.PackageNotFoundError:
        return {"openvino": "absent"}


def build(
    network: DepthForge, shape: Shape, precision: str, folder: Path, target: str = DEVICE
) -> None:
    """Compile a network into `folder`, which exists and is empty. target: a device of OpenVINO.

    Raises RuntimeError if the device does not compute in that precision.
    """
    capabilities = _core().get_property(target, "OPTIMIZATION_CAPABILITIES")
    require_precision(precision, capabilities, target)
    with tempfile.TemporaryDirectory(prefix="depthforge_graph_") as temporary:
        graph = Path(temporary) / "network.onnx"
        write_graph(convert(network, shape, for_openvino=True), graph)
        compiled, info = compile_graph(graph, network.variant, shape, precision, target)
    described = dataclasses.asdict(info) | {"precision": precision}
    (folder / INFO).write_text(json.dumps(described, indent=1), "utf-8")
    (folder / MODEL).write_bytes(compiled.export_model().getvalue())


def load(folder: Path, shape: Shape, device: torch.device, target: str = DEVICE) -> Program:
    """Load what `build` wrote into `folder`, ready to run.

    Raises GraphError if it is for another shape or damaged, or if this OpenVINO does not take it.
    """
    import openvino

    try:
        info = json.loads((folder / INFO).read_text("utf-8"))
        found, precision = info["shape"], info["precision"]
        hint = HINTS[precision]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraphError(f"{folder / INFO} does not describe a network: {error!r}") from error
    if found != str(shape):
        raise GraphError(f"{folder / MODEL} is for images of {found}; expected {shape}")
    try:
        mapped = _mapped(folder / MODEL)
        tensor = openvino.Tensor(np.frombuffer(mapped, np.uint8), shared_memory=True)
        compiled = _core().import_model(tensor, target, _options(hint, target))
    except (RuntimeError, ValueError) as error:
        raise GraphError(
            f"OpenVINO {versions()['openvino']} does not take {folder / MODEL}: {_reason(error)}"
        ) from error
    mapped.madvise(mmap.MADV_DONTNEED)  # what is not read again, weights in another layout
    return _Runner(compiled, tensor)


def _mapped(file: Path) -> mmap.mmap:
    """Map a file: memory of weights that the system can take back. Raises ValueError if empty."""
    with file.open("rb") as opened:
        # OpenVINO takes no read-only memory. Nothing writes, so all pages stay those of the file.
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)


def compile_graph(
    file: Path, variant: Variant, shape: Shape, precision: str, target: str = DEVICE
) -> tuple[Any, GraphInfo]:
    """Compile an exported ONNX file; return OpenVINO's compiled model and the file's metadata.

    Raises GraphError if the file is damaged, was not written by `depthforge export`, or is for
    other classes or another shape.
    """
    core = _core()
    try:
        model = core.read_model(file)
    except RuntimeError as error:
        raise GraphError(f"OpenVINO cannot read {file}: {_reason(error)}") from error
    info = GraphInfo.from_metadata(_metadata(model), str(file))
    info.require(variant, shape, str(file))
    return core.compile_model(model, target, _options(HINTS[precision], target)), info


def run_graph(file: Path, variant: Variant, shape: Shape, precision: str) -> Program:
    """Return the program of an exported ONNX file. Raises what `compile_graph` raises."""
    return _Runner(compile_graph(file, variant, shape, precision)[0])


def require_precision(precision: str, capabilities: Iterable[str], target: str = DEVICE) -> None:
    """Raise RuntimeError if the device lacks a precision. capabilities: as OpenVINO names them.

    OpenVINO would emulate it, slower than fp32.
    """
    if precision.upper() not in capabilities:
        supported = [name for name in HINTS if name.upper() in capabilities]
        which = "this processor" if target == DEVICE else target
        raise RuntimeError(
            f"{which} has no instructions for {precision}; it has {', '.join(supported)}"
        )


class _Runner:
    """Runs a compiled network. One call at a time; outputs are new tensors at every call."""

    def __init__(self, compiled: Any, weights: Any = None) -> None:
        """weights: memory that the compiled network refers to."""
        self._request = compiled.create_infer_request()
        self._outputs = [compiled.output(name) for name in OUTPUTS]
        self._lock = threading.Lock()
        self._weights = weights

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        import openvino

        made = [torch.empty(tuple(port.shape), dtype=torch.float32) for port in self._outputs]
        with self._lock:
            for port, tensor in zip(self._outputs, made, strict=True):
                # OpenVINO writes into the tensor itself: no copy of 19 maps.
                self._request.set_tensor(port, openvino.Tensor(tensor.numpy(), shared_memory=True))
            self._request.infer({0: images.contiguous().numpy()}, share_inputs=True)
        return made[0], made[1]


def _core() -> Any:
    import openvino

    return openvino.Core()


def _options(hint: str, target: str = DEVICE) -> dict[str, object]:
    """Return the compile options: one frame at a time, on as many threads as PyTorch has."""
    options: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
    }
    if target == DEVICE:
        options |= {
            "INFERENCE_NUM_THREADS": min(torch.get_num_threads(), os.cpu_count() or 1),
            "ENABLE_CPU_PINNING": False,  # other nodes run on the same cores
        }
    return options


def _metadata(model: Any) -> Mapping[str, str]:
    if not model.has_rt_info("framework"):
        return {}
    return dict(model.get_rt_info("framework").value)


def _reason(error: Exception) -> str:
    """Return the line of OpenVINO's error that says most: the last that is not a position."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((x for x in reversed(lines) if not x.startswith("Exception from")), "no reason")
