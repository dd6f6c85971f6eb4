# SPDX-License-Identifier: Apache-2.0
"""Counters and percentiles over time."""

from __future__ import annotations

import pytest
from clocks import Clock

from depthforge_ros.ros.node.statistics import Statistics


def test_rate_and_latency_are_of_the_last_ten_seconds(clock: Clock, statistics: Statistics) -> None:
    statistics.open_input()
    for index in range(200):  # 20 s at 10 Hz; 500 ms in the first half, then 1..100 ms
        clock.now_ms += 100
        statistics.frame_in(clock(), clock())
        latency_ms = 500 if index < 100 else index - 99
        statistics.frame_out(latency_ms * 1_000_000, 33_000_000, 640, 480)
    health = statistics.snapshot()
    assert (health.frames_in, health.frames_out) == (200, 200)
    assert health.rate_hz == pytest.approx(10.0, abs=0.11)
    assert health.latency_p50_ms == pytest.approx(50.5, abs=1)
    assert health.latency_p99_ms == pytest.approx(99.0, abs=6)  # one of 500 ms is just in reach
    assert health.age_ms == 33.0
    clock.now_ms += 11_000
    late = statistics.snapshot()
    assert (late.rate_hz, late.latency_p50_ms, late.age_ms) == (0.0, None, None)


def test_a_young_node_does_not_divide_by_ten_seconds(clock: Clock, statistics: Statistics) -> None:
    statistics.open_input()
    for _ in range(20):
        clock.now_ms += 100
        statistics.frame_out(1, 1, 640, 480)
    assert statistics.snapshot().rate_hz == pytest.approx(10.0)


def test_work_of_an_abandoned_worker_does_not_hide_that_of_its_successor(
    clock: Clock, statistics: Statistics
) -> None:
    hung, next_one = statistics.working(), statistics.working()
    hung.__enter__()
    statistics.abandon_work()
    assert statistics.snapshot().work_s is None
    clock.now_ms += 1000
    next_one.__enter__()
    clock.now_ms += 500
    hung.__exit__(None, None, None)
    assert statistics.snapshot().work_s == 0.5
    next_one.__exit__(None, None, None)
    assert statistics.snapshot().work_s is None
