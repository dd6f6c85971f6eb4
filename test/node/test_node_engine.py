# SPDX-License-Identifier: Apache-2.0
"""Engines in the node: built while it configures, lost while it runs, and reported all the time."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from engines import HeldEngine
from held_node import HeldNode, start
from lifecycle_msgs.msg import Transition
from nodes import Bench, image_message, running_node
from paths import TINY_YAML

from depthforge_ros.engine import memory_fallback, select
from depthforge_ros.engine.backends import BACKENDS
from depthforge_ros.engine.engine import Journal
from depthforge_ros.engine.memory_fallback import FallbackEngine
from depthforge_ros.pipeline import Mode, Pipeline, PipelineSettings, engine_shapes
from depthforge_ros.ros.node import node as node_module
from depthforge_ros.variant import load_variant

BUILD = "depthforge_ros.engine.build_subprocess"
TINY = TINY_YAML


def builds(folder: Path) -> list[str]:
    """Command lines of processes that compile into a place below the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text()
        except OSError:  # it has ended since
            continue
        if BUILD in line and str(folder) in line:
            found.append(line)
    return found


def test_a_build_is_told_and_ended_by_a_signal(
    domain: int, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFORGE_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    if "openvino" not in BACKENDS or BACKENDS["openvino"].missing_to_build(torch.device("cpu")):
        pytest.skip("needs OpenVINO")
    expected = {
        "backend": "openvino",
        "precision": "fp32",
        "image_size": "1024x512",
        "short_side_px": 512,
    }
    with running_node(domain, tmp_path, checkpoint="untrained", **expected) as node:
        reported = "building openvino fp32 for 1024x512"
        bench.spin_until(lambda: bench.values().get("engine progress", "").startswith(reported))
        assert bench.status().message.startswith(f"configuring: {reported}")
        bench.spin_until(lambda: builds(tmp_path) != [])
        assert node.end(signal.SIGTERM) == 0
        assert "configure was given up because the process ends" in node.log
        assert "Traceback" not in node.log
    assert builds(tmp_path) == []


def test_a_gpu_that_disappears_is_an_error_and_the_node_goes_on(
    domain: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldNode(domain, monkeypatch)
    try:
        journal = Journal()

        def load(values, follow, keep_going):
            follow(journal)
            held.engines.append(HeldEngine())
            return Pipeline(FallbackEngine(held.engines[-1], journal))

        monkeypatch.setattr(node_module, "load_pipeline", load)
        heard = bench.hear("semantic")
        start(bench)
        engine = held.engines[0]
        engine.permits.release(100)
        bench.exchange(image_message(1), heard)
        monkeypatch.setattr(memory_fallback, "device_works", lambda device: False)
        engine.error = torch.AcceleratorError("CUDA error: device-side assert triggered\nmore")

        def lost() -> bool:
            bench.send(image_message(2))
            return "does not answer any more" in bench.status().message

        bench.wait_for("state", "active")
        bench.spin_until(lost)
        assert bench.status().level == DiagnosticStatus.ERROR
        assert "(CUDA error: device-side assert triggered)" in bench.status().message
        assert bench.change(Transition.TRANSITION_DEACTIVATE)
        assert bench.change(Transition.TRANSITION_CLEANUP)
        bench.wait_for("state", "unconfigured")
        bench.spin_until(lambda: bench.status().level == DiagnosticStatus.OK)
        journal = Journal()
        start(bench)
        held.engines[1].permits.release(100)
        assert bench.exchange(image_message(3), heard).header.stamp.sec == 1_700_000_003
    finally:
        held.close()


def test_engines_are_compiled_for_what_the_pipeline_will_ask_for() -> None:
    nano, tiny = load_variant("nano"), load_variant(TINY)

    def shapes(variant, *sizes, **settings):
        cameras = settings.pop("cameras", 1)
        made = engine_shapes(sizes, PipelineSettings(**settings), variant, cameras)
        return [str(shape) for shape in made]

    assert shapes(nano, (1080, 1920), (480, 640)) == ["480x352", "640x352"]
    assert shapes(nano, (1080, 1920), short_side_px=256) == ["448x256"]
    slide = {"mode": Mode.SLIDE}
    assert shapes(nano, (352, 626), **slide) == ["352x352 batch 3"]
    assert shapes(nano, (352, 626), **slide, max_batch=2) == ["352x352", "352x352 batch 2"]
    assert shapes(tiny, (64, 107), **slide) == ["64x64 batch 3"]  # two, and the whole frame
    assert shapes(tiny, (64, 64), **slide) == ["64x64"]
    assert shapes(nano, (480, 640), cameras=3) == ["480x352", "480x352 batch 3"]
    assert shapes(nano, (480, 640), cameras=9, max_batch=4) == ["480x352", "480x352 batch 4"]
    assert shapes(nano) == []


def test_auto_builds_openvino_after_20_batches_takes_it_and_finds_it_at_the_next_start(
    domain: int, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFORGE_ENGINES", str(tmp_path / "engines"))
    values = {"variant": str(TINY), "checkpoint": "untrained", "backend": "auto"}
    values |= {"autostart": True}
    heard = bench.hear("semantic")

    def inferred() -> int:
        bench.report_from_now()
        return int(bench.values()["frames out"])

    with running_node(domain, tmp_path, **values) as node:
        eager = bench.exchange(image_message(1), heard)
        bench.exchange(image_message(2), heard)
        before = inferred()
        assert 2 <= before < select.BATCHES_BEFORE_BUILD
        assert bench.values()["backend"] == "eager"
        assert "engine: build" not in bench.values()
        for index in range(3, 3 + select.BATCHES_BEFORE_BUILD):
            bench.exchange(image_message(index), heard)
        bench.wait_for("backend", "openvino")
        assert inferred() >= select.BATCHES_BEFORE_BUILD
        assert bench.values()["self-check"].startswith("openvino fp32 for 96x64: labels agree")
        assert "engine: build" not in bench.values()
        compiled = bench.exchange(image_message(100, data=image_message(1).data), heard)
        same = np.frombuffer(compiled.data, np.uint8) == np.frombuffer(eager.data, np.uint8)
        assert same.mean() > 0.99
        assert node.end() == 0
        assert "Traceback" not in node.log
    with running_node(domain, tmp_path, **values) as node:
        again = bench.exchange(image_message(200, data=image_message(1).data), heard)
        assert again.data == compiled.data
        assert "(openvino, fp32, cpu)" in node.log
        assert node.end() == 0
