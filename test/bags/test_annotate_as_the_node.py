# SPDX-License-Identifier: Apache-2.0
"""A bag annotated offline holds, bit for bit, what the node publishes over DDS for its messages."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
from bagfiles import recorded, write_bag
from nodes import HEIGHT, camera_info_message, image_message
from rclpy.serialization import deserialize_message
from rigs import KINDS, Rig
from sensor_msgs.msg import Image

from depthforge_ros import cli
from depthforge_ros.engine import Request
from depthforge_ros.engine.cache import EngineCache
from depthforge_ros.pipeline import loading
from depthforge_ros.ros.bags.reader import open_bag
from depthforge_ros.ros.messages import stamp_ns
from depthforge_ros.ros.node.inference import load_pipeline
from depthforge_ros.ros.node.parameters import Parameters


@pytest.mark.parametrize(
    ("parameters", "options", "names"),
    [
        (
            {
                "max_depth_m": 20.0,
                "depth_confidence_threshold": 0.5,
                "confidence_threshold": 0.4,
                "precision": "fp32",  # which needs no self-check, and half a minute less
            },
            "--max-depth 20 --depth-confidence-threshold 0.5 --confidence-threshold 0.4 "
            "--precision fp32",
            ("semantic", "confidence", "depth", "camera_info"),
        ),
        (
            {"variant": "dinov2_s", "checkpoint": "instant", "camera_height_m": 1.5},
            "--variant dinov2_s --checkpoint instant --camera-height 1.5",
            ("semantic", "confidence", "inverse_depth", "depth", "camera_info"),
        ),
    ],
    ids=["nano", "metres by the road"],
)
def test_the_same_messages_give_the_same_bits(
    tmp_path: Path, parameters: dict[str, Any], options: str, names: tuple[str, ...]
) -> None:
    info = camera_info_message()
    info.k[5] = info.p[6] = (HEIGHT - 1) / 2  # the horizon of the instant engine
    images = [image_message(index) for index in range(4)]
    images[2].header.frame_id = "another"  # without calibration
    values = Parameters(short_side_px=HEIGHT, drop_stale=False, **parameters)
    engine = load_pipeline(values, lambda _: None, lambda: True).engine
    engine.permits = threading.Semaphore()  # Rig expects one
    rig = Rig(engine, **parameters)
    try:
        heard = {name: rig.hear(name) for name in names}
        rig.stream.receive_camera_info(info)
        for message in images:
            rig.through(message)
    finally:
        rig.close()

    stamps = [stamp_ns(message.header) for message in images]
    messages = [recorded("/camera_info", stamps[0], info)]
    messages += [recorded("/image", stamp, m) for stamp, m in zip(stamps, images, strict=True)]
    source = write_bag(tmp_path / "in", messages)
    words = [*options.split(), "--short-side", str(HEIGHT)]
    assert cli.main(["annotate", str(source), str(tmp_path / "out"), *words]) == 0
    found: dict[str, list] = {name: [] for name in names}
    with open_bag(tmp_path / "out") as bag:
        for topic, _, raw in bag.messages({f"/depthforge/{name}" for name in names}):
            name = topic.name.rpartition("/")[2]
            found[name].append(deserialize_message(raw, KINDS.get(name, Image)))
    assert [len(found[name]) for name in ("semantic", "depth", "camera_info")] == [4, 3, 3]
    for name in names:
        assert found[name] == heard[name], name


def test_by_default_both_request_the_same_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Request] = []
    cache = EngineCache(tmp_path)

    def refuse(request: Request, *_: object) -> None:
        requests.append(dataclasses.replace(request, background=False, cache=cache))
        raise ValueError("seen")

    monkeypatch.setattr(loading, "select_engine", refuse)
    with pytest.raises(ValueError, match="seen"):
        load_pipeline(Parameters(), lambda _: None, lambda: True)
    assert cli.main(["annotate", str(tmp_path), str(tmp_path / "out")]) == 2
    given = {"backend": "openvino", "precision": "bf16", "image_size": "640x480,320x240"}
    with pytest.raises(ValueError, match="seen"):
        load_pipeline(Parameters(**given), lambda _: None, lambda: True)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    assert cli.main(["annotate", str(tmp_path), str(tmp_path / "out"), *options]) == 2
    by_default, annotating, compiled, annotating_compiled = requests
    assert (by_default, compiled) == (annotating, annotating_compiled)
    assert (by_default.backend, by_default.precision) == ("auto", "auto")
    assert len(compiled.shapes) == 1  # both sizes are inferred at that of the crop
