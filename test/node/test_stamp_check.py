# SPDX-License-Identifier: Apache-2.0
"""Which images are served, by stamp and clock: late ones, jumps, loops, and clocks that differ."""

from __future__ import annotations

import pytest

from depthforge_ros.ros.node.stamp_check import RESTART_FRAMES, Freshness, judge_age

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
NOW = 1_700_000_000 * SECOND


def judged(
    freshness: Freshness, stamp_ns: int, clock_ns: int | None = None, max_age_s: float = 1.0
) -> str | None:
    """The cause, by a clock that agrees with the camera's unless another one is given."""
    clock_ns = stamp_ns + SECOND // 20 if clock_ns is None else clock_ns
    refusal = freshness.judge(stamp_ns, clock_ns, max_age_s)
    return None if refusal is None else refusal.cause


@pytest.mark.parametrize(
    ("stamp_ns", "clock_ns", "max_age_s", "text"),
    [
        (NOW, NOW + SECOND, 1.0, None),
        (NOW, NOW + SECOND + 1, 1.0, "it is 1.0 s old; allowed 1 s"),
        (NOW, NOW + HOUR, 1.0, "it is 3600.0 s old; allowed 1 s"),
        (NOW, NOW + HOUR, 0.0, None),
        (NOW + SECOND, NOW, 1.0, None),
        (NOW + HOUR, NOW, 1.0, "its stamp is 3600.0 s ahead of the clock; allowed 1 s"),
        (0, NOW, 1.0, "its stamp is zero: its publisher sets none"),
        (0, SECOND // 2, 1.0, None),  # a simulation that has just started
        (NOW, 0, 1.0, None),  # no /clock yet
        (-5 * SECOND, SECOND, 1.0, "it is 6.0 s old; allowed 1 s"),
    ],
)
def test_the_age_of_an_image_has_a_limit_on_both_sides(
    stamp_ns: int, clock_ns: int, max_age_s: float, text: str | None
) -> None:
    refusal = judge_age(stamp_ns, clock_ns, max_age_s)
    assert (refusal and refusal.text) == text


def test_every_image_of_an_orderly_camera_is_served() -> None:
    freshness = Freshness()
    stamps = [NOW + index * SECOND // 30 for index in range(90)]
    assert [judged(freshness, stamp) for stamp in stamps] == [None] * 90
    assert judged(freshness, stamps[-1]) is None  # the same one again is not older


def test_a_late_image_is_dropped_and_the_next_one_served() -> None:
    freshness = Freshness()
    clock = NOW + SECOND
    stamps = [NOW + n * SECOND // 10 for n in (0, 3, 1, 4, 2, 5)]
    causes = [judged(freshness, stamp, clock) for stamp in stamps]
    assert causes == [None, None, "backwards", None, "backwards", None]
    freshness.judge(NOW + SECOND, clock, 1.0)
    refusal = freshness.judge(NOW + SECOND // 2, clock, 1.0)
    assert refusal
    assert refusal.text == "its stamp is 0.500 s before that of the one before it"


def test_late_images_in_falling_order_never_become_a_stream() -> None:
    freshness = Freshness()
    stamps = [NOW - n * SECOND // 100 for n in range(20)]
    causes = [judged(freshness, stamp, NOW) for stamp in stamps]
    assert causes == [None] + 19 * ["backwards"]


def test_a_stream_that_starts_over_is_served_again_after_two_images() -> None:
    """A bag that is looped without /clock, ages not limited."""
    freshness = Freshness()
    drive = [NOW + n * SECOND // 10 for n in range(10)]
    causes = [judged(freshness, stamp, NOW + HOUR + n, 0.0) for n, stamp in enumerate(2 * drive)]
    late = RESTART_FRAMES - 1
    assert causes == 10 * [None] + late * ["backwards"] + (10 - late) * [None]


def test_of_two_cameras_on_one_topic_the_older_one_is_not_served() -> None:
    freshness = Freshness()
    pairs = [(NOW + n * SECOND // 10, NOW + (n - 5) * SECOND // 10) for n in range(10)]
    causes = [judged(freshness, stamp, NOW + SECOND, 0.0) for pair in pairs for stamp in pair]
    assert causes == 10 * [None, "backwards"]


def test_a_looped_bag_with_its_clock_loses_nothing() -> None:
    freshness = Freshness()
    drive = [NOW + n * SECOND // 10 for n in range(50)]
    assert [judged(freshness, stamp) for stamp in 3 * drive] == [None] * 150


@pytest.mark.parametrize("jump_ns", [HOUR, -HOUR])
def test_a_jump_of_the_clock_that_the_camera_shares_costs_what_was_under_way(jump_ns: int) -> None:
    freshness = Freshness()
    assert judged(freshness, NOW) is None
    # Stamped before the jump, come after it.
    under_way = judged(freshness, NOW + SECOND // 10, NOW + SECOND // 5 + jump_ns)
    assert under_way == ("stale" if jump_ns > 0 else "future")
    after = [NOW + jump_ns + n * SECOND // 10 for n in range(3, 20)]
    assert [judged(freshness, stamp) for stamp in after] == [None] * 17


@pytest.mark.parametrize(("jump_ns", "cause"), [(HOUR, "future"), (-HOUR, "stale")])
def test_a_camera_whose_clock_is_an_hour_off_is_not_served_while_ages_are_limited(
    jump_ns: int, cause: str
) -> None:
    freshness = Freshness()
    clocks = [NOW + n * SECOND // 10 for n in range(20)]
    assert [judged(freshness, clock, clock) for clock in clocks[:10]] == [None] * 10
    assert [judged(freshness, c + jump_ns, c) for c in clocks[10:]] == [cause] * 10
    # It recovers with the camera's clock: what was refused has left no trace.
    assert judged(freshness, clocks[-1] + 1, clocks[-1] + 2) is None


def test_without_a_limit_a_camera_that_jumps_back_is_followed() -> None:
    freshness = Freshness()
    clocks = [NOW + n * SECOND // 10 for n in range(10)]
    assert judged(freshness, clocks[0], clocks[0], 0.0) is None
    causes = [judged(freshness, clock - HOUR, clock, 0.0) for clock in clocks[1:]]
    assert causes == ["backwards", "backwards"] + 7 * [None]


def test_another_subscription_starts_without_a_past() -> None:
    freshness = Freshness()
    assert judged(freshness, NOW + SECOND, NOW) is None
    assert judged(freshness, NOW, NOW) == "backwards"
    freshness.restart()
    assert judged(freshness, NOW, NOW) is None
