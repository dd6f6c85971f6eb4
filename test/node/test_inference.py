# SPDX-License-Identifier: Apache-2.0
"""What happens to a frame on its way through the node, with an engine that is held or broken."""

from __future__ import annotations

import array
import dataclasses

import pytest
import rclpy
import torch
from dds import own_domain
from engines import HeldEngine
from nodes import HEIGHT, WIDTH, camera_info_message, image_message
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from rigs import Rig, stamps
from sensor_msgs.msg import Image
from waits import WAIT_S

from depthforge_ros.pipeline import Pipeline
from depthforge_ros.ros.node.inference import Inference, load_pipeline
from depthforge_ros.ros.node.parameters import OUTPUTS, Parameters
from depthforge_ros.ros.node.statistics import Statistics


def test_while_one_is_inferred_only_the_newest_waits(rig: Rig) -> None:
    heard = rig.hear("semantic")
    rig.stream.receive(image_message(1))
    assert rig.engine.started.acquire(timeout=WAIT_S)
    for index in (2, 3, 4, 5):
        rig.stream.receive(image_message(index))
    rig.engine.permits.release()
    rig.listener.spin_until(lambda: stamps(heard) == [1])
    rig.engine.permits.release()
    rig.listener.spin_until(lambda: stamps(heard) == [1, 5])
    health = rig.settled(5)
    assert (health.frames_in, health.frames_out, health.drops) == (5, 2, {"replaced": 3})


def test_a_frame_at_hand_when_the_input_closes_is_never_published(rig: Rig) -> None:
    heard = rig.hear("semantic")
    rig.stream.receive(image_message(1))
    assert rig.engine.started.acquire(timeout=WAIT_S)
    rig.stream.receive(image_message(2))
    rig.inference.close_input()
    rig.inference.open_input()  # not even when the node is active again before it is done
    rig.engine.permits.release(10)
    assert rig.settled(2).drops == {"inactive": 2}
    rig.stream.receive(image_message(3))
    rig.settled(3)
    rig.listener.spin_until(lambda: bool(heard))
    assert stamps(heard) == [3]


def test_an_error_of_the_engine_is_counted_and_the_next_frame_goes_through(rig: Rig) -> None:
    heard = rig.hear("semantic")
    rig.engine.permits.release(10)
    rig.engine.error = RuntimeError("out of memory")
    rig.stream.receive(image_message(1))
    health = rig.settled(1)
    assert health.drops == {"inference_error": 1}
    assert health.fault_text == "RuntimeError: out of memory"
    rig.engine.error = None
    rig.stream.receive(image_message(2))
    assert rig.settled(2).frames_out == 1
    rig.listener.spin_until(lambda: bool(heard))
    assert stamps(heard) == [2]


def test_the_engine_is_not_asked_while_nobody_listens(rig: Rig) -> None:
    rig.engine.permits.release(10)
    rig.stream.receive(image_message(1))
    assert rig.settled(1).drops == {"no_listener": 1}
    assert rig.engine.depths == []


def test_a_reason_lasts_as_long_as_its_output_is_wanted_and_the_input_open(rig: Rig) -> None:
    rig.engine.permits.release(10)
    rig.hear("semantic")
    for name in ("depth", "camera_info"):
        rig.hear(name)
    assert set(rig.through(image_message(1)).withheld) == {"depth", "camera_info"}
    rig.leave("camera_info")
    assert set(rig.through(image_message(2)).withheld) == {"depth"}
    rig.inference.close_input()
    assert rig.statistics.snapshot().withheld == {}
    rig.inference.open_input()
    assert set(rig.through(image_message(3)).withheld) == {"depth"}
    rig.leave("depth")
    rig.leave("semantic")
    health = rig.through(image_message(4))
    assert (health.drops, health.withheld) == ({"no_listener": 1}, {})


def test_a_frames_condition_is_told() -> None:
    """The image's and the mask's, and forgotten when the input is opened anew."""
    made = Rig(HeldEngine())
    try:
        made.engine.permits.release(10)
        made.hear("semantic")
        message = image_message(0, data=array.array("B", bytes(HEIGHT * WIDTH * 3)))
        condition = made.through(message).condition
        assert (condition.brightness, condition.contrast, condition.saturated) == (0, 0, 0)
        assert condition.image_degradation == 1
        assert condition.doubt == pytest.approx(1 - 230 / 255, abs=0.01)
        assert made.through(image_message(1)).condition.brightness > 0.3
        made.inference.open_input()
        assert made.statistics.snapshot().condition is None
    finally:
        made.close()


def test_what_follows_a_publication_does_not_make_it_a_drop(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.engine.permits.release(10)
    heard, overlay = rig.hear("semantic"), rig.hear("overlay")

    def fail(*arguments: object) -> None:
        raise RuntimeError("no colour")

    with monkeypatch.context() as patch:
        patch.setattr(rig.stream.outputs, "for_people", fail)
        rig.stream.receive(image_message(1))
        rig.listener.spin_until(lambda: stamps(heard) == [1])
        health = rig.settled(1)
    assert (health.frames_out, health.drops) == (1, {})
    assert health.undrawn_text == "RuntimeError: no colour"
    rig.inference.open_input()  # whatever stamps there were before
    message = image_message(2)
    message.header.stamp.sec = -5
    health = rig.through(message)
    assert (health.frames_out, health.drops) == (2, {})
    assert health.age_ms is not None
    assert health.age_ms > 1.7e12  # ROS time since 1970
    rig.listener.spin_until(lambda: len(overlay) == 1)


def test_outputs_are_switched_between_frames(rig: Rig) -> None:
    rig.engine.permits.release(10)
    rig.stream.receive_camera_info(camera_info_message())
    heard = {name: rig.hear(name) for name in ("semantic", "confidence", "depth")}
    rig.values = dataclasses.replace(rig.values, outputs="confidence, overlay")
    rig.through(image_message(1))
    rig.values = dataclasses.replace(rig.values, outputs="overlay")
    assert rig.through(image_message(2)).drops == {"no_listener": 1}
    rig.values = dataclasses.replace(rig.values, outputs="all")
    rig.through(image_message(3))
    expected = {"semantic": [3], "confidence": [1, 3], "depth": [3]}
    rig.listener.spin_until(lambda: {n: stamps(got) for n, got in heard.items()} == expected)
    assert rig.engine.depths == [False, True]


def test_every_output_has_a_name_to_switch_it_by(rig: Rig) -> None:
    relative, placed = Rig(HeldEngine("dinov2_s")), Rig(HeldEngine(), camera_height_m=1.5)
    relative.close()
    placed.close()
    publishers = {
        name for made in (rig, relative, placed) for name in made.stream.outputs.publishers
    }
    assert publishers == set(OUTPUTS)


def fresh(rig: Rig, index: int) -> Image:
    message = image_message(index)
    message.header.stamp = rig.node.get_clock().now().to_msg()
    return message


def test_what_is_not_fresh_is_dropped_by_cause_and_never_inferred(rig: Rig) -> None:
    rig.engine.permits.release(10)
    rig.hear("semantic")
    rig.values = dataclasses.replace(rig.values, drop_stale=True, max_frame_age_s=60.0)
    assert rig.through(image_message(1)).drops == {"stale": 1}
    unstamped, early = image_message(2), image_message(3)
    unstamped.header.stamp.sec = unstamped.header.stamp.nanosec = 0
    early.header.stamp.sec = (1 << 31) - 1  # in 2038
    assert rig.through(unstamped).drops == {"stale": 1, "zero_stamp": 1}
    health = rig.through(early)
    assert health.drops == {"stale": 1, "zero_stamp": 1, "future": 1}
    assert "ahead of the clock; allowed 60 s" in health.fault_text
    late = fresh(rig, 4)
    assert rig.through(fresh(rig, 5)).frames_out == 1
    assert rig.through(late).drops["backwards"] == 1
    assert rig.engine.depths == [False]


def test_a_frame_that_waited_too_long_is_not_inferred(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.hear("semantic")
    rig.values = dataclasses.replace(rig.values, drop_stale=True, max_frame_age_s=60.0)
    rig.stream.receive(fresh(rig, 1))
    assert rig.engine.started.acquire(timeout=WAIT_S)
    rig.stream.receive(fresh(rig, 2))
    # A frame is handled by the parameters of its arrival, and 100 s later it is too old by them.
    rig.values = dataclasses.replace(rig.values, max_frame_age_s=1e3)
    later_ns = rig.node.get_clock().now().nanoseconds + 100 * 10**9
    monkeypatch.setattr(rig.stream, "_clock_ns", lambda: later_ns)
    rig.engine.permits.release(10)
    health = rig.settled(2)
    assert (health.frames_out, health.drops) == (1, {"stale": 1})


def test_a_frame_in_work_is_seen_and_given_up_with_its_worker(rig: Rig) -> None:
    rig.hear("semantic")
    rig.stream.receive(image_message(1))
    assert rig.engine.started.acquire(timeout=WAIT_S)
    assert rig.statistics.snapshot().work_s is not None
    assert rig.inference.close(0.05) is False
    assert rig.statistics.snapshot().work_s is None


def test_a_size_that_no_memory_holds_is_a_drop_with_its_reason(rig: Rig) -> None:
    rig.engine.permits.release(10)
    rig.hear("semantic")
    rig.values = dataclasses.replace(rig.values, short_side_px=4096)
    health = rig.through(image_message(1))
    assert health.drops == {"inference_error": 1}
    assert "would be inferred at 6144x4096; expected at most" in health.fault_text
    rig.values = dataclasses.replace(rig.values, short_side_px=HEIGHT)
    assert rig.through(image_message(2)).frames_out == 1


def test_a_wrong_override_leaves_no_publisher_behind() -> None:
    context = Context()
    rclpy.init(context=context, domain_id=own_domain())
    wrong = Parameter("qos_overrides./depthforge/camera_info.publisher.reliability", value="some")
    node = LifecycleNode("depthforge", context=context, parameter_overrides=[wrong])
    before = [publisher.topic_name for publisher in node.publishers]
    with pytest.raises(RuntimeError, match="`some`"):
        Inference(node, Pipeline(HeldEngine()), {"": Statistics()}, Parameters)
    assert [publisher.topic_name for publisher in node.publishers] == before
    node.destroy_node()
    context.try_shutdown()


def test_threads_are_those_asked_for_and_come_back_to_the_default() -> None:
    default = torch.get_num_threads()
    counts = []
    for threads in (0, default + 1, 0):
        load_pipeline(
            Parameters(checkpoint="instant", threads=threads), lambda journal: None, lambda: True
        )
        counts.append(torch.get_num_threads())
    assert counts == [default, default + 1, default]
