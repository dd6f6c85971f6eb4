# SPDX-License-Identifier: Apache-2.0
"""Compiled engines on disk, found by a key that names everything an engine depends on.

Each entry is a folder named by the hash of its key; its `manifest.json` holds the key and the
SHA-256 of every file. An entry whose files differ from the manifest is not used. Compiled engines
are code, so the folder of the cache must belong to the user; nothing in it is ever unpickled here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import stat
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import depthforge_ros.network
from depthforge_ros.engine.engine import CancelledError, CropOutput, Shape, cpu_flags
from depthforge_ros.file_lock import try_lock
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.resources import sha256_of
from depthforge_ros.variant import Variant

FORMAT = 1
MANIFEST = "manifest.json"
LIMIT_BYTES = 20 << 30
LOCK_POLL_S = 0.1
UNFINISHED = ".unfinished-"
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
JETSON_POWER_MODE = Path("/var/lib/nvpmodel/status")
"""`pmode:0000` and the like, written by nvpmodel."""

Key = Mapping[str, str]
"""Everything that an engine depends on, by name."""

_log = logging.getLogger(__name__)


class CacheError(OSError):
    """The cache cannot be used: full, not writable, or writable by others."""


class EngineCache:
    """Entries below `folder`, at most limit_bytes; the least recently used are removed first."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    def find(self, key: Key) -> Path | None:
        """Return the folder of the intact entry of a key, None if there is none.

        A damaged entry is logged and not returned. Raises CacheError if other users can write to
        the cache.
        """
        entry = self.folder / entry_name(key)
        if not entry.is_dir():
            return None
        self._check_owner()
        reason = _fault(entry, key)
        if reason:
            _log.warning("cached engine %s is not used: %s", entry, reason)
            return None
        with contextlib.suppress(OSError):  # the cache may be read-only
            os.utime(entry / MANIFEST)
        return entry

    def keys(self) -> list[dict[str, str]]:
        """Return the keys of all entries with a readable manifest; their files are not checked."""
        found = []
        for manifest in sorted(self.folder.glob(f"*/{MANIFEST}")):
            with contextlib.suppress(OSError, ValueError):
                found.append(_read(manifest)["key"])
        return found

    def store(self, key: Key, built: Path) -> Path:
        """Copy the files of the folder `built` into a new entry, atomically; return the entry.

        The caller holds `lock(key)`. Raises CacheError.
        """
        entry = self.folder / entry_name(key)
        unfinished = self.folder / f"{UNFINISHED}{entry.name}"
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            shutil.copytree(built, unfinished)
            names = sorted(path.name for path in unfinished.iterdir())
            manifest = {
                "format": FORMAT,
                "key": dict(key),
                "files": {name: _size_and_hash(unfinished / name) for name in names},
            }
            (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
            self.remove(key)  # a damaged one
            unfinished.rename(entry)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise CacheError(f"engine cache {self.folder} cannot be written: {error}") from error
        self._trim(entry)
        return entry

    def remove(self, key: Key) -> None:
        """Remove the entry of a key, if it can be."""
        shutil.rmtree(self.folder / entry_name(key), ignore_errors=True)
        self._check_file(key).unlink(missing_ok=True)

    def recorded_check(self, key: Key, check: str) -> CropOutput | None:
        """Return what `record_check` kept for the entry and a check of this name; None if nothing.

        Scores are float16.
        """
        try:
            with np.load(self._check_file(key), allow_pickle=False) as file:
                if str(file["check"]) != check:
                    return None
                return CropOutput(torch.from_numpy(file["scores"]), torch.from_numpy(file["depth"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def record_check(self, key: Key, check: str, expected: CropOutput) -> None:
        """Record, if the cache can be written, that the entry passed a check of this name.

        expected: the reference's answer to the first batch of images, with depth.
        """
        assert expected.depth is not None
        file = self._check_file(key)
        unfinished = file.with_name(f"{UNFINISHED}{file.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            try:
                with unfinished.open("wb") as written:
                    np.savez(
                        written,
                        check=check,
                        scores=expected.scores.cpu().half().numpy(),
                        depth=expected.depth.cpu().float().numpy(),
                    )
                unfinished.replace(file)
            finally:
                unfinished.unlink(missing_ok=True)

    def weights_of(self, checkpoint: str) -> str:
        """Return the weights_hash that was recorded for a checkpoint; empty if none was.

        checkpoint: from `checkpoint_hash`. Raises CacheError if other users can write to the cache.
        """
        try:
            text = self._weights_file(checkpoint).read_text("ascii")
        except (OSError, UnicodeDecodeError):
            return ""
        self._check_owner()
        return text if re.fullmatch("[0-9a-f]{64}", text) else ""

    def record_weights(self, checkpoint: str, weights: str) -> None:
        """Record the weights_hash of a checkpoint, if the cache exists and can be written."""
        with contextlib.suppress(OSError):
            self._weights_file(checkpoint).write_text(weights, "ascii")

    def _weights_file(self, checkpoint: str) -> Path:
        return self.folder / f"{checkpoint[:32]}.weights"

    def _check_file(self, key: Key) -> Path:
        return self.folder / f"{entry_name(key)}.checked"

    @contextlib.contextmanager
    def lock(
        self,
        key: Key,
        keep_going: Callable[[], bool] = lambda: True,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Hold the lock of an entry, which its builder needs, or wait for the process that has it.

        on_wait: called once if another process holds the lock. Raises CacheError if the folder
        cannot be made or written, CancelledError once keep_going returns False.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner()
            file = (self.folder / f"{entry_name(key)}.lock").open("a")
        except OSError as error:
            raise CacheError(f"engine cache {self.folder} cannot be written: {error}") from error
        with file:
            if not try_lock(file):
                on_wait()
            while not try_lock(file):
                if not keep_going():
                    raise CancelledError
                time.sleep(LOCK_POLL_S)
            yield

    def _check_owner(self) -> None:
        status = self.folder.stat()
        if status.st_uid not in (os.getuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise CacheError(
                f"engine cache {self.folder} belongs to user {status.st_uid} with mode "
                f"{stat.S_IMODE(status.st_mode):o}; expected a folder that only you can write to"
            )

    def _trim(self, kept: Path) -> None:
        """Remove the least recently used entries, except `kept`, until the limit is met."""
        entries = []
        for manifest in self.folder.glob(f"*/{MANIFEST}"):
            with contextlib.suppress(OSError):
                size = sum(path.stat().st_size for path in manifest.parent.iterdir())
                entries.append((manifest.stat().st_mtime, manifest.parent, size))
        total = sum(size for _, _, size in entries)
        for _, entry, size in sorted(entries):
            if total <= self.limit_bytes:
                return
            if entry != kept:  # files that a process has mapped stay readable to it
                shutil.rmtree(entry, ignore_errors=True)
                entry.with_suffix(".checked").unlink(missing_ok=True)
                total -= size


def entry_name(key: Key) -> str:
    """Return the name of the folder of a key."""
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:32]


def engine_key(
    variant: Variant,
    weights: str,
    backend: str,
    precision: str,
    shape: Shape,
    device: torch.device,
    versions: dict[str, str],
) -> Key:
    """Return the key of an engine. weights: from `weights_hash`. versions: of the backend."""
    return {
        "variant": variant.name,
        "sizes": hashlib.sha256(repr(variant).encode()).hexdigest(),
        "weights": weights,
        "code": code_hash(),
        "backend": backend,
        "precision": precision,
        "size": str(shape),
        "torch": torch.__version__,
        **versions,
        **_device_identity(device),
    }


def weights_hash(network: DepthForge) -> str:
    """Return the SHA-256 of all weights and buffers with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def checkpoint_hash(variant: Variant, files: Sequence[Path]) -> str:
    """Return the SHA-256 of the files of a checkpoint and of what makes a network of them.

    Equal hashes mean equal networks, without loading one. Raises OSError naming a missing file.
    """
    parts = [repr(variant), code_hash(), torch.__version__, *map(sha256_of, files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def code_hash() -> str:
    """Return the SHA-256 of the sources that decide what an engine computes."""
    network = Path(depthforge_ros.network.__file__).parent
    backends = Path(__file__).with_name("backends")
    digest = hashlib.sha256()
    for path in [*sorted(network.rglob("*.py")), *sorted(backends.glob("*.py"))]:
        digest.update(path.relative_to(network.parent).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _device_identity(device: torch.device) -> dict[str, str]:
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        return {
            # All modules of a Jetson family have one name: they differ in what follows.
            "device": gpu.name,
            "capability": f"{gpu.major}.{gpu.minor}",
            "multiprocessors": str(gpu.multi_processor_count),
            "memory": f"{gpu.total_memory >> 30} GiB",
            "power_mode": power_mode(),
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
    """Return the major version of NVIDIA's driver, 550 of 550.54.14, or "unknown"."""
    try:
        match = re.search(r"\s(\d+)\.\d+", version.read_text("utf-8", errors="replace"))
    except OSError:
        match = None
    return match[1] if match else "unknown"


def power_mode(status: Path = JETSON_POWER_MODE) -> str:
    """Return the power mode that nvpmodel set on a Jetson, "none" on other machines.

    Kernels are selected by their speed at the clocks of the mode.
    """
    try:
        return status.read_text("utf-8", errors="replace").strip() or "none"
    except OSError:
        return "none"


def _size_and_hash(path: Path) -> dict[str, str | int]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _read(manifest: Path) -> dict:
    """Return the content of a manifest. Raises OSError or ValueError."""
    content = json.loads(manifest.read_text("utf-8"))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{MANIFEST} is of another format than {FORMAT}")
    if not isinstance(content.get("files"), dict) or not isinstance(content.get("key"), dict):
        raise ValueError(f"{MANIFEST} lacks files or key")
    return content


def _fault(entry: Path, key: Key) -> str:
    """Return why a folder is not the intact entry of a key; empty if it is."""
    try:
        manifest = _read(entry / MANIFEST)
        if manifest["key"] != dict(key):
            return "it has another key"
        names = {path.name for path in entry.iterdir()} - {MANIFEST}
        if names != set(manifest["files"]):
            return f"it holds {sorted(names)}; expected {sorted(manifest['files'])}"
        for name, expected in manifest["files"].items():
            path = entry / name
            if path.is_symlink() or not path.is_file():
                return f"{name} is not a regular file"
            if _size_and_hash(path) != expected:
                return f"{name} was changed or cut short"
    except (OSError, ValueError, UnicodeDecodeError) as error:
        return f"its {MANIFEST} cannot be used: {error}"
    return ""
