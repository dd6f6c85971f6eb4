# SPDX-License-Identifier: Apache-2.0
"""The output folder of a demo, which replaces an older one only once it is finished."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = "index.html"
GENERATOR = '<meta name="generator" content="depthforge demo">'
"""Mark of the page of a demo; only a folder with such a page may be replaced."""

_WORK = ".demo-"


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Yield a work folder, whose content replaces that of `out` if the block succeeds.

    Otherwise `out` stays as it was. Raise ValueError if `out` is neither a demo nor empty.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is not a folder; give another --out")
    if out.exists() and not (_is_demo(out) or all(p.name.startswith(_WORK) for p in out.iterdir())):
        raise ValueError(f"{out} contains something other than a demo; give another --out")
    fresh = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    # Within `out`: on the same file system, and maybe the only writable place.
    work = Path(tempfile.mkdtemp(prefix=_WORK, dir=out))
    try:
        yield work
        (work / PAGE).replace(
            out / PAGE
        )  # first, so that a half replaced demo is recognised as one
        for old in out.iterdir():
            if old not in (work, out / PAGE):
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        for new in work.iterdir():
            new.rename(out / new.name)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        if fresh:
            out.rmdir()
        raise
    work.rmdir()


def _is_demo(folder: Path) -> bool:
    page = folder / PAGE
    return page.is_file() and GENERATOR in page.read_text("utf-8", "replace")
