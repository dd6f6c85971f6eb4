# SPDX-License-Identifier: Apache-2.0
"""The network against the activations of the authors' own implementation, and its variants."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from paths import TINY
from safetensors.torch import load_file

from depthforge_ros.engine import build_engine
from depthforge_ros.engine.load import untrained_network
from depthforge_ros.frame import DepthKind, Frame
from depthforge_ros.network.depthforge import ADAPTER_PARTS, FROZEN_PARTS, DepthForge
from depthforge_ros.network.vit import SwiGlu
from depthforge_ros.network.weights import load_weights
from depthforge_ros.pipeline import Mode, Pipeline, PipelineSettings
from depthforge_ros.pipeline.windows import merge_windows, window_corners
from depthforge_ros.variant import PATCH, load_variant, variant_names

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def expected():
    return load_file(TINY / "tiny_activations.safetensors")


@pytest.fixture(scope="module")
def tiny():
    variant = load_variant(TINY / "tiny.yaml")
    network = DepthForge(variant).eval()
    load_weights(network, variant, [TINY / "tiny_weights.safetensors"])
    return network


def check(expected, name, value):
    difference = (value - expected[name].reshape(value.shape)).abs().max().item()
    assert difference <= TOLERANCE, f"{name} differs by {difference}"


def channels_first(image):
    return image.permute(2, 0, 1)[None]


@torch.no_grad()
def test_every_stage_agrees_with_the_authors(tiny, expected):
    features = tiny.encode(channels_first(expected["image_small"]), depth=True)
    for index, level in enumerate(features.levels):
        check(expected, f"backbone.level{index}", level)
    check(expected, "backbone.queries", tiny.tokens.queries())
    corrected = tiny.refinement(features.levels)
    check(expected, "head.corrected_level0", corrected)
    mask_features, memories = tiny.pixel_decoder([corrected, *features.levels[1:]])
    for index, memory in enumerate(memories):
        check(expected, f"head.memory{index}", memory)
    check(expected, "head.mask_features", mask_features)
    outputs = tiny.mask_decoder(tiny.tokens.queries(), mask_features, memories)
    check(expected, "head.first_class_logits", outputs.class_logits[0])
    check(expected, "head.first_mask_logits", outputs.mask_logits[0])
    check(expected, "head.class_logits", outputs.class_logits[-1])
    check(expected, "head.mask_logits", outputs.mask_logits[-1])


@torch.no_grad()
def test_one_crop_agrees_with_the_authors(tiny, expected):
    scores, depth = tiny(channels_first(expected["image_small"]))
    check(expected, "whole.semantic_scores", scores)
    check(expected, "depth.relative", depth)
    assert torch.equal(scores.argmax(1), expected["whole.semantic_scores"].argmax(1))


@torch.no_grad()
def test_the_sliding_window_agrees_with_the_authors(tiny, expected):
    image = channels_first(expected["image_large"])
    height, width = image.shape[2:]
    crop, stride = tiny.variant.crop, tiny.variant.stride
    corners = window_corners(height, width, crop, stride)
    crops = torch.cat([image[:, :, y : y + crop, x : x + crop] for y, x in corners])
    merged = merge_windows(tiny(crops, depth=False)[0], corners, height, width)
    check(expected, "slide.semantic_scores", merged[None])


@pytest.mark.parametrize(
    ("mode", "image", "scores"),
    [
        (Mode.WHOLE, "image_small", "whole.semantic_scores"),
        (Mode.SLIDE, "image_large", "slide.semantic_scores"),
    ],
)
def test_the_pipelines_labels_equal_the_authors(expected, mode, image, scores):
    variant = load_variant(TINY / "tiny.yaml")
    engine = build_engine(variant, str(TINY / "tiny_weights.safetensors"), device="cpu")
    rgb = expected[image].numpy()
    settings = PipelineSettings(mode=mode, short_side_px=min(rgb.shape[:2]))
    prediction = Pipeline(engine, settings)(Frame(rgb))
    assert (prediction.labels == expected[scores][0].argmax(0).numpy()).all()


def test_the_papers_network_has_the_published_sizes():
    with torch.device("meta"):
        network = DepthForge(load_variant("dinov2_l"))

    def parameters(*parts):
        return sum(p.numel() for part in parts for p in getattr(network, part).parameters())

    assert parameters("tokens") == 2_990_081
    assert parameters("refinement") == 4_336_705  # 4.34 M
    assert parameters("refinement", "pixel_decoder", "mask_decoder") == 24_916_501  # 24.9 M
    assert set(FROZEN_PARTS + ADAPTER_PARTS) == {name for name, _ in network.named_children()}


@pytest.mark.parametrize(
    ("name", "millions"),
    [("dinov2_s", 24.8), ("dinov2_b", 97.5), ("dinov2_l", 335.3), ("dinov2_g", 1300.0)],
)
def test_depth_anything_has_the_published_sizes(name, millions):
    variant = load_variant(name)
    with torch.device("meta"):
        network = DepthForge(variant)
    parts = (network.depth, network.depth_head)
    count = sum(p.numel() for part in parts for p in part.parameters())
    width, features = variant.depth.width, variant.depth_head.features
    # Published for 14-pixel patches and 37 × 37 positions, with a mask token and a residual unit
    # that no forward pass reads.
    count += width * (3 * (14**2 - PATCH**2) + 37**2 - variant.grid**2 + 1)
    count += 2 * (9 * features**2 + features)
    assert round(count / 1e6, 1 if millions < 1000 else -2) == millions


@pytest.mark.parametrize("name", [*variant_names(), "dinov2_s+registers+outdoor"])
def test_every_variant_builds_and_keeps_shapes(name):
    variant = load_variant(name)
    height, width = 6 * PATCH, 8 * PATCH
    with torch.device("meta"):
        network = DepthForge(variant)
        scores, depth = network(torch.zeros(2, 3, height, width, dtype=torch.uint8))
    assert scores.shape == (2, len(variant.labels), height, width)
    assert depth.shape == (2, height, width)


def altered(variant, **parts):
    """The variant with fields of its parts replaced."""
    return dataclasses.replace(
        variant, **{k: dataclasses.replace(getattr(variant, k), **v) for k, v in parts.items()}
    )


@torch.no_grad()
def test_metric_depth_is_the_sigmoid_times_the_range(tiny, expected):
    metric = altered(tiny.variant, depth_head={"kind": DepthKind.METRIC, "max_depth_m": 80.0})
    network = DepthForge(metric).eval()
    network.load_state_dict(tiny.state_dict())
    _, depth_m = network(channels_first(expected["image_small"]))
    before = expected["depth.relative"]  # the ReLU of what the sigmoid sees
    assert (before > 0).any()
    expected = 80 * before.sigmoid()
    torch.testing.assert_close(depth_m[before > 0], expected[before > 0])
    assert (depth_m[before == 0] <= 40).all()


@torch.no_grad()
def test_registers_have_no_position_and_pass_through_the_tokens(tiny):
    network = untrained_network(altered(tiny.variant, visual={"registers": 4})).eval()
    registers = network.visual.register_tokens
    registers.copy_(torch.arange(registers.numel()).view_as(registers))
    x, _ = network.visual.embed(torch.zeros(2, 3, 64, 64))
    assert x.shape == (2, 1 + 4 + 16, 64)
    for image in x:
        assert torch.equal(image[1:5], registers[0])
    d = torch.randn(2, 16, 64)
    refined = network.tokens(x, d, 0, 5)
    assert torch.equal(refined[:, :5], x[:, :5])
    without = network.tokens(torch.cat([x[:, :1], x[:, 5:]], dim=1), d, 0)
    assert torch.equal(refined[:, 5:], without[:, 1:])
    assert not torch.equal(refined[:, 5:], x[:, 5:])


@torch.no_grad()
@pytest.mark.parametrize("registers", [0, 4])
def test_position_tables_are_antialiased_only_with_registers(tiny, registers):
    encoder = untrained_network(altered(tiny.variant, visual={"registers": registers})).visual
    table = encoder.positions(2, 3)
    patches = encoder.pos_embed[:, 1:].view(1, 4, 4, 64).permute(0, 3, 1, 2)
    expected = F.interpolate(patches, (2, 3), mode="bicubic", antialias=registers > 0)
    assert torch.equal(table[:, 1:], expected.flatten(2).transpose(1, 2))
    assert torch.equal(table[:, :1], encoder.pos_embed[:, :1])


@torch.no_grad()
def test_the_gated_feed_forward_of_vit_g():
    with torch.device("meta"):
        assert SwiGlu(1536).w12.weight.shape == (2 * 4096, 1536)
    ffn = SwiGlu(12)
    assert ffn.w3.weight.shape == (12, 32)
    x = torch.randn(1, 3, 12)
    gate, value = (x @ ffn.w12.weight.T + ffn.w12.bias).split(32, dim=-1)
    expected = (gate * gate.sigmoid() * value) @ ffn.w3.weight.T + ffn.w3.bias
    torch.testing.assert_close(ffn(x), expected)


@torch.no_grad()
def test_a_network_at_a_size_shares_weights_and_gives_the_same_numbers(tiny, expected):
    image = channels_first(expected["image_large"])[:, :, :96, :128]
    sized = tiny.at_size(96, 128)
    for whole, own in zip(tiny(image), sized(image), strict=True):
        assert torch.equal(whole, own)
    assert sized.visual.pos_embed.shape == (1, 1 + 6 * 8, 64)
    assert tiny.visual.pos_embed.shape == (1, 1 + 4 * 4, 64)
    own = {name for name, p in sized.named_parameters() if p is not tiny.get_parameter(name)}
    assert own == {"visual.pos_embed", "depth.pos_embed"}


def test_a_query_with_an_empty_mask_looks_everywhere():
    from depthforge_ros.network.mask_decoder import attention_mask

    logits = torch.full((1, 2, 4, 4), -5.0)
    logits[0, 1, :2] = 5.0
    mask = attention_mask(logits, torch.Size((2, 2)))
    assert mask[0, 0].tolist() == [[True] * 4, [True, True, False, False]]
