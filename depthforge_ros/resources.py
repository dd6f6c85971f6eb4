# SPDX-License-Identifier: Apache-2.0
"""Where the files that ship beside the code are, however the package was installed."""

from __future__ import annotations

from pathlib import Path


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
