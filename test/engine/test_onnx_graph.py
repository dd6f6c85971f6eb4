# SPDX-License-Identifier: Apache-2.0
"""Exported ONNX files: numbers of ONNX Runtime, metadata, and refusals."""

from __future__ import annotations

import dataclasses
import json
import re
import resource
from pathlib import Path

import onnx
import onnx_ir
import pytest
import torch
from paths import TINY_YAML

from depthforge_ros.cli import main
from depthforge_ros.engine.backends.onnx_graph import (
    Difference,
    GraphError,
    GraphInfo,
    OnnxRuntimeEngine,
    difference,
    kept_on_success,
    write_graph,
)
from depthforge_ros.engine.cache import code_hash, weights_hash
from depthforge_ros.engine.eager import EagerEngine
from depthforge_ros.engine.engine import Shape
from depthforge_ros.engine.load import untrained_network
from depthforge_ros.variant import load_variant

SHAPE = Shape(64, 96, 2)
REFUSED = [
    (["--precision", "bf16"], "precision is 'bf16'; expected fp32 or fp16: ONNX's Conv"),
    (["--precision", "int8"], "precision is 'int8'; expected one of fp32, fp16"),
    (["--opset", "17"], "opset is 17; expected one of 18, 19, 20"),
    (["--shape", "100x64"], "shape is 100x64; expected WIDTHxHEIGHT, positive multiples of 32"),
    (["--batch", "0"], "batch is 0; expected 1..64"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small variant's file, by the verb. Converting takes seconds, so it is done once."""
    folder = tmp_path_factory.mktemp("graph")
    small = TINY_YAML.read_text("utf-8")
    for name in ("encoder_layers", "decoder_layers"):
        small = re.sub(f"{name}: [0-9]", f"{name}: 1", small)
    variant, out = folder / "tiny.yaml", folder / "out" / "tiny.onnx"
    variant.write_text(small, "utf-8")
    out.parent.mkdir()
    arguments = ["export", str(variant), str(out), "--checkpoint", "untrained"]
    status = main([*arguments, "--shape", "96x64", "--batch", "2"])
    return status, arguments, load_variant(variant)


@pytest.fixture(scope="module")
def network(exported):
    return untrained_network(exported[2]).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def graph(exported):
    return Path(exported[1][2])


def images(shape=SHAPE):
    torch.manual_seed(3)
    return torch.randint(256, shape.sizes, dtype=torch.uint8)


def test_numbers_are_those_of_eager_fp32(network, graph):
    engine = OnnxRuntimeEngine(graph, network.variant, SHAPE)
    reference = EagerEngine(network, torch.device("cpu"))
    expected = reference(images(), depth=True)
    found = difference(engine(images(), depth=True), expected)
    assert expected.scores.std() > 1e-3
    assert found.scores < 1e-5
    assert found.depth < 1e-5
    assert engine(images(), depth=False).depth is None


def test_file_has_standard_operators_static_shapes_and_metadata(network, graph):
    model = onnx.load(graph)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 18)}
    assert {node.domain for node in model.graph.node} == {""}
    names = {node.name for node in model.graph.node}
    assert any(name.startswith("folded.visual.blocks.3.qkv/") for name in names)
    assert str(Path.cwd()).encode() not in graph.read_bytes()
    assert not [node for node in model.graph.node if node.op_type == "GridSample"]
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    classes = len(network.variant.labels)
    assert shapes == {
        "images": [2, 3, 64, 96],
        "scores": [2, classes, 64, 96],
        "depth": [2, 64, 96],
    }
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    info = GraphInfo.from_metadata({e.key: e.value for e in model.metadata_props}, "tiny.onnx")
    assert info.variant == network.variant.name
    assert json.loads(info.labels) == [label.name for label in network.variant.labels.classes]
    assert (info.weights, info.code) == (weights_hash(network), code_hash())
    assert (info.crop, info.shape) == (str(network.variant.crop), "96x64 batch 2")
    assert info.depth_kind == network.variant.depth_head.kind.value


def test_large_weights_go_into_a_file_beside_the_graph(network, graph, tmp_path):
    file = tmp_path / "large.onnx"
    write_graph(onnx_ir.load(graph), file, external_bytes=1000)
    assert file.stat().st_size < (tmp_path / "large.onnx.data").stat().st_size
    one, other = (OnnxRuntimeEngine(path, network.variant, SHAPE) for path in (graph, file))
    found, expected = (engine(images(), depth=True) for engine in (one, other))
    assert difference(found, expected) == Difference(0.0, 0.0)


def test_graphs_for_another_shape_or_label_set_are_named(network, graph):
    with pytest.raises(GraphError, match="is for images of 96x64 batch 2; expected 64x64"):
        OnnxRuntimeEngine(graph, network.variant, Shape(64, 64))
    labels = network.variant.labels
    fewer = dataclasses.replace(labels, name="fewer", classes=labels.classes[:-1])
    variant = dataclasses.replace(network.variant, labels=fewer)
    with pytest.raises(GraphError, match=r"has the 19 classes .* expected the 18 .* 'fewer'"):
        OnnxRuntimeEngine(graph, variant, SHAPE)


def test_truncated_and_foreign_files_are_named(network, graph, tmp_path):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(graph.read_bytes()[:20_000])
    with pytest.raises(GraphError, match=r"cannot read .*cut\.onnx"):
        OnnxRuntimeEngine(cut, network.variant, SHAPE)
    foreign = tmp_path / "foreign.onnx"
    model = onnx.load(graph)
    del model.metadata_props[:]
    onnx.save(model, foreign)
    with pytest.raises(GraphError, match=r"foreign\.onnx was not written by `depthforge export`"):
        OnnxRuntimeEngine(foreign, network.variant, SHAPE)


def test_verb_leaves_the_file_alone_and_overwrites_none(exported, graph, capsys):
    status, arguments, _ = exported
    assert status == 0
    assert [path.name for path in graph.parent.iterdir()] == ["tiny.onnx"]
    assert main(arguments) == 2
    assert "exists; choose another name" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "text"), REFUSED)
def test_verb_refuses_what_cannot_be_exported(option, text, tmp_path, capsys):
    out = tmp_path / "tiny.onnx"
    arguments = ["export", str(TINY_YAML), str(out), "--checkpoint", "untrained", *option]
    assert main(arguments) == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_behind(graph, tmp_path):
    # A limit on the size of files fails a write halfway, as a full disk does.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with (
            pytest.raises(OSError, match="File too large"),
            kept_on_success(tmp_path / "tiny.onnx") as file,
        ):
            write_graph(onnx_ir.load(graph), file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
