# SPDX-License-Identifier: Apache-2.0
"""Every variant becomes one graph, with position tables inside and the numbers of eager mode."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from paths import DATA
from variants import shallow

from depthforge_ros.engine.load import untrained_network
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.export import export_network
from depthforge_ros.variant import load_variant, variant_names

TOLERANCE = 1e-5


def operations(program):
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


def outputs(program):
    names = program.graph_signature.user_outputs
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    return [tuple(values[name].shape) for name in names]


def random_images(batch, height, width):
    torch.manual_seed(1)
    return torch.randint(256, (batch, 3, height, width), dtype=torch.uint8)


@torch.no_grad()
def random_network(variant):
    """Seeded weights, and depth that no ReLU hides."""
    network = untrained_network(variant).eval()
    network.depth_head.out3.bias.fill_(1.0)
    return network


@torch.no_grad()
def assert_same_numbers(network, program, images):
    for eager, exported in zip(network(images), program.module()(images), strict=True):
        assert eager.std() > 1e-3
        torch.testing.assert_close(exported, eager, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", [*variant_names(), "dinov2_s+registers+outdoor"])
def test_every_variant_exports_at_its_crop_and_wide(name):
    variant = shallow(load_variant(name))
    with torch.device("meta"):
        network = DepthForge(variant)
    for height, width in ((variant.crop, variant.crop), (512, 1024)):
        program = export_network(network, height, width)
        assert not [op for op in operations(program) if "bicubic" in op]
        classes = len(variant.labels)
        assert outputs(program) == [(1, classes, height, width), (1, height, width)]


def test_vit_s_at_its_full_depth_gives_the_numbers_of_eager_mode():
    network = random_network(load_variant("dinov2_s"))
    program = export_network(network, 64, 96)
    assert_same_numbers(network, program, random_images(1, 64, 96))


def test_nano_exports_at_its_crop_for_any_batch():
    variant = shallow(load_variant("nano"))
    network = random_network(variant)
    program = export_network(network, variant.crop, variant.crop, batch=None)
    for batch in (1, 3):
        assert_same_numbers(network, program, random_images(batch, variant.crop, variant.crop))


@pytest.mark.parametrize(
    "variant",
    [
        "eva02/eva02.yaml",
        {"visual": {"swiglu": True, "registers": 4}, "depth": {"swiglu": True}},
    ],
    ids=["eva02", "swiglu and registers"],
)
def test_other_encoders_export_with_the_numbers_of_eager_mode(variant):
    if isinstance(variant, str):
        variant = load_variant(DATA / variant)
    else:
        tiny = load_variant(DATA / "tiny" / "tiny.yaml")
        parts = {k: dataclasses.replace(getattr(tiny, k), **v) for k, v in variant.items()}
        variant = dataclasses.replace(tiny, **parts)
    network = random_network(variant)
    program = export_network(network, 96, 64, batch=2)
    assert_same_numbers(network, program, random_images(2, 96, 64))


def test_without_depth_there_is_none():
    network = untrained_network(load_variant(DATA / "tiny" / "tiny.yaml")).eval()
    program = export_network(network, 64, 64, depth=False)
    images = random_images(1, 64, 64)
    (scores,) = program.module()(images)
    torch.testing.assert_close(scores, network(images, depth=False)[0], rtol=0, atol=TOLERANCE)


def test_impossible_sizes_are_refused_with_what_is_possible():
    with torch.device("meta"):
        network = DepthForge(load_variant(DATA / "tiny" / "tiny.yaml"))
    with pytest.raises(ValueError, match=r"100 × 64; expected positive multiples of 32"):
        export_network(network, 100, 64)
    with pytest.raises(ValueError, match=r"batch is 0; expected at least 1"):
        export_network(network, 64, 64, 0)
