# SPDX-License-Identifier: Apache-2.0
"""Where files are, those that ship and those fetched or made later, and which file one is."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

WEIGHTS_FOLDER = "DEPTHFORGE_WEIGHTS"
"""Environment variable that names another folder for weights."""

ENGINES_FOLDER = "DEPTHFORGE_ENGINES"
"""Environment variable that names another folder for compiled engines."""


def shipped_folder(name: str) -> Path:
    """The folder `models` or `config`: beside the package in a source tree, else in share/.

    Raises FileNotFoundError where it is in neither, because the installation is broken.
    """
    package = Path(__file__).resolve().parent
    places = [package.parent / name]
    places += [above / "share" / package.name / name for above in package.parents]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"{name} is in none of {[str(p) for p in places]}; reinstall")


def weights_folder() -> Path:
    """Where fetched and converted weights are; it need not exist yet.

    DEPTHFORGE_WEIGHTS where that is set, else the user's cache (XDG Base Directory Specification).
    """
    return _folder(WEIGHTS_FOLDER, "weights")


def engines_folder() -> Path:
    """Where compiled engines are kept; it need not exist yet.

    DEPTHFORGE_ENGINES where that is set, else the user's cache.
    """
    return _folder(ENGINES_FOLDER, "engines")


def _folder(variable: str, name: str) -> Path:
    if value := os.environ.get(variable):
        return Path(value).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the specification ignores relative ones
        cache = Path.home() / ".cache"
    return cache / "depthforge_ros" / name


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
