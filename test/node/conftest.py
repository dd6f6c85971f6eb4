# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several tests of the node share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clocks import Clock
from dds import own_domain
from engines import HeldEngine
from nodes import Bench
from rigs import Rig

from depthforge_ros.ros.node.statistics import Statistics


@pytest.fixture
def domain() -> int:
    return own_domain()


@pytest.fixture
def bench(domain: int) -> Iterator[Bench]:
    with Bench(domain) as made:
        yield made


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(HeldEngine())
    yield made
    made.close()


@pytest.fixture
def by_ground() -> Iterator[Rig]:
    """A relative variant that is asked for metres; its engine is never held."""
    made = Rig(HeldEngine("dinov2_s"), camera_height_m=1.5)
    made.engine.permits.release(100)
    yield made
    made.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def statistics(clock: Clock) -> Statistics:
    return Statistics(clock)
