# SPDX-License-Identifier: Apache-2.0
"""Files of the Hugging Face Hub: huggingface_hub finds them, if it is installed.

It follows HF_ENDPOINT (a mirror), HF_TOKEN and the proxy settings, and knows the SHA-256 of large
files. The bytes come through `download`, because huggingface_hub 2.4 does not resume a transfer
that an earlier call began. Without the library, `download` fetches the address itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from depthforge_ros.weights.download import DownloadError, download


class HubFile(NamedTuple):
    """A file of a repository on the Hub, at a revision."""

    repository: str
    revision: str
    path: str


def hub_file(url: str) -> HubFile | None:
    """Return the file of the Hub that an address names, None for any other address."""
    pattern = r"https://huggingface\.co/([^/]+/[^/]+)/resolve/([^/]+)/(.+)"
    match = re.fullmatch(pattern, url)
    return None if match is None else HubFile(*match.groups())


def fetch(url: str, target: Path, sha256: str | None = None, endpoint: str | None = None) -> str:
    """Fetch a file unless the target exists, and return its SHA-256 in hexadecimal.

    endpoint: address of the Hub, None: HF_ENDPOINT or huggingface.co. Raise DownloadError if the
    file cannot be fetched (what came is kept), or is not the expected one (it is then removed).
    """
    file = hub_file(url)
    if file is None or target.is_file():
        return download(url, target, sha256)
    try:
        from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url
    except ModuleNotFoundError:
        return download(url, target, sha256)
    address = hf_hub_url(file.repository, file.path, revision=file.revision, endpoint=endpoint)
    try:
        found = get_hf_file_metadata(address, endpoint=endpoint)
    except (OSError, ValueError, errors.HTTPError) as error:
        raise DownloadError(f"{address}: {' '.join(str(error).split())}") from error
    if sha256 is None and re.fullmatch("[0-9a-f]{64}", found.etag or ""):
        sha256 = found.etag  # of a large file it is the sum
    try:
        return download(found.location or address, target, sha256)
    except DownloadError as error:  # locations are long and signed
        raise DownloadError(str(error).replace(found.location or address, url)) from error
