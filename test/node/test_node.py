# SPDX-License-Identifier: Apache-2.0
"""The node over real DDS, with player, node and recorder in processes of their own: what comes out
for what goes in, value by value.
"""

from __future__ import annotations

import array
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from dds import environment
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from nodes import (
    HEIGHT,
    KEEP,
    WIDTH,
    Bench,
    camera_info_message,
    end_politely,
    image_message,
    running_node,
)
from nodes import picture as picture_of
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from depthforge_ros.benchmark.topics import resident_mib
from depthforge_ros.engine import build_engine
from depthforge_ros.frame import Frame, Prediction
from depthforge_ros.pipeline import Pipeline, PipelineSettings
from depthforge_ros.variant import load_labels, load_variant

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BEST_EFFORT = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    """What the node is to run, in this process and with as many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    engine = build_engine(load_variant("nano"), "untrained", device="cpu")
    yield Pipeline(engine, PipelineSettings(short_side_px=HEIGHT))
    torch.set_num_threads(threads)


def pixels(message: Image) -> np.ndarray:
    """[H, W] or [H, W, 3] of a message without padding."""
    dtype = np.dtype("<f4" if message.encoding == "32FC1" else np.uint8)
    shape = (message.height, message.width, 3)[: 3 if message.encoding == "rgb8" else 2]
    return np.frombuffer(message.data, dtype).reshape(shape)


def stamped(messages: list) -> dict[tuple[int, int], Any]:
    return {(m.header.stamp.sec, m.header.stamp.nanosec): m for m in messages}


def test_what_is_played_comes_back_as_the_pipelines_prediction(
    domain: int, bench: Bench, pipeline: Pipeline, tmp_path: Path
) -> None:
    folder = tmp_path / "drive"
    folder.mkdir()
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), picture_of(index)[..., ::-1])
    played = bench.subscribe(Image, "/camera/image_raw", KEEP)
    infos = bench.subscribe(CameraInfo, "/camera/camera_info", KEEP)
    images = ("semantic", "confidence", "depth", "semantic_color", "overlay")
    heard = {name: bench.hear(name) for name in images}
    heard["camera_info"] = bench.hear("camera_info", CameraInfo)
    labels = bench.subscribe(String, "/depthforge/labels", LATCHED)
    remaps = ("image:=/camera/image_raw", "camera_info:=/camera/camera_info")
    play = [sys.executable, "-m", "depthforge_ros.cli", "play", str(folder), "--loop"]
    play += ["--rate", "4", "--fov", "90"]
    with running_node(domain, tmp_path, *remaps, variant="nano", checkpoint="untrained"):
        bench.wait_for("state", "active")
        player = subprocess.Popen(play, env=environment(domain), stdout=subprocess.DEVNULL)

        def enough() -> bool:
            """Four answers on each topic whose questions were heard, of at least two images."""
            asked = stamped(played).keys() & stamped(infos).keys()
            answered = [asked & stamped(got).keys() for got in heard.values()]
            images = {stamped(played)[stamp].data.tobytes() for stamp in answered[0]}
            return min(map(len, answered)) >= 4 and len(images) >= 2 and bool(labels)

        try:
            bench.spin_until(enough)
        finally:
            end_politely(player)

    sent, calibrations = stamped(played), stamped(infos)
    palette = load_labels("cityscapes").palette()
    predictions: dict[bytes, Prediction] = {}
    compared = 0
    for name, messages in heard.items():
        for message in messages:
            source = sent.get((message.header.stamp.sec, message.header.stamp.nanosec))
            if source is None:  # it was sent before this test subscribed
                continue
            compared += 1
            assert message.header == source.header
            assert (message.width, message.height) == (WIDTH, HEIGHT)
            if name == "camera_info":
                calibration = calibrations[message.header.stamp.sec, message.header.stamp.nanosec]
                np.testing.assert_allclose(message.k, calibration.k, rtol=0, atol=1e-12)
                continue
            rgb = pixels(source)
            key = rgb.tobytes()
            if key not in predictions:
                predictions[key] = pipeline(Frame(rgb, focal_px=WIDTH / 2))  # 90 degrees wide
            seen = predictions[key]
            color = palette[seen.labels]
            mixed = np.where(seen.labels[..., None] == 255, rgb, (rgb / 2 + color / 2))
            expected = {
                "semantic": seen.labels,
                "confidence": seen.confidence,
                "depth": seen.depth,
                "semantic_color": color,
                "overlay": mixed,
            }[name]
            np.testing.assert_allclose(
                pixels(message), expected, rtol=0, atol=0.51 if name == "overlay" else 0
            )
    assert compared >= 4 * len(heard)
    assert len(predictions) >= 2  # different images, so a stale mask would show
    described = json.loads(labels[0].data)
    assert [c["name"] for c in described["classes"]][:3] == ["road", "sidewalk", "building"]
    assert described["unlabelled"] == 255


def test_compressed_images_give_the_same_masks(
    domain: int, bench: Bench, pipeline: Pipeline, tmp_path: Path
) -> None:
    heard = bench.hear("semantic")
    message = CompressedImage(header=image_message(2).header, format="png")
    encoded = cv2.imencode(".png", picture_of(2)[..., ::-1])[1]
    message.data = array.array("B", encoded.tobytes())
    with running_node(
        domain, tmp_path, variant="nano", checkpoint="untrained", image_transport="compressed"
    ):
        answer = bench.exchange(message, heard)
        bench.wait_for("input topic", "/image/compressed")
    assert answer.header == message.header
    np.testing.assert_array_equal(pixels(answer), pipeline(Frame(picture_of(2))).labels)


def test_a_network_that_has_warmed_up_takes_no_more_memory(
    domain: int, bench: Bench, tmp_path: Path
) -> None:
    heard = bench.hear("semantic")
    with running_node(domain, tmp_path, variant="nano", checkpoint="untrained") as node:
        for number in range(90):
            bench.exchange(image_message(number), heard)
            if number == 30:
                warm_mib = resident_mib(node.process.pid)
        assert resident_mib(node.process.pid) - warm_mib < 16.0


BAD = {
    "short_data": {"data": array.array("B", bytes(100))},
    "zero_size": {"width": 0},
    "unknown_encoding": {"encoding": "rgb7"},
    "wrong_step": {"step": 5},
    "bad_aspect": {"width": 1600, "height": 16, "step": 4800, "data": array.array("B", b"\0")},
}


def test_every_bad_image_is_one_named_drop_and_the_node_goes_on(
    domain: int, bench: Bench, tmp_path: Path
) -> None:
    heard = bench.hear("semantic")
    reliable = {"qos_overrides./image.subscription.reliability": "reliable"}  # each is sent once
    bench.image = bench.node.create_publisher(Image, "/image", 1)
    with running_node(domain, tmp_path, checkpoint="instant", **reliable) as node:
        bench.exchange(image_message(0), heard)
        for number, (cause, spoil) in enumerate(BAD.items(), 1):
            del bench.diagnostics[:]
            bench.send(image_message(2 * number - 1, **spoil))
            bench.wait_for(f"dropped: {cause}", "1")
            said = [r.status[0] for r in bench.diagnostics if "dropped" in r.status[0].message]
            assert [s.message.split("; last")[0] for s in said] == [f"dropped: {cause} 1"]
            assert said[0].level == DiagnosticStatus.WARN
            assert bench.exchange(image_message(2 * number), heard).header.stamp.nanosec == (
                14 * number + 1
            )
        assert {m.header.stamp.sec - 1_700_000_000 for m in heard} == set(range(0, 11, 2))

        def dropped() -> dict[str, int]:
            return {k: int(v) for k, v in bench.values().items() if k.startswith("dropped: ")}

        def adds_up() -> bool:
            values = bench.values()
            return int(values["frames in"]) == int(values["frames out"]) + sum(dropped().values())

        bench.report_from_now()
        bench.spin_until(adds_up)
        assert bench.values()["state"] == "active"
        assert node.end() == 0
        assert "Traceback" not in node.log
    assert {name: dropped()[f"dropped: {name}"] for name in BAD} == dict.fromkeys(BAD, 1)


def test_nothing_is_inferred_for_nobody(domain: int, bench: Bench, tmp_path: Path) -> None:
    patient = {"stall_after_s": 3600.0, "stall_error_after_s": 3600.0}
    with running_node(domain, tmp_path, checkpoint="instant", **patient):

        def came() -> bool:
            bench.send(image_message(1))
            bench.drain()
            return int(bench.values().get("frames in", 0)) >= 4

        bench.wait_for("state", "active")
        bench.spin_until(came)
        bench.report_from_now()
        values = bench.values()
        assert values["dropped: no_listener"] == values["frames in"]
        assert values["frames out"] == "0"
        assert bench.status().level == DiagnosticStatus.WARN
        assert bench.status().message == "checkpoint 'instant': masks mean nothing"
        # Once somebody listens, it works.
        heard = bench.hear("confidence")
        assert bench.exchange(image_message(9), heard).encoding == "mono8"


def test_live_parameters_act_at_the_next_frame(domain: int, bench: Bench, tmp_path: Path) -> None:
    heard, color = bench.hear("semantic"), bench.hear("semantic_color")
    overlay = bench.hear("overlay")
    infos = bench.hear("camera_info", CameraInfo)
    labels = bench.subscribe(String, "/depthforge/labels", LATCHED)
    legends = bench.subscribe(Image, "/depthforge/legend", LATCHED)

    def reported() -> list[int]:
        return json.loads(labels[-1].data)["classes"][0]["color"]

    def swatch() -> tuple[int, ...]:
        return tuple(pixels(legends[-1])[10, 10].tolist())

    with running_node(domain, tmp_path, checkpoint="instant"):
        first = bench.exchange(image_message(0), heard)
        assert set(np.unique(pixels(first))) == {0, 10}  # road below, sky above
        assert bench.set(confidence_threshold=0.95).successful
        assert set(np.unique(pixels(bench.exchange(image_message(1), heard)))) == {255}
        assert not pixels(bench.exchange(image_message(1), color)).any()

        assert bench.set(confidence_threshold=0.0).successful
        assert bench.set(overlay_opacity=1.0).successful
        road = load_labels("cityscapes").classes[0].color
        assert tuple(pixels(bench.exchange(image_message(2), overlay))[-1, 0]) == road

        # A class in another colour, in every picture and in what says so.
        assert bench.set(palette="road=#0102fd").successful
        assert tuple(pixels(bench.exchange(image_message(3), overlay))[-1, 0]) == (1, 2, 253)
        bench.spin_until(lambda: reported() == [1, 2, 253] and swatch() == (1, 2, 253))
        assert tuple(pixels(legends[0])[10, 10]) == road
        refused = bench.set(palette="dragon=#000000")
        assert not refused.successful
        assert refused.reason.startswith(
            "a colour is given for dragon; expected some of road, sidew"
        )

        # Twice the image, published at the size of the inference.
        assert bench.set(short_side_px=2 * HEIGHT).successful
        assert bench.set(full_size=False).successful
        info = camera_info_message()
        scaled = bench.exchange(image_message(4), infos, info)
        large = bench.exchange(image_message(4), heard)
        assert (large.width, large.height) == (2 * WIDTH, 2 * HEIGHT)
        assert (scaled.width, scaled.height) == (2 * WIDTH, 2 * HEIGHT)
        assert scaled.header == large.header
        assert scaled.k[0] == 2 * info.k[0]

        # Slower than the camera, on purpose.
        assert bench.set(max_rate_hz=0.1).successful
        bench.exchange(image_message(5), heard)

        def limited() -> bool:
            bench.send(image_message(6))
            bench.drain()
            return int(bench.values().get("dropped: rate_limit", 0)) >= 1

        bench.spin_until(limited)

        # What is set while nothing is published is reported with the next activation.
        assert bench.change(Transition.TRANSITION_DEACTIVATE)
        assert bench.set(palette="").successful
        assert bench.change(Transition.TRANSITION_ACTIVATE)
        bench.spin_until(lambda: reported() == list(road) and swatch() == road)


def test_a_camera_info_of_another_size_is_not_passed_on(
    domain: int, bench: Bench, tmp_path: Path
) -> None:
    heard, infos = bench.hear("semantic"), bench.hear("camera_info", CameraInfo)
    with running_node(domain, tmp_path, checkpoint="instant"):
        bench.spin_until(lambda: bench.camera_info.get_subscription_count() == 1)
        bench.send(camera_info_message(width=WIDTH + 2))
        bench.drain()
        bench.exchange(image_message(0), heard)
        bench.spin_until(lambda: int(bench.values().get("camera_info: missing", 0)) >= 1)
        assert infos == []


def test_a_relative_variant_never_publishes_depth(
    domain: int, bench: Bench, tmp_path: Path
) -> None:
    inverse = bench.hear("inverse_depth")
    with running_node(domain, tmp_path, variant="dinov2_s", checkpoint="instant"):
        message = bench.exchange(image_message(0), inverse)
        assert message.encoding == "32FC1"
        # What the instant engine says of a flat road under a level camera.
        inverse_depth = pixels(message)
        assert (inverse_depth[: HEIGHT // 2] == 0).all()
        expected = (np.arange(HEIGHT) + 0.5) / HEIGHT - 0.5
        assert np.abs(inverse_depth - expected.clip(0)[:, None]).max() < 0.01
        topics = {name for name, _ in bench.node.get_topic_names_and_types()}
    assert "/depthforge/inverse_depth" in topics
    assert "/depthforge/depth" not in topics


def test_a_relative_variant_gives_metres_by_the_road(
    domain: int, bench: Bench, tmp_path: Path
) -> None:
    depths, inverse = bench.hear("depth"), bench.hear("inverse_depth")
    parameters = {"variant": "dinov2_s", "checkpoint": "instant", "camera_height_m": 1.5}
    with running_node(domain, tmp_path, **parameters):
        bench.exchange(image_message(0), inverse)
        assert not depths  # no camera_info, no metres
        info = camera_info_message()
        info.k[5] = (HEIGHT - 1) / 2  # level, with the horizon in the middle
        message = bench.exchange(image_message(1), depths, info)
        assert message.header.stamp == image_message(1).header.stamp
        depth_m = pixels(message)
    assert np.isposinf(depth_m[: HEIGHT // 2]).all()
    rows = np.arange(HEIGHT * 3 // 4, HEIGHT)
    expected_m = 1.5 * info.k[4] / (rows - info.k[5])
    assert np.abs(depth_m[rows] / expected_m[:, None] - 1).max() < 0.1


def test_quality_of_service_can_be_overridden(domain: int, bench: Bench, tmp_path: Path) -> None:
    # A best-effort listener hears a best-effort publisher; a reliable one would not.
    heard = bench.subscribe(Image, "/depthforge/semantic", BEST_EFFORT)
    override = {
        "qos_overrides./depthforge/semantic.publisher.reliability": "best_effort",
        "qos_overrides./image.subscription.reliability": "reliable",
    }
    bench.image = bench.node.create_publisher(Image, "/image", 1)  # a reliable camera
    with running_node(domain, tmp_path, checkpoint="instant", **override):
        bench.exchange(image_message(0), heard)
        (publisher,) = bench.node.get_publishers_info_by_topic("/depthforge/semantic")
        (image,) = bench.node.get_subscriptions_info_by_topic("/image")
        (info,) = bench.node.get_subscriptions_info_by_topic("/camera_info")
    assert publisher.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    assert image.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT  # not overridden
