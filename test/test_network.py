# SPDX-License-Identifier: Apache-2.0
"""The network against the activations of the authors' own implementation, and its variants."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from depthforge_ros.engine import build_engine
from depthforge_ros.frame import Frame
from depthforge_ros.network.depthforge import ADAPTER_PARTS, FROZEN_PARTS, DepthForge
from depthforge_ros.network.weights import load_weights
from depthforge_ros.pipeline import Mode, Pipeline, PipelineSettings
from depthforge_ros.pipeline.windows import merge_windows, window_corners
from depthforge_ros.variant import PATCH, load_variant, variant_names

TINY = Path(__file__).parent / "data" / "tiny"
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


@pytest.mark.parametrize("name", variant_names())
def test_every_variant_builds_and_keeps_shapes(name):
    variant = load_variant(name)
    height, width = 6 * PATCH, 8 * PATCH
    with torch.device("meta"):
        network = DepthForge(variant)
        scores, depth = network(torch.zeros(2, 3, height, width, dtype=torch.uint8))
    assert scores.shape == (2, len(variant.labels), height, width)
    assert depth.shape == (2, height, width)


def test_a_query_with_an_empty_mask_looks_everywhere():
    from depthforge_ros.network.mask_decoder import attention_mask

    logits = torch.full((1, 2, 4, 4), -5.0)
    logits[0, 1, :2] = 5.0
    mask = attention_mask(logits, torch.Size((2, 2)))
    assert mask[0, 0].tolist() == [[True] * 4, [True, True, False, False]]
