# SPDX-License-Identifier: Apache-2.0
"""Threads of PyTorch wait in tests as they do in the product's processes; set before its import."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from depthforge_ros.cpu_tuning import calm_idle_threads

calm_idle_threads()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For numbers that must not depend on the machine: sums of several threads differ."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
