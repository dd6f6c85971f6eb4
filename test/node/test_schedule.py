# SPDX-License-Identifier: Apache-2.0
"""Whose frame comes next where several cameras share an engine, by hand and without ROS."""

from __future__ import annotations

import threading
from collections.abc import Hashable

import pytest
from waits import WAIT_S

from depthforge_ros.ros.node.camera_names import camera_names, topic_of
from depthforge_ros.ros.node.schedule import ALONE, Handoff, Schedule


def by_letter(item: str) -> tuple[Hashable, int]:
    """Items of the same first letter go together, as many as the second character says."""
    return item[0], int(item[1])


def test_the_newest_item_of_a_camera_replaces_the_waiting_one() -> None:
    schedule: Schedule[int] = Schedule(["", "left"])
    assert [schedule.put("", 1), schedule.put("", 2), schedule.put("left", 3)] == [
        False,
        True,
        False,
    ]
    assert [schedule.take(), schedule.take()] == [[2], [3]]
    assert schedule.put("", 4) is False
    assert [schedule.clear(), schedule.clear()] == [[""], []]


def test_who_was_served_longest_ago_goes_first() -> None:
    schedule: Schedule[str] = Schedule(["a", "b", "c"])
    order = []
    for camera in ("c", "a", "a", "b", "c", "a"):
        schedule.put(camera, camera)
    order += [schedule.take(), schedule.take(), schedule.take()]
    assert order == [["a"], ["b"], ["c"]]
    schedule.put("c", "c")
    schedule.take()
    for camera in ("c", "b", "a"):
        schedule.put(camera, camera)
    assert [schedule.take(), schedule.take(), schedule.take()] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("most", [1, 2, 4])
def test_a_slow_camera_is_served_as_soon_as_it_waits_beside_fast_ones(most: int) -> None:
    """Three cameras always have a frame and one now and then; the engine is the bottleneck."""
    cameras = ["fast", "slow", "faster", "fastest"]
    schedule: Schedule[str] = Schedule(cameras, lambda item: ("all", most))
    waited, longest = 0, 0
    served = dict.fromkeys(cameras, 0)
    for call in range(200):
        for camera in ("fastest", "faster", "fast"):
            schedule.put(camera, camera)
        if call % 7 == 0:
            schedule.put("slow", "slow")
            waited = 0
        taken = schedule.take()
        assert len(taken) <= most
        for camera in taken:
            served[camera] += 1
        if "slow" in taken:
            longest = max(longest, waited)
        waited += 1
    assert served["slow"] == 29  # every one of its frames
    assert longest <= 3 // most  # calls that it waited for the others
    others = [served[camera] for camera in cameras if camera != "slow"]
    assert max(others) - min(others) <= 1


def test_what_goes_together_is_taken_together_and_not_more_than_that() -> None:
    schedule: Schedule[str] = Schedule("abcde", by_letter)
    for camera, item in zip("abcde", ("x3", "y9", "x3", "x3", "x3"), strict=True):
        schedule.put(camera, item + camera)
    assert schedule.take() == ["x3a", "x3c", "x3d"]
    assert schedule.take() == ["y9b"]  # it waits longer than e
    assert schedule.take() == ["x3e"]


def test_alone_is_alone() -> None:
    schedule: Schedule[str] = Schedule("ab", lambda item: ALONE)
    schedule.put("a", "x")
    schedule.put("b", "y")
    assert [schedule.take(), schedule.take()] == [["x"], ["y"]]


def test_a_closed_schedule_lets_its_taker_go_and_gives_nothing_more() -> None:
    schedule: Schedule[int] = Schedule([""])
    taken: list[list[int] | None] = []
    taker = threading.Thread(target=lambda: taken.append(schedule.take()))
    taker.start()
    schedule.close()
    taker.join(WAIT_S)
    assert taken == [None]
    schedule.put("", 1)
    assert schedule.take() is None


def test_an_item_wakes_its_taker() -> None:
    schedule: Schedule[int] = Schedule(["", "left"])
    taken: list[list[int] | None] = []
    taker = threading.Thread(target=lambda: taken.append(schedule.take()))
    taker.start()
    schedule.put("left", 7)
    taker.join(WAIT_S)
    assert taken == [[7]]


def test_a_camera_that_nobody_named_is_refused() -> None:
    with pytest.raises(KeyError, match="rear"):
        Schedule(["front"]).put("rear", 1)


@pytest.mark.parametrize("name", ["front", "f", "Left_2", "cam_"])
def test_names_that_can_be_part_of_a_topic(name: str) -> None:
    assert camera_names([name, "other"]) == (name, "other")
    assert topic_of(name, "image") == f"{name}/image"


def test_an_empty_name_is_one_camera_without_a_name() -> None:
    assert camera_names([""]) == ("",)
    assert topic_of("", "image/compressed") == "image/compressed"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], r"cameras is empty; expected a list like \[front, left\] or \[''\]"),
        (["front", "front-left"], "cameras has 'front-left'; expected letters, digits and single"),
        (["2nd"], "cameras has '2nd'; expected letters"),
        (["_hidden"], "cameras has '_hidden'"),
        (["a__b"], "cameras has 'a__b'"),
        (["a/b"], "cameras has 'a/b'"),
        (["front", ""], "cameras has ''"),
        (["vorn\n"], "cameras has 'vorn\\\\n'"),
        (["mitteü"], "cameras has 'mitteü'"),
        (["front", "left", "front"], "cameras has 'front' 2 times; expected it once"),
        (["", ""], "cameras has ''"),
    ],
)
def test_names_that_cannot_are_refused_with_the_reason(names: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        camera_names(names)


def test_a_handoff_keeps_every_item_and_their_order() -> None:
    handoff: Handoff[int] = Handoff()
    taken = []
    taker = threading.Thread(target=lambda: taken.extend(iter(handoff.take, None)))
    taker.start()
    assert all(handoff.put(item) for item in range(101))  # the last waits until 99 is taken
    handoff.close()
    taker.join(WAIT_S)
    assert taken[:100] == list(range(100))
    assert taken[100:] == [100] or handoff.left() == 100


def test_a_closed_handoff_takes_and_gives_nothing_and_tells_what_is_left() -> None:
    handoff: Handoff[int] = Handoff()
    assert handoff.put(1)
    results = []
    putter = threading.Thread(target=lambda: results.append(handoff.put(2)))
    putter.start()  # waits, as nobody takes the first
    handoff.close()
    putter.join(WAIT_S)
    assert results == [False]
    assert handoff.take() is None
    assert [handoff.left(), handoff.left()] == [1, None]
