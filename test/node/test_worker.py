# SPDX-License-Identifier: Apache-2.0
"""The thread, the rate and the loading that can be given up, each to the end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import pytest
from waits import WAIT_S

from depthforge_ros.ros.node.worker import (
    LOADING_THREAD,
    AbandonedError,
    RateLimit,
    Worker,
    run_abandonable,
)

SECOND_NS = 1_000_000_000


class Queue:
    """Gives out what was put in, in order."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.put = self._items.put
        self.take = self._items.get

    def close(self) -> None:
        self._items.put(None)


def start_worker(work: Callable[[int], None], failed: Callable[[int, Exception], None]) -> tuple:
    """A worker and the inlet of its items."""
    inlet = Queue()
    return Worker("test", inlet, work, failed), inlet


def test_what_work_raises_is_handed_over_and_the_thread_goes_on() -> None:
    failures: list[tuple[int, str]] = []
    worked = threading.Event()
    failed = threading.Event()

    def work(item: int) -> None:
        if item == 1:
            raise ValueError("no")
        worked.set()

    def note(item: int, error: Exception) -> None:
        failures.append((item, str(error)))
        failed.set()

    worker, inlet = start_worker(work, note)
    inlet.put(1)
    assert failed.wait(WAIT_S)
    inlet.put(2)
    assert worked.wait(WAIT_S)
    assert worker.stop(WAIT_S)
    assert failures == [(1, "no")]


def test_even_a_failure_that_cannot_be_told_does_not_end_the_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worked, reported = threading.Event(), threading.Event()

    def work(item: int) -> None:
        if item == 1:
            raise ValueError("no")
        worked.set()

    def tell(item: int, error: Exception) -> None:
        reported.set()
        raise OSError("the log is full")

    worker, inlet = start_worker(work, tell)
    inlet.put(1)
    assert reported.wait(WAIT_S)
    inlet.put(2)
    assert worked.wait(WAIT_S)
    assert worker.stop(WAIT_S)
    assert "the log is full" in caplog.text


def test_work_that_does_not_end_is_reported() -> None:
    started, go_on = threading.Event(), threading.Event()

    def work(item: int) -> None:
        started.set()
        go_on.wait(WAIT_S)

    worker, inlet = start_worker(work, lambda item, error: None)
    inlet.put(1)
    assert started.wait(WAIT_S)
    assert worker.stop(0.01) is False
    go_on.set()
    assert worker.stop(WAIT_S) is True


@pytest.mark.parametrize(
    ("camera_hz", "limit_hz", "passed"),
    [(30, 10, 100), (30, 20, 200), (30, 25, 250), (30, 0, 300), (10, 30, 100), (7, 7, 70)],
)
def test_the_mean_rate_is_the_limit(camera_hz: int, limit_hz: float, passed: int) -> None:
    limit = RateLimit()
    times = [SECOND_NS * index // camera_hz + 5 * SECOND_NS for index in range(10 * camera_hz)]
    assert sum(limit.passes(now_ns, limit_hz) for now_ns in times) == pytest.approx(passed, abs=1)


def test_a_pause_gives_no_burst() -> None:
    limit = RateLimit()
    times_ms = [0, 1, 100, 101, 5000, 5001, 5050, 5100]
    passed = [ms for ms in times_ms if limit.passes((ms + 10_000) * 1_000_000, 10.0)]
    assert passed == [0, 100, 5000, 5100]


def test_loading_gives_its_result_or_its_error() -> None:
    assert run_abandonable(lambda: 7, lambda: True) == 7
    with pytest.raises(KeyError, match="weights"):
        run_abandonable(lambda: {}["weights"], lambda: True)


def test_loading_that_is_no_longer_wanted_is_given_up_at_once() -> None:
    go_on = threading.Event()
    with pytest.raises(AbandonedError):
        run_abandonable(lambda: go_on.wait(WAIT_S), lambda: False)
    (busy,) = [t for t in threading.enumerate() if t.name == LOADING_THREAD]
    go_on.set()
    busy.join(WAIT_S)
    assert not busy.is_alive()
