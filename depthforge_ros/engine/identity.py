# SPDX-License-Identifier: Apache-2.0
"""What a compiled engine depends on: the key under which the cache knows it."""

from __future__ import annotations

import hashlib
import platform
import re
from pathlib import Path

import torch

import depthforge_ros.network
from depthforge_ros.engine.cache import Key
from depthforge_ros.engine.precision import cpu_flags
from depthforge_ros.engine.shape import Shape
from depthforge_ros.network.depthforge import DepthForge

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def engine_key(
    network: DepthForge,
    weights: str,
    backend: str,
    precision: str,
    shape: Shape,
    device: torch.device,
    versions: dict[str, str],
) -> Key:
    """weights: of `weights_hash`. versions: what the backend adds to PyTorch's."""
    return {
        "variant": network.variant.name,
        "sizes": hashlib.sha256(repr(network.variant).encode()).hexdigest(),
        "weights": weights,
        "code": code_hash(),
        "backend": backend,
        "precision": precision,
        "size": str(shape),
        "torch": torch.__version__,
        **versions,
        **_described(device),
    }


def weights_hash(network: DepthForge) -> str:
    """SHA-256 of every weight and buffer with its name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def code_hash() -> str:
    """SHA-256 of the sources that decide what an engine computes."""
    network = Path(depthforge_ros.network.__file__).parent
    own = [Path(__file__).with_name(name) for name in ("inductor.py", "tensorrt.py")]
    digest = hashlib.sha256()
    for path in [*sorted(network.rglob("*.py")), *own]:
        digest.update(path.relative_to(network.parent).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _described(device: torch.device) -> dict[str, str]:
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return {
            "device": torch.cuda.get_device_name(device),
            "capability": ".".join(map(str, capability)),
            "cuda": str(torch.version.cuda),
            "driver": driver_major(),
        }
    flags = " ".join(sorted(cpu_flags()))
    return {
        "device": f"{device.type} {platform.machine()}",
        "capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": hashlib.sha256(flags.encode()).hexdigest(),
    }


def driver_major(version: Path = NVIDIA_DRIVER) -> str:
    """Of NVIDIA's driver, 550 of 550.54.14; "unknown" where the system does not say."""
    try:
        found = re.search(r"\s(\d+)\.\d+", version.read_text("utf-8", errors="replace"))
    except OSError:
        found = None
    return found[1] if found else "unknown"
