# SPDX-License-Identifier: Apache-2.0
"""Files of the Hugging Face Hub through its library, from a server that answers as the Hub does."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from http_servers import serving

from depthforge_ros.variant import alternative_names, load_variant, variant_names
from depthforge_ros.weights.download import DownloadError
from depthforge_ros.weights.hub import HubFile, fetch, hub_file

pytest.importorskip("huggingface_hub", reason="needs huggingface_hub, the package's extra `hub`")

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = "https://huggingface.co/maker/weights/resolve/main/deep/w.pth"


class Hub:
    """Offers one file. cut_at: bytes after which transfers end. ranges: what was asked for."""

    def __init__(self) -> None:
        self.cut_at: int | None = None
        self.etag = SHA256
        self.ranges: list[str | None] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(head=True)

            def do_GET(self) -> None:
                hub.ranges.append(self.headers.get("Range"))
                self.answer(head=False)

            def answer(self, head: bool) -> None:
                if self.path != "/maker/weights/resolve/main/deep/w.pth":
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.end_headers()
                    return
                asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
                start = int(asked[1]) if asked else 0
                self.send_response(206 if asked else 200)
                self.send_header("ETag", f'"{hub.etag}"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("Content-Length", str(len(CONTENT) - start))
                if asked:
                    last = len(CONTENT) - 1
                    self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
                self.end_headers()
                if not head:
                    self.wfile.write(CONTENT[start : hub.cut_at])

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    with serving(hub.server):
        yield hub


def test_a_file_comes_checked_and_once(tmp_path: Path, hub: Hub) -> None:
    target = tmp_path / "published/w.pth"
    assert fetch(URL, target, SHA256, hub.url) == SHA256
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["w.pth"]
    assert fetch(URL, target, SHA256, hub.url) == SHA256
    assert len(hub.ranges) == 1


def test_a_transfer_that_was_cut_off_is_resumed_by_a_later_call(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # between attempts
    monkeypatch.setattr("depthforge_ros.weights.download.ATTEMPTS", 1)
    target = tmp_path / "w.pth"
    hub.cut_at = 700_000
    with pytest.raises(DownloadError, match=r"deep/w\.pth does not come: .*run it again to go on"):
        fetch(URL, target, SHA256, hub.url)
    assert not target.exists()
    hub.cut_at = None
    before = len(hub.ranges)
    assert fetch(URL, target, SHA256, hub.url) == SHA256
    assert target.read_bytes() == CONTENT
    assert hub.ranges[before:] == ["bytes=700000-"]


def test_the_sum_that_the_hub_states_is_checked_where_none_is_known(
    tmp_path: Path, hub: Hub
) -> None:
    hub.etag = "1" * 64
    with pytest.raises(DownloadError, match=f"SHA-256 {SHA256}, expected {'1' * 64}"):
        fetch(URL, tmp_path / "w.pth", None, hub.url)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DownloadError, match=f"SHA-256 {SHA256}, expected {'0' * 64}"):
        fetch(URL, tmp_path / "w.pth", "0" * 64, hub.url)
    gone = URL.replace("w.pth", "gone.pth")
    with pytest.raises(DownloadError, match=r"gone\.pth: 404"):
        fetch(gone, tmp_path / "w.pth", None, hub.url)


def test_addresses_of_the_hub_are_told_from_others() -> None:
    assert hub_file(URL) == HubFile("maker/weights", "main", "deep/w.pth")
    assert hub_file("https://dl.fbaipublicfiles.com/dinov2/w.pth") is None
    assert hub_file("https://huggingface.co.evil.org/a/b/resolve/main/w.pth") is None
    names = [f"{base}+{name}" for base in variant_names() for name in alternative_names(base)]
    variants = [load_variant(name) for name in (*variant_names(), *names)]
    depths = [variant.depth for variant in variants if variant.depth is not None]
    urls = {depth.source.url for depth in depths if depth.source is not None}
    assert all(hub_file(url) is not None for url in urls)


def test_without_the_library_our_own_download_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr(
        "depthforge_ros.weights.hub.download", lambda *given: asked.append(given) or SHA256
    )
    assert fetch(URL, tmp_path / "w.pth", SHA256) == SHA256
    assert asked == [(URL, tmp_path / "w.pth", SHA256)]
