# SPDX-License-Identifier: Apache-2.0
"""Checks of versions, the GPU and the weights."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from depthforge_ros.doctor.finding import Finding, fail, ok, warn

PYTHONS = ((3, 10), (3, 12))
TORCH = (2, 4)
NUMPY_BELOW = (2, 3)
NVIDIA = Path("/proc/driver/nvidia/version")


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Check the version of Python."""
    text = ".".join(map(str, version))
    if PYTHONS[0] <= version[:2] <= PYTHONS[1]:
        return ok("python", text)
    return fail("python", text, "expected 3.10 to 3.12")


def libraries() -> Iterator[Finding]:
    """Check the libraries that the node imports besides ROS."""
    for name, module in (("torch", "torch"), ("numpy", "numpy"), ("opencv", "cv2")):
        if util.find_spec(module) is None:
            yield fail(name, "not installed", f"install it: README.md; {module} is imported")
        else:
            yield version(name, installed_version(module))
    for module in ("safetensors", "yaml"):
        if util.find_spec(module) is None:
            yield fail(module, "not installed", "install it as in README.md")


def installed_version(module: str) -> str:
    """Return the version of an importable module, "" if its metadata have none."""
    distributions = metadata.packages_distributions().get(module, []) or [module]
    try:
        return metadata.version(distributions[0])
    except metadata.PackageNotFoundError:
        return ""


def version(name: str, text: str) -> Finding:
    """Check a version of torch, numpy or opencv."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", text)[:2])
    if not numbers:
        return ok(name, "installed, version unknown")
    if name == "torch" and numbers < TORCH:
        return fail(name, text, "expected 2.4 or later: pip install 'torch>=2.4'")
    if name == "numpy" and numbers >= NUMPY_BELOW:
        return fail(name, f"{text}: cv_bridge's wheel fails with it", "pip install 'numpy<2.3'")
    return ok(name, text)


def gpu(nvidia: Path = NVIDIA) -> Iterator[Finding]:
    """Check CUDA as PyTorch sees it, and TensorRT if there is a GPU."""
    try:
        import torch
    except ImportError:
        return  # reported already
    if not torch.cuda.is_available():
        if nvidia.is_file():
            built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
            text = f"there is a driver that this PyTorch, {built}, cannot use"
            yield warn("CUDA", text, "install the PyTorch for this driver: pytorch.org")
        else:
            yield ok("CUDA", "no NVIDIA GPU: the network runs on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = f"{device.total_memory / 2**30:.0f} GiB"
        yield ok("CUDA", f"cuda:{index} {device.name}, {memory}, CUDA {torch.version.cuda}")
    missing = [name for name in ("tensorrt", "torch_tensorrt") if util.find_spec(name) is None]
    if missing:
        text = f"{' and '.join(missing)} not installed: the network runs in PyTorch"
        yield warn("TensorRT", text, "install it if speed matters")
    else:
        yield ok("TensorRT", installed_version("tensorrt") or "installed, version unknown")


def weights(variant: str, checkpoint: str) -> Finding:
    """Check that the files that the node would load exist. They are not read."""
    try:
        from depthforge_ros.engine import INSTANT, UNTRAINED
        from depthforge_ros.engine.load import checkpoint_files
        from depthforge_ros.variant import load_variant
    except ImportError as error:
        return fail("weights", f"cannot be checked: {error}", "install what is missing")
    if checkpoint in (INSTANT, UNTRAINED):
        return warn("weights", f"{checkpoint}: masks mean nothing", "train or fetch weights")
    remedy = "see docs/weights.md"
    try:
        found = load_variant(variant)
        paths = checkpoint_files(found, checkpoint)
        missing = [str(path) for path in paths if not path.is_file()]
    except (ValueError, OSError) as error:
        return fail("weights", " ".join(str(error).split()), remedy)
    if missing:
        return fail("weights", f"missing: {', '.join(missing)}", remedy)
    return ok("weights", ", ".join(str(path) for path in paths))
