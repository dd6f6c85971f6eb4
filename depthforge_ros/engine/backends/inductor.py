# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own compiler, ahead of time: C++ and OpenMP on a CPU, Triton on a GPU.

The result is a package with a shared library and the weights in it. Loading it compiles nothing.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import torch

from depthforge_ros.engine.backends.cuda_graph import GraphedProgram
from depthforge_ros.engine.engine import DTYPES, Program, Shape
from depthforge_ros.network.deploy import Folded
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.export import export_network

PACKAGE = "network.pt2"
COMPILERS = ("g++", "clang++")


def missing(device: torch.device) -> str:
    """What is not there to run a compiled package on the device; empty: everything is."""
    if not hasattr(torch._inductor, "aoti_load_package"):
        return f"inductor needs PyTorch 2.6 or later; this is {torch.__version__}"
    if device.type not in ("cpu", "cuda"):
        return f"inductor is not prepared for device {device}"
    return ""


def missing_to_build(device: torch.device) -> str:
    """What is not there to compile for the device; empty: everything is."""
    if not any(shutil.which(name) for name in COMPILERS):
        return f"inductor needs a C++ compiler to build: one of {', '.join(COMPILERS)}"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "inductor needs triton to build for CUDA"
    return missing(device)


def versions() -> dict[str, str]:
    """What a package depends on, beyond the device."""
    return {}


def build(network: DepthForge, shape: Shape, precision: str, folder: Path) -> None:
    """Compile a network into `folder`, which exists and is empty."""
    folded = Folded(network, None if precision == "fp32" else DTYPES[precision])
    program = export_network(folded, shape.height, shape.width, shape.batch)
    # Else the number of threads of this process is written into the code.
    options = {"cpp.dynamic_threads": True}
    if network.mean.device.type == "cpu":
        options["freezing"] = True  # weights laid out for oneDNN once, not at every frame
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / PACKAGE), inductor_configs=options
        )


def load(folder: Path, shape: Shape, device: torch.device) -> Program:
    """The compiled network, ready to run."""
    on_gpu = device.type == "cuda"
    index = device.index if on_gpu and device.index is not None else -1
    package = torch._inductor.aoti_load_package(
        str(folder / PACKAGE), run_single_threaded=on_gpu, device_index=index
    )
    if not on_gpu:
        return package
    images = torch.zeros(shape.sizes, dtype=torch.uint8, device=device)
    with torch.cuda.device(device), torch.inference_mode():
        return GraphedProgram(package, images)
