# SPDX-License-Identifier: Apache-2.0
"""The OpenVINO backend: numbers, and files that it must refuse by name."""

from __future__ import annotations

import dataclasses
import json
import shutil

import onnx
import pytest
import torch
from paths import TINY_YAML

from depthforge_ros.engine.backends import openvino
from depthforge_ros.engine.backends.onnx_graph import GraphError, difference
from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.engine.engine import CropOutput, Shape
from depthforge_ros.engine.load import untrained_network
from depthforge_ros.network.deploy import Folded, rewrite_for_openvino
from depthforge_ros.variant import load_variant

SHAPE = Shape(64, 96, 2)


def small(variant):
    decoder = dataclasses.replace(variant.decoder, encoder_layers=1, decoder_layers=1)
    return dataclasses.replace(variant, decoder=decoder)


@pytest.fixture(scope="module")
def network():
    return untrained_network(small(load_variant(TINY_YAML))).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def built(network, tmp_path_factory):
    """A built folder, and the ONNX file that was compiled into it."""
    folder, graphs = (tmp_path_factory.mktemp(name) for name in ("built", "graph"))
    kept = []
    compile_graph = openvino.compile_graph

    def keep(file, *arguments):
        kept.append(shutil.copy(file, graphs))
        return compile_graph(file, *arguments)

    openvino.compile_graph = keep
    try:
        openvino.build(network, SHAPE, "fp32", folder)
    finally:
        openvino.compile_graph = compile_graph
    return folder, graphs / "network.onnx"


@pytest.fixture
def images():
    torch.manual_seed(3)
    return torch.randint(256, SHAPE.sizes, dtype=torch.uint8)


def test_rewritten_network_gives_the_numbers_of_the_folded_one(network, images):
    folded = Folded(network).at_size(64, 96)
    rewritten = rewrite_for_openvino(Folded(network)).at_size(64, 96)
    for ours, theirs in zip(rewritten(images), folded(images), strict=True):
        assert theirs.std() > 1e-4
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_loaded_engine_gives_the_numbers_of_eager_fp32(network, built, images):
    program = openvino.load(built[0], SHAPE, torch.device("cpu"))
    expected = EagerEngine(network, torch.device("cpu"))(images, depth=True)
    first = CropOutput(*program(images))
    found = difference(first, expected)
    assert max(found.scores, found.depth) < 1e-4
    again = openvino.run_graph(built[1], network.variant, SHAPE, "fp32")
    assert difference(CropOutput(*again(images)), first).scores < 1e-6
    kept = first.scores.clone()
    program(255 - images)
    assert torch.equal(first.scores, kept)  # a later call writes to other memory


def test_files_for_something_else_are_named(network, built, tmp_path):
    folder, graph = built
    cpu = torch.device("cpu")
    with pytest.raises(GraphError, match="is for images of 96x64 batch 2; expected 64x64"):
        openvino.load(folder, Shape(64, 64), cpu)
    with pytest.raises(GraphError, match="is for images of 96x64 batch 2; expected 64x64"):
        openvino.compile_graph(graph, network.variant, Shape(64, 64), "fp32")
    labels = network.variant.labels
    fewer = dataclasses.replace(labels, name="fewer", classes=labels.classes[:-1])
    variant = dataclasses.replace(network.variant, labels=fewer)
    with pytest.raises(GraphError, match=r"has the 19 classes .* expected the 18 .* 'fewer'"):
        openvino.compile_graph(graph, variant, SHAPE, "fp32")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(graph.read_bytes()[:20_000])
    with pytest.raises(GraphError, match=r"OpenVINO cannot read .*cut\.onnx"):
        openvino.compile_graph(cut, network.variant, SHAPE, "fp32")
    foreign = onnx.load(graph)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(GraphError, match=r"foreign\.onnx was not written by `depthforge export`"):
        openvino.compile_graph(tmp_path / "foreign.onnx", network.variant, SHAPE, "fp32")


@pytest.mark.parametrize("damage", ["truncated", "another version"])
def test_a_compiled_network_that_openvino_does_not_take_is_named(built, damage, tmp_path):
    folder = shutil.copytree(built[0], tmp_path / "built")
    model = folder / openvino.MODEL
    content = model.read_bytes()
    if damage == "truncated":
        model.write_bytes(content[: len(content) // 2])
    else:
        version = openvino.versions()["openvino"].encode()
        assert version in content
        model.write_bytes(content.replace(version, b"2" * len(version), 1))
    with pytest.raises(GraphError, match=r"OpenVINO .* does not take .*network\.blob"):
        openvino.load(folder, SHAPE, torch.device("cpu"))
    (folder / openvino.INFO).write_text(json.dumps({"shape": str(SHAPE)}), "utf-8")
    with pytest.raises(GraphError, match=r"graph\.json does not describe a network"):
        openvino.load(folder, SHAPE, torch.device("cpu"))


def test_what_is_missing_is_named(monkeypatch):
    assert openvino.missing(torch.device("cpu")) == ""
    assert "runs on the CPU; the device is cuda" in openvino.missing(torch.device("cuda"))
    with pytest.raises(RuntimeError, match="has no instructions for bf16; it has fp32"):
        openvino.require_precision("bf16", ["FP32", "INT8", "BIN"])
    openvino.require_precision("bf16", ["BF16", "FP32"])
    find_spec = openvino.importlib.util.find_spec
    monkeypatch.setattr(
        openvino.importlib.util,
        "find_spec",
        lambda name: None if name == "openvino" else find_spec(name),
    )
    assert openvino.missing(torch.device("cpu")) == "openvino is not installed"
