# SPDX-License-Identifier: Apache-2.0
"""Finds shipped, fetched and compiled files, and hashes them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from depthforge_ros import __version__

WEIGHTS_FOLDER = "DEPTHFORGE_WEIGHTS"
"""Environment variable: folder of weights."""

ENGINES_FOLDER = "DEPTHFORGE_ENGINES"
"""Environment variable: folder of compiled engines."""


def shipped_folder(name: str) -> Path:
    """Return the folder `models` or `config`, beside the package or in share/.

    Raises FileNotFoundError if it is in neither; the installation is broken then.
    """
    package = Path(__file__).resolve().parent
    places = [package.parent / name]
    places += [above / "share" / package.name / name for above in package.parents]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"{name} is in none of {[str(p) for p in places]}; reinstall")


def weights_folder() -> Path:
    """Return the folder of fetched and converted weights; it may not exist yet.

    DEPTHFORGE_WEIGHTS if set, else the user's cache (XDG Base Directory Specification).
    """
    return _folder(WEIGHTS_FOLDER, "weights")


def engines_folder() -> Path:
    """Return the folder of compiled engines; it may not exist yet.

    DEPTHFORGE_ENGINES if set, else the user's cache.
    """
    return _folder(ENGINES_FOLDER, "engines")


def _folder(variable: str, name: str) -> Path:
    if value := os.environ.get(variable):
        return Path(value).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the XDG specification ignores relative paths
        cache = Path.home() / ".cache"
    return cache / "depthforge_ros" / name


def code_version() -> str:
    """Return the package's version, with the commit if it runs from a git working tree."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return __version__
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+{described.stdout.strip()}"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
