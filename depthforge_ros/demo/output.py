# SPDX-License-Identifier: Apache-2.0
"""The folder of a demo: an older demo stays as it is until the new one is finished."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = "index.html"
GENERATOR = '<meta name="generator" content="depthforge demo">'
"""What the page of a demo holds, and nobody else's: such a folder may be replaced."""

_WORK = ".demo-"


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A folder to make a demo in; when the block ends well its content is that of `out`.

    Otherwise `out` is as it was. Raises ValueError where it is anything but a demo, or empty.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is no folder; give another --out")
    if out.exists() and not (_is_demo(out) or all(p.name.startswith(_WORK) for p in out.iterdir())):
        raise ValueError(f"{out} holds something else than a demo; give another --out")
    fresh = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    # Within `out`, which may be the only place that is writable, and is one file system.
    work = Path(tempfile.mkdtemp(prefix=_WORK, dir=out))
    try:
        yield work
        (work / PAGE).replace(out / PAGE)  # first: a half replaced demo is to be known as one
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
