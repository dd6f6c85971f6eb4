# SPDX-License-Identifier: Apache-2.0
"""A folded network is the network: the same numbers, for every kind of encoder and any size."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from paths import DATA
from torch.export import Dim, export
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from variants import shallow

from depthforge_ros.engine.load import untrained_network
from depthforge_ros.network.deploy import Folded, Sampling, cpu, deploy, tune
from depthforge_ros.network.deploy.cpu import FEW_TOKENS, attend_by_heads
from depthforge_ros.network.deploy.sampling import sample_by_bags, sample_by_grid
from depthforge_ros.network.deploy.tiled_resize import Strip, resized_strip
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.export import ImagesOnly
from depthforge_ros.variant import load_variant

SIZES = ((64, 64), (96, 128), (160, 64))


def tiny_variant():
    return load_variant(DATA / "tiny" / "tiny.yaml")


def swiglu_and_registers():
    tiny = tiny_variant()
    visual = dataclasses.replace(tiny.visual, swiglu=True, registers=4)
    return dataclasses.replace(tiny, visual=visual)


VARIANTS = {
    "tiny": tiny_variant,
    "eva02": lambda: load_variant(DATA / "eva02" / "eva02.yaml"),
    "swiglu and registers": swiglu_and_registers,
    "one encoder": lambda: dataclasses.replace(swiglu_and_registers(), depth=None),
    "nano": lambda: shallow(load_variant("nano")),
}


@torch.no_grad()
def lively_network(variant, dtype=torch.float32):
    """Random weights none of which is 1 or 0, so that no fold can be forgotten unseen."""
    network = untrained_network(variant).eval()
    torch.manual_seed(1)
    for parameter in network.parameters():
        if parameter.dim() < 2:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    network.tokens.scale.fill_(0.5)
    network.depth_head.out3.bias.fill_(1.0)
    return network.to(dtype)


def random_images(height, width, batch=2):
    torch.manual_seed(2)
    return torch.randint(256, (batch, 3, height, width), dtype=torch.uint8)


@torch.inference_mode()
def assert_same(network, deployed, images, tolerance):
    for plain, folded in zip(network(images), deployed(images), strict=True):
        assert folded.dtype == plain.dtype
        assert plain.std() > 1e-3
        scale = plain.abs().max().item()
        torch.testing.assert_close(folded, plain, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=["fp64", "fp32"]
)
def test_folds_change_no_number(name, dtype, tolerance):
    network = lively_network(VARIANTS[name](), dtype)
    folded = Folded(network)
    for height, width in SIZES:
        images = random_images(height, width)
        assert_same(network, folded.at_size(height, width), images, tolerance)


@pytest.mark.parametrize("name", ["tiny", "nano"])
def test_both_ways_of_sampling_agree(name):
    network = lively_network(VARIANTS[name](), torch.float64)
    images = random_images(96, 64)
    assert_same(network, deploy(network, 96, 64, sampling=Sampling.GATHER), images, 1e-9)


def test_sampling_by_bags_agrees_inside_and_outside():
    torch.manual_seed(5)
    shapes = ((3, 5), (6, 4))
    N = sum(h * w for h, w in shapes)
    value = torch.randn(2, N, 3, 4, dtype=torch.float64)
    centres = torch.rand(N, 2, dtype=torch.float64)
    offsets = 4 * torch.randn(2, N, 3, 2, 4, 2, dtype=torch.float64)
    weights = torch.rand(2, N, 3, 2, 4, dtype=torch.float64)
    extents = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float64)
    expected = sample_by_grid(value, centres, offsets, weights, shapes, extents)
    found = sample_by_bags(value, centres, offsets, weights, shapes, extents)
    torch.testing.assert_close(found, expected)
    assert expected.abs().max() > 1


class Uploads(TorchDispatchMode):
    """Counts tensors made from Python numbers: each of them is a copy to a GPU."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += operator in (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift.default)
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_frame_copies_nothing_to_the_device(name, sampling):
    """A CUDA graph cannot record such a copy, and without a graph every one of them waits."""
    deployed = deploy(untrained_network(VARIANTS[name]()).eval(), 64, 96, sampling=sampling)
    with torch.no_grad(), Uploads() as uploads:
        torch.zeros(1).new_tensor([1.0])
        assert uploads.count == 1  # such as this one
        deployed(random_images(64, 96))
    assert uploads.count == 1


@pytest.mark.parametrize("sampling", Sampling)
def test_a_deployed_network_exports_for_any_batch(sampling):
    deployed = deploy(lively_network(shallow(tiny_variant())), 64, 96, sampling=sampling)
    with torch.no_grad():
        program = export(
            ImagesOnly(deployed, depth=True).eval(),
            (random_images(64, 96),),
            dynamic_shapes=({0: Dim("batch")},),
            strict=False,
        )
        for batch in (1, 3):
            images = random_images(64, 96, batch)
            for expected, found in zip(deployed(images), program.module()(images), strict=True):
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_without_depth_there_is_none():
    network = lively_network(tiny_variant())
    images = random_images(64, 64)
    with torch.inference_mode():
        scores, depth = deploy(network, 64, 64)(images, depth=False)
        assert depth is None
        torch.testing.assert_close(scores, network(images, depth=False)[0], rtol=0, atol=1e-5)


def test_the_network_stays_as_it_was_and_sizes_share_the_weights():
    network = lively_network(tiny_variant())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = Folded(network, torch.bfloat16)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    small, large = folded.at_size(64, 64), folded.at_size(64, 96)
    assert small.folded is large.folded
    shared = {tensor.data_ptr() for tensor in network.parameters()}
    in_place = Folded(network).state_dict()
    assert in_place["visual.blocks.0.qkv.weight"].data_ptr() in shared
    assert in_place["visual.blocks.0.proj.weight"].data_ptr() not in shared


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_tuned_for_the_processor_gives_the_same_numbers(name, dtype):
    network = lively_network(VARIANTS[name](), dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    folded = tune(Folded(network))
    for height, width in SIZES[1:]:
        images = random_images(height, width)
        assert_same(network, folded.at_size(height, width), images, tolerance)


def test_attention_by_heads_is_attention(monkeypatch):
    torch.manual_seed(4)
    monkeypatch.setattr(cpu, "WEIGHTS_AT_ONCE", 2 * (2 * FEW_TOKENS) ** 2)  # two heads of three
    q, k, v = torch.randn(3, 2, 3, 2 * FEW_TOKENS, 16, dtype=torch.float64).unbind(0)
    expected = F.scaled_dot_product_attention(q, k, v)
    found = attend_by_heads(q.transpose(1, 2).contiguous().transpose(1, 2), k, v)
    torch.testing.assert_close(found, expected)


def test_strips_of_a_resized_map_are_its_rows():
    torch.manual_seed(3)
    x = torch.randn(2, 5, 6, 4, dtype=torch.float64)
    for size in ((24, 16), (6, 4), (24, 4), (15, 7)):
        whole = F.interpolate(x, size, mode="bilinear", align_corners=False)
        parts = [
            resized_strip(x, Strip(*size, first, min(4, size[0] - first)))
            for first in range(0, size[0], 4)
        ]
        torch.testing.assert_close(torch.cat(parts, dim=2), whole)


def counted(network):
    """FLOPs of every module of ViT-L's network for one 512 × 512 image, by name; "": of all."""
    images = torch.zeros(1, 3, 512, 512, dtype=torch.uint8, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    counts = {
        name.partition(".")[2]: sum(of.values())
        for name, of in counter.get_flop_counts().items()
        if name != "Global"
    }
    return counts | {"": counter.get_total_flops()}


def giga(counts, *names):
    return round(sum(counts[name] for name in names) / 1e9, 1)


def test_the_folds_save_the_operations_that_the_documents_say():
    with torch.device("meta"):
        network = DepthForge(load_variant("dinov2_l"))
    before = counted(network.at_size(512, 512))
    after = counted(Folded(network).at_size(512, 512))
    assert (giga(before, ""), giga(after, "")) == (1996.6, 1846.9)
    # The fused maps, with the lateral convolution that reads them.
    assert giga(before, "refinement.fuse", "pixel_decoder.lateral_conv.conv") == 146.0
    fused = [f"folded.refinement.fuse.{level}" for level in range(4)]
    assert giga(after, *fused) == 34.4
    assert (giga(before, "refinement"), giga(before, "pixel_decoder")) == (155.8, 79.9)
    readers = [f"folded.levels.{level}" for level in range(4)]
    assert giga(after, "folded.refinement", *readers) == 46.3
    assert giga(after, "folded.pixel_decoder") == 66.4
    assert (giga(before, "mask_decoder"), giga(after, "folded.mask_decoder")) == (17.4, 10.6)
    # Every one of ten masks at full size; now the last alone, and no convolution before it.
    assert giga(before, "pixel_decoder.mask_feature") == 2.1
    assert not [name for name in after if "mask_feature" in name]
    outputs = [f"depth_head.fusions.{level}" for level in range(4)]
    assert giga(before, *(f"{name}.out_conv" for name in outputs)) == 11.4
    assert giga(after, *(f"folded.{name}.out" for name in outputs)) == 2.9
    assert (giga(before, "depth_head"), giga(after, "folded.depth_head")) == (221.5, 213.0)
    assert (giga(before, "tokens"), giga(after, "folded.tokens")) == (71.7, 61.6)


def test_half_precision_keeps_residuals_and_places_wide():
    network = lively_network(tiny_variant())
    deployed = deploy(network, 64, 64, dtype=torch.bfloat16)
    folded = deployed.folded
    assert folded.visual.blocks[0].qkv.weight.dtype == torch.bfloat16
    assert folded.pixel_decoder.layers[0].attention.look.weight.dtype == torch.float32
    images = random_images(64, 64)
    with torch.inference_mode():
        for plain, half in zip(network(images), deployed(images), strict=True):
            assert half.dtype == torch.float32
            assert (half - plain).abs().max() < 0.05 * plain.abs().max()


def test_impossible_sizes_are_refused_with_what_is_possible():
    with torch.device("meta"):
        network = DepthForge(tiny_variant())
    with pytest.raises(ValueError, match=r"100 × 64; expected positive multiples of 32"):
        deploy(network, 100, 64)
