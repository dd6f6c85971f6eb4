# SPDX-License-Identifier: Apache-2.0
"""A variant whose one encoder serves masks and depth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from paths import DATA
from safetensors.torch import save_file

from depthforge_ros.engine.load import untrained_network
from depthforge_ros.learning.distil.one_encoder import merge_encoders
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.weights import WeightsError, load_weights, save_weights
from depthforge_ros.network.weights.names import author_name
from depthforge_ros.variant import Variant, load_variant
from depthforge_ros.weights.convert import convert


@pytest.fixture(scope="module")
def two() -> Variant:
    return load_variant(DATA / "tiny" / "tiny.yaml")


@pytest.fixture(scope="module")
def one(two: Variant) -> Variant:
    return dataclasses.replace(two, name="tiny_one", depth=None)


def images() -> torch.Tensor:
    return torch.randint(256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_levels_are_the_sum_of_features_and_side_stream(one: Variant) -> None:
    """Against the recursion of the docstring, written out with the encoder run beforehand."""
    network = untrained_network(one)
    network.tokens.scale.fill_(0.5)
    x, finer = network.visual.embed(network.normalise(images()))
    untouched = []
    for block in network.visual.blocks:
        x = block(x)
        untouched.append(x)
    side, expected = torch.zeros_like(x[:, 1:]), []
    tokens = network.tokens
    for layer, features in enumerate(untouched):
        d = features[:, 1:]
        t = tokens.a[layer] @ tokens.b[layer]
        weights = ((2 * d + side) @ t.T / one.visual.width**0.5).softmax(-1)
        correction = weights[..., 1:] @ tokens.token_to_feature(t[1:])
        side = side + 0.5 * tokens.delta(correction + d + side)
        if layer in one.levels:
            expected.append((d + side).transpose(1, 2).unflatten(2, (4, 6)))
    features = network.encode(images(), depth=True)
    torch.testing.assert_close(features.levels[2], expected[2])
    for held, block in zip(features.depth_tokens, one.depth_head.blocks, strict=True):
        torch.testing.assert_close(held, network.visual.norm(untouched[block])[:, 1:])
    assert not finer


@torch.no_grad()
def test_depth_does_not_depend_on_the_tokens(one: Variant) -> None:
    network = untrained_network(one)
    before = network(images())
    network.tokens.scale.fill_(3.0)
    after = network(images())
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0], after[0])


def test_one_encoder_has_the_parameters_of_two_less_one(one: Variant, two: Variant) -> None:
    with torch.device("meta"):
        single, double = DepthForge(one).state_dict(), DepthForge(two).state_dict()
    assert set(single) == {name for name in double if not name.startswith("depth.")}


def test_a_checkpoint_for_the_other_number_of_encoders_is_refused(
    one: Variant, two: Variant, tmp_path: Path
) -> None:
    for stored, expected, words in (
        (two, one, "holds variant 'tiny' with two encoders, visual and depth; variant 'tiny_one'"),
        (one, two, "holds variant 'tiny_one' with one encoder; variant 'tiny' has two"),
    ):
        path = tmp_path / f"{stored.name}.safetensors"
        save_weights(untrained_network(stored).state_dict(), stored, path)
        network = untrained_network(expected)
        before = network.tokens.a.clone()
        with pytest.raises(WeightsError, match=words):
            load_weights(network, expected, [path])
        assert torch.equal(network.tokens.a, before)


@pytest.mark.parametrize("unnamed", [False, True])
def test_a_checkpoint_without_depth_features_is_refused_by_its_name(
    one: Variant, two: Variant, tmp_path: Path, unnamed: bool
) -> None:
    without = (
        (two, two, ("depth.", "depth_head."), "without a depth encoder; variant 'tiny' has two"),
        (one, one, ("depth_head.",), "without a depth head.*; variant 'tiny_one' needs them"),
    )
    if unnamed:  # with its variant stored it is refused as one with one encoder
        without += ((one, two, ("none.",), "without a depth encoder; variant 'tiny' has two"),)
    for number, (stored, expected, absent, words) in enumerate(without):
        path = tmp_path / f"{number}.safetensors"
        state = untrained_network(stored).state_dict()
        state = {name: value for name, value in state.items() if not name.startswith(absent)}
        if unnamed:
            save_file(state, path)
        else:
            save_weights(state, stored, path)
        said = "an unnamed variant" if unnamed else f"variant '{stored.name}'"
        for refused in (
            lambda path=path, expected=expected: load_weights(
                untrained_network(expected), expected, [path]
            ),
            lambda path=path, expected=expected: convert(expected, [path]),
        ):
            with pytest.raises(WeightsError, match=f"{path.name}: {said} {words}.*[aA]dd the file"):
                refused()


def test_an_encoder_alone_is_still_converted(two: Variant, tmp_path: Path) -> None:
    state = untrained_network(two).state_dict()
    save_file(
        {n: v for n, v in state.items() if n.startswith("visual.")}, tmp_path / "v.safetensors"
    )
    assert set(convert(two, [tmp_path / "v.safetensors"]).made_from) == {"visual"}


def test_depth_anything_becomes_the_only_encoder_and_dinov2_does_not(
    one: Variant, two: Variant, tmp_path: Path
) -> None:
    state = untrained_network(two).state_dict()
    state["depth.patch_embed.weight"] = torch.randn(two.visual.width, 3, 14, 14)
    prefix = "backbone.depth_anything."
    theirs = {author_name(k).removeprefix(prefix): v for k, v in state.items() if k[:5] == "depth"}
    torch.save(theirs, tmp_path / "depth_anything.pth")
    made = convert(one, [tmp_path / "depth_anything.pth"])
    assert set(made.made_from) == {"visual", "depth_head"}
    assert torch.equal(made.state["visual.norm.bias"], state["depth.norm.bias"])
    last = "blocks.3.mlp.fc2.weight"
    assert torch.equal(made.state[f"visual.{last}"], state[f"depth.{last}"])
    visual = {author_name(k).removeprefix("backbone."): v for k, v in state.items() if k[0] == "v"}
    torch.save(visual, tmp_path / "dinov2.pth")
    with pytest.raises(WeightsError, match="is DINOv2, which has no depth features"):
        convert(one, [tmp_path / "dinov2.pth"])


def test_an_encoder_without_depth_is_refused() -> None:
    tiny = load_variant(DATA / "tiny" / "tiny.yaml")
    eva = load_variant(DATA / "eva02" / "eva02.yaml").visual
    same = {"width": tiny.visual.width, "blocks": tiny.visual.blocks}
    with pytest.raises(ValueError, match="gives depth is of kind 'eva02'; allowed: 'dinov2'"):
        dataclasses.replace(tiny, visual=dataclasses.replace(eva, **same), depth=None)


@torch.no_grad()
def test_merged_encoders_give_the_same_depth_where_both_were_alike(
    one: Variant, two: Variant
) -> None:
    """If the depth encoder is a copy of the visual one, the fit is exact."""
    source, merged = untrained_network(two), untrained_network(one)
    source.depth.load_state_dict(source.visual.state_dict())
    source.depth.norm.weight.uniform_(0.5, 2.0)
    source.tokens.scale.fill_(0.0)
    generator = torch.Generator().manual_seed(7)
    crops = (torch.randint(256, (1, 3, 96, 96), generator=generator) for _ in range(20))
    merge_encoders(merged, source, crops)
    for expected, held in zip(source(images()), merged(images()), strict=True):
        torch.testing.assert_close(held, expected, rtol=0, atol=0.02 * expected.std().item())
    with pytest.raises(ValueError, match="no images"):
        merge_encoders(merged, source, [])
