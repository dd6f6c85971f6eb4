# SPDX-License-Identifier: Apache-2.0
"""Downloads against a real HTTP server that misbehaves as real ones do."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from http_servers import serving

from depthforge_ros.file_lock import try_lock
from depthforge_ros.weights import download as download_module
from depthforge_ros.weights.download import DownloadError, download

CONTENT = bytes(range(256)) * 12_000  # 3 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT. requests: (path, Range) of each one so far.

    cuts: after how many bytes to hang up, request by request. ranges: whether it knows Range.
    etag: of the file. lengths: whether it tells them.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.cuts: list[int] = []
        self.busy = 0
        self.ranges, self.lengths, self.etag = True, True, '"v1"'

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.replace("/moved/", "/there/"))
            self.end_headers()
            return
        if self.path == "/round":
            self.send_response(302)
            self.send_header("Location", "/round")
            self.end_headers()
            return
        if self.server.busy:
            self.server.busy -= 1
            self.send_error(503)
            return
        if self.path == "/gone.pth":
            self.send_error(404)
            return
        self.send_content(asked)

    def send_content(self, asked: str | None) -> None:
        start = 0
        same = self.headers.get("If-Range") in (None, self.server.etag)
        if asked and self.server.ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        if self.server.lengths:
            self.send_header("Content-Length", str(len(CONTENT) - start))
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.end_headers()
        stop = self.server.cuts.pop(0) if self.server.cuts else len(CONTENT)
        self.wfile.write(CONTENT[start : start + stop])
        self.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    with serving(running):
        yield running


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fetch(url: str, target: Path, sha256: str | None = SHA256) -> str:
    return download(url, target, sha256, sleep=lambda _: None)


def test_a_file_comes_whole_and_alone_and_only_once(tmp_path: Path, server: Server) -> None:
    target = tmp_path / "deep" / "w.pth"
    for _ in range(2):
        assert fetch(f"{server.url}/w.pth", target) == SHA256
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == ["w.pth"]
    assert server.requests == [("/w.pth", None)]


def test_a_cut_transfer_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    server.cuts = [1_000_000, 500_000]
    assert fetch(f"{server.url}/w.pth", tmp_path / "w.pth", None) == SHA256
    assert [asked for _, asked in server.requests] == [None, "bytes=1000000-", "bytes=1500000-"]
    assert names(tmp_path) == ["w.pth"]


def test_a_later_call_goes_on_too(tmp_path: Path, server: Server) -> None:
    server.cuts = [1_000_000] + [0] * download_module.ATTEMPTS
    part = tmp_path / "w.pth.part"
    with pytest.raises(DownloadError) as caught:
        fetch(f"{server.url}/w.pth", tmp_path / "w.pth", None)
    assert f"1000000 bytes are kept in {part}; run it again to go on" in str(caught.value)
    assert "it ended after 1000000 of 3072000 bytes" in str(caught.value)
    assert part.read_bytes() == CONTENT[:1_000_000]
    server.requests.clear()
    assert fetch(f"{server.url}/w.pth", tmp_path / "w.pth", None) == SHA256
    assert server.requests == [("/w.pth", "bytes=1000000-")]


def test_a_server_without_ranges_sends_it_all_again(tmp_path: Path, server: Server) -> None:
    server.ranges, server.cuts = False, [1_000_000]
    assert fetch(f"{server.url}/w.pth", tmp_path / "w.pth") == SHA256
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


def test_pieces_of_two_versions_are_never_joined(tmp_path: Path, server: Server) -> None:
    (tmp_path / "w.pth.part").write_bytes(b"of the version before")
    (tmp_path / "w.pth.part.etag").write_text('"v0"')
    assert fetch(f"{server.url}/w.pth", tmp_path / "w.pth", None) == SHA256
    assert [asked for _, asked in server.requests] == ["bytes=21-"]


def test_a_piece_without_a_version_is_joined_only_where_the_sum_is_known(
    tmp_path: Path, server: Server
) -> None:
    server.etag = ""
    for sha256, asked in ((None, None), (SHA256, "bytes=1000-")):
        server.requests.clear()
        (tmp_path / "w.pth").unlink(missing_ok=True)
        (tmp_path / "w.pth.part").write_bytes(CONTENT[:1000])
        assert fetch(f"{server.url}/w.pth", tmp_path / "w.pth", sha256) == SHA256
        assert server.requests == [("/w.pth", asked)]


def test_what_came_whole_before_a_kill_is_not_fetched_again(tmp_path: Path, server: Server) -> None:
    (tmp_path / "w.pth.part").write_bytes(CONTENT)
    (tmp_path / "w.pth.part.etag").write_text('"v1"')
    assert fetch(f"{server.url}/w.pth", tmp_path / "w.pth") == SHA256
    assert server.requests == [("/w.pth", f"bytes={len(CONTENT)}-")]


def test_a_piece_longer_than_the_file_starts_over(tmp_path: Path, server: Server) -> None:
    (tmp_path / "w.pth.part").write_bytes(CONTENT + b"more")
    (tmp_path / "w.pth.part.etag").write_text('"v1"')
    assert fetch(f"{server.url}/w.pth", tmp_path / "w.pth") == SHA256


def test_another_file_is_removed_and_named(tmp_path: Path, server: Server) -> None:
    expected = "0" * 64
    with pytest.raises(DownloadError) as caught:
        fetch(f"{server.url}/w.pth", tmp_path / "w.pth", expected)
    assert f"{server.url}/w.pth is not the expected file" in str(caught.value)
    assert f"SHA-256 {SHA256}, expected {expected}" in str(caught.value)
    assert names(tmp_path) == []


def test_a_damaged_file_from_before_is_removed_and_named(tmp_path: Path, server: Server) -> None:
    (tmp_path / "w.pth").write_bytes(b"damaged")
    with pytest.raises(DownloadError, match=r"w\.pth is removed"):
        fetch(f"{server.url}/w.pth", tmp_path / "w.pth")
    assert fetch(f"{server.url}/w.pth", tmp_path / "w.pth") == SHA256


def test_a_file_that_is_not_there_is_said_at_once(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DownloadError, match=r"/gone\.pth: HTTP 404 Not Found"):
        fetch(f"{server.url}/gone.pth", tmp_path / "w.pth")
    assert len(server.requests) == 1
    assert names(tmp_path) == []


def test_a_busy_server_is_asked_again(tmp_path: Path, server: Server) -> None:
    server.busy = 2
    waits: list[float] = []
    download(f"{server.url}/w.pth", tmp_path / "w.pth", SHA256, wait_s=3.0, sleep=waits.append)
    assert waits == [3.0, 6.0]
    server.busy = download_module.ATTEMPTS
    with pytest.raises(DownloadError, match="does not come: HTTP 503 Service Unavailable"):
        fetch(f"{server.url}/v.pth", tmp_path / "v.pth")


def test_nobody_there(tmp_path: Path, server: Server) -> None:
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match=f"{url}/w.pth does not come: .*refused"):
        fetch(f"{url}/w.pth", tmp_path / "w.pth")
    assert names(tmp_path) == []


def test_redirects_are_followed_and_keep_the_range(tmp_path: Path, server: Server) -> None:
    server.cuts = [1_000_000]
    assert fetch(f"{server.url}/moved/w.pth", tmp_path / "w.pth") == SHA256
    assert server.requests == [
        ("/moved/w.pth", None),
        ("/there/w.pth", None),
        ("/moved/w.pth", "bytes=1000000-"),
        ("/there/w.pth", "bytes=1000000-"),
    ]
    with pytest.raises(DownloadError, match=r"/round: HTTP 302"):
        fetch(f"{server.url}/round", tmp_path / "round.pth")


def test_redirects_out_of_encryption_and_other_protocols_are_refused(tmp_path: Path) -> None:
    handler = download_module._NoDowngrade()
    request = download_module.urllib.request.Request("https://example.org/w.pth")
    with pytest.raises(DownloadError, match=r"redirects to http://example.org/w.pth, which is not"):
        handler.redirect_request(
            request, io.BytesIO(), 302, "", request.headers, "http://example.org/w.pth"
        )
    with pytest.raises(DownloadError, match="file:///etc/passwd is no address of a web server"):
        fetch("file:///etc/passwd", tmp_path / "w.pth")


def test_a_file_of_unknown_length_comes_too(tmp_path: Path, server: Server) -> None:
    server.lengths = False
    assert fetch(f"{server.url}/w.pth", tmp_path / "w.pth") == SHA256


def test_a_full_disk_keeps_what_came(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk(io.FileIO):
        """Takes 1 MB and a half, as a file on a small disk does."""

        def write(self, data: memoryview) -> int:  # type: ignore[override]
            room = 1_500_000 - self.tell()
            if room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(bytes(data[:room]))

    def opened(self: Path, mode: str = "r", **options: object) -> io.IOBase:
        if mode == "ab":
            return FullDisk(self, mode)
        return io.open(self, mode)  # noqa: UP020

    part = tmp_path / "w.pth.part"
    with monkeypatch.context() as full:
        full.setattr(Path, "open", opened)
        with pytest.raises(DownloadError) as caught:
            fetch(f"{server.url}/w.pth", tmp_path / "w.pth")
    assert str(caught.value) == (
        f"no room for w.pth in {tmp_path}: No space left on device; 1500000 of 3072000 bytes are "
        f"kept in {part}, free some space and run it again to go on"
    )
    assert part.read_bytes() == CONTENT[:1_500_000]
    server.requests.clear()
    assert fetch(f"{server.url}/w.pth", tmp_path / "w.pth") == SHA256
    assert server.requests == [("/w.pth", "bytes=1500000-")]


def test_a_file_larger_than_the_disk_is_not_begun(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match="3072000 bytes are to come, 1000000 are free"):
        fetch(f"{server.url}/w.pth", tmp_path / "w.pth")


def test_two_at_once_are_refused(tmp_path: Path, server: Server) -> None:
    with (tmp_path / "w.pth.part").open("ab") as held:
        assert try_lock(held)
        with pytest.raises(DownloadError, match=r"another process is fetching .*w\.pth\.part"):
            fetch(f"{server.url}/w.pth", tmp_path / "w.pth")
    assert fetch(f"{server.url}/w.pth", tmp_path / "w.pth") == SHA256
