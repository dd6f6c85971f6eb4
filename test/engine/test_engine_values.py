# SPDX-License-Identifier: Apache-2.0
"""Batches, the order of candidates, and what is read of processors and shapes."""

from __future__ import annotations

import pytest
import torch
from paths import DATA

from depthforge_ros.engine import Journal, Shape
from depthforge_ros.engine.candidate import candidate_pairs, preferred_backends
from depthforge_ros.engine.compiler import CompiledEngine
from depthforge_ros.engine.engine import cpu_flags, fast_precisions
from depthforge_ros.engine.load import build_engine
from depthforge_ros.engine.self_check import check_images
from depthforge_ros.variant import load_variant

SMALL = DATA / "small.yaml"
CPU = torch.device("cpu")


def test_batches_are_cut_and_filled_to_what_was_compiled():
    eager = build_engine(load_variant(SMALL), "untrained", device="cpu")
    seen = []

    def program(images):
        seen.append(len(images))
        output = eager(images, depth=True)
        return output.scores, output.depth

    programs = {Shape(64, 96, 4): program, Shape(64, 96, 2): program}
    engine = CompiledEngine("test", "fp32", programs, eager.variant, CPU, lambda: eager, Journal())
    images = check_images(Shape(64, 96, 7))
    output = engine(images, depth=True)
    assert seen == [4, 4]
    torch.testing.assert_close(output.scores, eager(images, depth=True).scores, rtol=0, atol=1e-5)
    seen.clear()
    assert len(engine(images[:1], depth=True).depth) == 1
    assert seen == [2]


def test_the_fastest_are_tried_first():
    assert preferred_backends("auto") == ("tensorrt", "openvino", "eager")
    assert preferred_backends("openvino") == ("openvino",)
    pairs = candidate_pairs(("tensorrt", "eager"), "auto", CPU)
    halves = [(b, p) for p in fast_precisions(CPU) for b in ("tensorrt", "eager")]
    assert pairs == [*halves, ("tensorrt", "fp32")]
    assert candidate_pairs(("eager",), "fp32", CPU) == []


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512_bf16\n", {"fpu", "avx512_bf16"}),
        ("processor : 0\nFeatures : fp asimd bf16\n", {"fp", "asimd", "bf16"}),
        ("", set()),
    ],
)
def test_what_a_processor_can_do_is_read(tmp_path, text, flags):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert cpu_flags(path) == flags
    assert cpu_flags(tmp_path / "absent") == set()


def test_shapes_are_read_and_bad_ones_named():
    assert Shape.parse("480x352") == Shape(height=352, width=480)
    assert Shape.parse(str(Shape(352, 480, 3))) == Shape(352, 480, 3)
    for text, reason in (
        ("352", "shape is '352'; expected WIDTHxHEIGHT in pixels, width first"),
        ("480x350", "shape is 480x350; expected WIDTHxHEIGHT, positive multiples of 32"),
        ("32x32 batch x", "batch is 'x'; expected 1..64"),
        ("32x32 batch 65", "batch is 65; expected 1..64"),
    ):
        with pytest.raises(ValueError, match=reason):
            Shape.parse(text)
