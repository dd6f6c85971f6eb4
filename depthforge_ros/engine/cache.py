# SPDX-License-Identifier: Apache-2.0
"""Compiled engines on disk: found by everything they depend on, and by nothing less.

A folder an entry, named by the hash of its key; `manifest.json` in it holds the key and the
SHA-256 of every file. What differs by a byte from what was stored is no entry. Compiled engines are
code, so the cache's folder must be the user's own; nothing in it is ever unpickled here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from depthforge_ros.resources import sha256_of

FORMAT = 1
MANIFEST = "manifest.json"
LIMIT_BYTES = 20 << 30
LOCK_POLL_S = 0.1
UNFINISHED = ".unfinished-"

Key = Mapping[str, str]
"""What an engine depends on, by name."""

_log = logging.getLogger(__name__)


class CacheError(OSError):
    """The cache cannot be used: full, not writable, or not the user's own."""


class GivenUpError(Exception):
    """The waiting caller gave up."""


class EngineCache:
    """Entries below `folder`, together at most limit_bytes: the longest unused go first."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    def find(self, key: Key) -> Path | None:
        """The folder of an entry whose every file is as it was stored, None where there is none.

        A damaged or foreign entry is said in the log and counts as none. Raises CacheError where
        somebody else may write to the cache.
        """
        entry = self.folder / entry_name(key)
        if not entry.is_dir():
            return None
        self._must_be_own()
        reason = _fault(entry, key)
        if reason:
            _log.warning("cached engine %s is not used: %s", entry, reason)
            return None
        with contextlib.suppress(OSError):  # a read-only cache serves too
            os.utime(entry / MANIFEST)
        return entry

    def keys(self) -> list[dict[str, str]]:
        """Of every entry whose manifest can be read; the files are not looked at."""
        found = []
        for manifest in sorted(self.folder.glob(f"*/{MANIFEST}")):
            with contextlib.suppress(OSError, ValueError):
                found.append(_read(manifest)["key"])
        return found

    def store(self, key: Key, built: Path) -> Path:
        """Copy the files of the folder `built` in, whole or not at all. Returns the entry.

        The caller holds `lock(key)`. Raises CacheError.
        """
        entry = self.folder / entry_name(key)
        unfinished = self.folder / f"{UNFINISHED}{entry.name}"
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # of one that was killed
            shutil.copytree(built, unfinished)
            names = sorted(path.name for path in unfinished.iterdir())
            manifest = {
                "format": FORMAT,
                "key": dict(key),
                "files": {name: _described(unfinished / name) for name in names},
            }
            (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
            shutil.rmtree(entry, ignore_errors=True)  # damaged, or it had been found
            unfinished.rename(entry)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise CacheError(f"engine cache {self.folder} cannot be written: {error}") from error
        self._trim(entry)
        return entry

    @contextlib.contextmanager
    def lock(
        self,
        key: Key,
        keep_going: Callable[[], bool] = lambda: True,
        waiting: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Hold the right to build an entry; other processes that want the same one wait. `waiting`
        is called once, where another process has it.

        Raises CacheError where the folder cannot be made or written, GivenUpError once the lock is
        abandoned.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._must_be_own()
            file = (self.folder / f"{entry_name(key)}.lock").open("a")
        except OSError as error:
            raise CacheError(f"engine cache {self.folder} cannot be written: {error}") from error
        with file:
            if not _locked(file):
                waiting()
            while not _locked(file):
                if not keep_going():
                    raise GivenUpError
                time.sleep(LOCK_POLL_S)
            yield

    def _must_be_own(self) -> None:
        status = self.folder.stat()
        if status.st_uid not in (os.getuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise CacheError(
                f"engine cache {self.folder} belongs to user {status.st_uid} with mode "
                f"{stat.S_IMODE(status.st_mode):o}; expected one that only you can write to"
            )

    def _trim(self, kept: Path) -> None:
        """Remove the longest unused entries until the rest fits."""
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
                total -= size


def entry_name(key: Key) -> str:
    """Name of the folder of a key."""
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:32]


def _described(path: Path) -> dict[str, str | int]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _locked(file: IO[str]) -> bool:
    """Whether the lock of an open file is ours, now or from before; gone with the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(manifest: Path) -> dict:
    """Raises OSError or ValueError."""
    content = json.loads(manifest.read_text("utf-8"))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{MANIFEST} is of another format than {FORMAT}")
    if not isinstance(content.get("files"), dict) or not isinstance(content.get("key"), dict):
        raise ValueError(f"{MANIFEST} lacks files or key")
    return content


def _fault(entry: Path, key: Key) -> str:
    """Why a folder is not the entry of a key; empty: it is."""
    try:
        manifest = _read(entry / MANIFEST)
        if manifest["key"] != dict(key):
            return "its key is another"
        names = {path.name for path in entry.iterdir()} - {MANIFEST}
        if names != set(manifest["files"]):
            return f"it holds {sorted(names)}; expected {sorted(manifest['files'])}"
        for name, described in manifest["files"].items():
            path = entry / name
            if path.is_symlink() or not path.is_file():
                return f"{name} is no plain file"
            if _described(path) != described:
                return f"{name} was changed or cut short"
    except (OSError, ValueError, UnicodeDecodeError) as error:
        return f"its {MANIFEST} cannot be used: {error}"
    return ""
