# SPDX-License-Identifier: Apache-2.0
"""Download of one file over HTTP, resumed after interruptions and checked.

Bytes go to NAME.part beside the target, which is renamed once complete. A later call resumes where
this one stopped if the server supports it and still has the same file (RFC 9110, section 14).
"""

from __future__ import annotations

import errno
import http.client
import io
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from depthforge_ros import __version__
from depthforge_ros.file_lock import try_lock
from depthforge_ros.resources import sha256_of

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
ATTEMPTS = 5
WAIT_S = 2.0
"""Between two attempts, times the attempts that gave no byte."""

BUSY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP status codes of temporary failures."""


class DownloadError(OSError):
    """A download failed; the text names the file, the reason and what is left on the disk."""


class _CutOffError(Exception):
    """The transfer ended early; another attempt may resume it."""


PASSING = (
    _CutOffError,
    http.client.HTTPException,
    urllib.error.URLError,
    TimeoutError,
    ConnectionError,
)
"""Errors after which another attempt is made."""


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but from https to https only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """See urllib. Raise DownloadError for a redirect out of encryption."""
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise DownloadError(f"{req.full_url} redirects to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass(frozen=True)
class _Answer:
    """start: offset of the body's first byte. total: bytes of the file, None if unknown.

    validator: ETag or date of this version of the file, "" if the server gives none.
    """

    start: int
    total: int | None
    validator: str


def download(
    url: str,
    target: Path,
    sha256: str | None = None,
    *,
    wait_s: float = WAIT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Fetch a file unless the target exists, and return its SHA-256 in hexadecimal.

    Raise DownloadError if it does not exist, is incomplete or does not fit on the disk (received
    bytes are kept), is not the expected file (it is removed), or another process fetches it.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url} is no address of a web server; expected http:// or https://")
    if target.is_file():
        return _checked(target, sha256, url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with part.open("ab", buffering=0) as file:  # what a full disk refuses must not be tried again
        if not try_lock(file):
            raise DownloadError(f"another process is fetching {part}")
        _complete(url, part, file, sha256 is not None, lambda idle: sleep(wait_s * idle))
        os.fsync(file.fileno())
        digest = _checked(part, sha256, url)
        part.replace(target)
    _validator_of(part).unlink(missing_ok=True)
    return digest


def _checked(path: Path, sha256: str | None, url: str) -> str:
    digest = sha256_of(path)
    if sha256 is not None and digest != sha256:
        path.unlink()
        _validator_of(path).unlink(missing_ok=True)
        raise DownloadError(
            f"{url} is not the expected file: SHA-256 {digest}, expected {sha256}; "
            f"{path} is removed"
        )
    return digest


def _validator_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _complete(
    url: str, part: Path, file: io.FileIO, checked: bool, wait: Callable[[int], None]
) -> None:
    """Make attempts until the file is complete. checked: whether its SHA-256 is known."""
    idle = 0
    while True:
        before = part.stat().st_size
        try:
            return _attempt(url, part, file, checked)
        except PASSING as error:
            reason = error
        came = part.stat().st_size
        idle = idle + 1 if came <= before else 0
        if idle >= ATTEMPTS:
            left = f"{came} bytes are kept in {part}; run it again to go on" if came else ""
            if not came:
                _forget(part)
            raise DownloadError(f"{url} does not come: {reason}; {left}".rstrip("; "))
        wait(idle)


def _attempt(url: str, part: Path, file: io.FileIO, checked: bool) -> None:
    """Request the bytes after the file's end. Raise _CutOffError if the body ends too early."""
    request = urllib.request.Request(
        url, headers={"User-Agent": f"depthforge_ros/{__version__}", "Accept-Encoding": "identity"}
    )
    started, validator = part.stat().st_size, _stored_validator(part)
    if started and (validator or checked):
        request.add_header("Range", f"bytes={started}-")
    if started and validator:
        request.add_header("If-Range", validator)
    try:
        response = urllib.request.build_opener(_NoDowngrade).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in BUSY:
            raise _CutOffError(f"HTTP {error.code} {error.reason}") from error
        if error.code == 416 and started:
            if error.headers.get("Content-Range") == f"bytes */{started}":
                return  # nothing is missing
            file.truncate(0)
            _validator_of(part).unlink(missing_ok=True)
            raise _CutOffError("the part on the disk was of another file") from error
        if not started:
            _forget(part)
        raise DownloadError(f"{url}: HTTP {error.code} {error.reason}") from error
    with response:
        answer = _answer(response, started)
        if answer.start != started:
            file.truncate(0)  # the server sends it whole, or it changed
        _validator_of(part).write_text(answer.validator, "utf-8")
        _room(part, answer)
        _receive(response, part, file, answer)


def _stored_validator(part: Path) -> str:
    stored = _validator_of(part)
    return stored.read_text("utf-8") if stored.is_file() else ""


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_of(part).unlink(missing_ok=True)


def _answer(response: http.client.HTTPResponse, started: int) -> _Answer:
    etag = response.headers.get("ETag", "")
    # A weak ETag promises the same meaning, not the same bytes: no ground to join two pieces.
    validator = etag if etag and not etag.startswith("W/") else ""
    validator = validator or response.headers.get("Last-Modified", "")
    if response.status == 206:
        content_range = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
        if match is None or int(match[1]) != started:
            raise DownloadError(
                f"{response.url} was asked for bytes from {started}, sent {content_range!r}"
            )
        return _Answer(started, None if match[2] == "*" else int(match[2]), validator)
    length = response.headers.get("Content-Length")
    return _Answer(0, None if length is None else int(length), validator)


def _room(part: Path, answer: _Answer) -> None:
    if answer.total is None:
        return
    needed = answer.total - answer.start
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise _full(part, answer, f"{needed} bytes are to come, {free} are free")


def _receive(
    response: http.client.HTTPResponse, part: Path, file: io.FileIO, answer: _Answer
) -> None:
    have = answer.start
    name = part.name.removesuffix(".part")
    # disable=None: no bar without a terminal
    with tqdm(
        total=answer.total, initial=have, desc=name, unit="B", unit_scale=True, disable=None
    ) as bar:
        while chunk := response.read(CHUNK_BYTES):
            try:
                rest = memoryview(chunk)
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise _full(part, answer, error.strerror or "disk full") from error
            have += len(chunk)
            bar.update(len(chunk))
    if answer.total is not None and have < answer.total:
        raise _CutOffError(f"it ended after {have} of {answer.total} bytes")
    if answer.total is not None and have > answer.total:
        raise DownloadError(f"{response.url} sent {have} bytes, announced {answer.total}")


def _full(part: Path, answer: _Answer, reason: str) -> DownloadError:
    have = part.stat().st_size
    total = "" if answer.total is None else f" of {answer.total}"
    return DownloadError(
        f"no room for {part.name.removesuffix('.part')} in {part.parent}: {reason}; {have}{total} "
        f"bytes are kept in {part}, free some space and run it again to go on"
    )
