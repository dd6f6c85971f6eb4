# SPDX-License-Identifier: Apache-2.0
"""EVA02's encoder against the activations of the authors' own implementation."""

from __future__ import annotations

import pytest
import torch
from paths import DATA
from safetensors.torch import load_file

from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.eva import rotary_tables, rotated
from depthforge_ros.network.weights.names import STORED_BUT_UNUSED, author_name
from depthforge_ros.variant import load_variant

EVA = DATA / "eva02"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def stored():
    return load_file(EVA / "eva02_weights.safetensors")


@pytest.fixture(scope="module")
def expected():
    return load_file(EVA / "eva02_activations.safetensors")


@pytest.fixture(scope="module")
def network(stored):
    network = DepthForge(load_variant(EVA / "eva02.yaml")).eval()
    theirs = {author_name(ours): ours for ours in network.state_dict()}
    unknown = [name for name in stored if name not in theirs]
    assert all(any(part in name for part in STORED_BUT_UNUSED) for name in unknown), unknown
    state = {theirs[name]: tensor for name, tensor in stored.items() if name in theirs}
    missing = network.load_state_dict(state, strict=False).missing_keys
    heads = ("depth_head.", "refinement.", "pixel_decoder.", "mask_decoder.")
    assert all(name.startswith(heads) for name in missing), missing
    return network


@torch.no_grad()
def test_every_block_level_and_query_agrees_with_the_authors(network, expected):
    seen = {}
    hooks = [
        block.register_forward_hook(
            lambda _, __, x, index=index: seen.update({f"visual.block{index}": x})
        )
        for index, block in enumerate(network.visual.blocks)
    ]
    features = network.encode(expected["image_small"].permute(2, 0, 1)[None], depth=False)
    for hook in hooks:
        hook.remove()
    seen |= {f"backbone.level{index}": level for index, level in enumerate(features.levels)}
    seen["backbone.queries"] = network.tokens.queries()
    assert set(seen) == set(expected) - {"image_small"}
    for name, value in seen.items():
        difference = (value - expected[name]).abs().max().item()
        assert difference <= TOLERANCE, f"{name} differs by {difference}"


def test_the_rotary_tables_are_the_stored_ones(network, stored):
    torch.testing.assert_close(network.visual.cos, stored["backbone.rope.freqs_cos"])
    torch.testing.assert_close(network.visual.sin, stored["backbone.rope.freqs_sin"])


def test_rotary_angles_of_an_oblong_grid():
    cos, sin = rotary_tables(2, 4, 8, torch.device("cpu"))
    assert cos.shape == (8, 8)
    # Patch in row 1 of 2 and column 3 of 4: positions 8 and 12 of the pretraining's 16.
    angles = torch.tensor([8, 8, 0.08, 0.08, 12, 12, 0.12, 0.12])
    torch.testing.assert_close(cos[7], angles.cos())
    torch.testing.assert_close(sin[7], angles.sin())


def test_rotation_turns_pairs_and_spares_the_class_token():
    x = torch.tensor([[5.0, 6.0, 7.0, 8.0], [1.0, 0.0, 0.0, 2.0]]).view(1, 1, 2, 4)
    quarter = torch.tensor([[torch.pi / 2] * 4])
    turned = rotated(x, quarter.cos(), quarter.sin())
    torch.testing.assert_close(turned[0, 0, 0], x[0, 0, 0])
    torch.testing.assert_close(turned[0, 0, 1], torch.tensor([0.0, 1.0, -2.0, 0.0]))


@torch.no_grad()
def test_another_size_gives_what_its_own_tables_give(network):
    torch.manual_seed(0)
    images = torch.randint(256, (1, 3, 64, 128), dtype=torch.uint8)
    own = network.at_size(64, 128)
    assert own.visual.cos.shape == (32, 16)
    for a, b in zip(network(images), own(images), strict=True):
        assert torch.equal(a, b)
    assert network.visual.grid == (4, 4)
    assert network.visual.cos.shape == (16, 16)


def test_a_network_from_the_meta_device_has_its_tables(network):
    with torch.device("meta"):
        other = DepthForge(network.variant)
    other = other.to_empty(device="cpu")
    other.set_constants()
    for name, buffer in network.named_buffers():
        assert torch.equal(other.get_buffer(name), buffer), name
    assert {name for name, _ in network.named_buffers()} == {
        "mean",
        "std",
        "visual.cos",
        "visual.sin",
    }
    assert not any("cos" in name or "sin" in name for name in network.state_dict())


def test_halved_weights_rotate_too(network):
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores, _ = network(images, depth=False)
    full, _ = network(images, depth=False)
    assert (scores - full).abs().max() < 0.1 * full.abs().max()
