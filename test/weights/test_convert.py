# SPDX-License-Identifier: Apache-2.0
"""Published files become ours: the authors' numbers, everybody's names, and every fault at once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from paths import DATA
from safetensors.torch import load_file
from torch import Tensor

from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.weights import WeightsError, load_weights, read_weights, save_weights
from depthforge_ros.network.weights.names import author_name
from depthforge_ros.network.weights.resample import resample_kernel, resample_positions
from depthforge_ros.variant import Variant, load_variant
from depthforge_ros.weights.convert import MADE_FROM, convert

TOLERANCE = 1e-4
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def reference() -> State:
    return load_file(DATA / "patch16_conversion.safetensors")


@pytest.fixture(scope="module")
def tiny() -> Variant:
    return load_variant(DATA / "tiny" / "tiny.yaml")


def of_encoder(variant: Variant, **changes: object) -> Variant:
    return dataclasses.replace(variant, visual=dataclasses.replace(variant.visual, **changes))


def random_state(variant: Variant) -> State:
    """Every parameter by our name, each value its own."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in DepthForge(variant).state_dict().items()}
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def published(state: State, part: str) -> State:
    """As DINOv2, EVA02 (part `visual`) or Depth Anything V2 (part `depth`) name their weights."""
    prefix = {"visual": "backbone.", "depth": "backbone.depth_anything."}[part]
    return {
        author_name(name).removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(part)
    }


@pytest.mark.parametrize(("size", "grid"), [("512x512", (32, 32)), ("512x1024", (32, 64))])
def test_resampling_gives_the_authors_numbers(
    reference: State, size: str, grid: tuple[int, int]
) -> None:
    kernel = resample_kernel(reference["raw.patch_embed.proj.weight"])
    expected = reference[f"converted_{size}.patch_embed.proj.weight"]
    assert kernel.shape == expected.shape
    assert (kernel - expected).abs().max() <= TOLERANCE
    table = resample_positions(reference["raw.pos_embed"], grid)
    expected = reference[f"converted_{size}.pos_embed"]
    assert table.shape == expected.shape
    assert (table - expected).abs().max() <= TOLERANCE


def test_a_table_that_is_not_square_needs_its_grid(reference: State) -> None:
    wide = reference["converted_512x1024.pos_embed"]
    assert resample_positions(wide, (32, 64), (32, 64)) is wide
    assert resample_positions(wide, (16, 16), (32, 64)).shape == (1, 257, 8)
    with pytest.raises(ValueError, match="2048 patches, which is not 45 × 45"):
        resample_positions(wide, (32, 32))
    with pytest.raises(ValueError, match="2048 patches, which is not 32 × 32"):
        resample_positions(wide, (16, 16), (32, 32))


@pytest.mark.filterwarnings("ignore:Initializing zero-element:UserWarning")  # so small a width
def test_dinov2_becomes_the_visual_encoder_at_patch_16(
    tmp_path: Path, tiny: Variant, reference: State
) -> None:
    encoder = {"width": 8, "heads": 2}
    variant = dataclasses.replace(
        tiny,
        crop=512,
        stride=341,
        visual=dataclasses.replace(tiny.visual, **encoder),
        depth=dataclasses.replace(tiny.depth, **encoder),
    )
    state = random_state(variant)
    hub = published(state, "visual") | {
        "patch_embed.proj.weight": reference["raw.patch_embed.proj.weight"],
        "pos_embed": reference["raw.pos_embed"],
        "mask_token": torch.zeros(1, 8),
    }
    torch.save(hub, tmp_path / "dinov2.pth")
    made = convert(variant, [tmp_path / "dinov2.pth"])
    assert made.made_from == {"visual": "dinov2.pth"}
    assert not made.complete
    for ours, theirs in (("patch_embed.weight", "patch_embed.proj.weight"), ("pos_embed",) * 2):
        expected = reference[f"converted_512x512.{theirs}"]
        assert (made.state[f"visual.{ours}"] - expected).abs().max() <= TOLERANCE
    assert set(made.state) == {name for name in state if name.startswith("visual.")}
    for name in set(made.state) - {"visual.patch_embed.weight", "visual.pos_embed"}:
        assert torch.equal(made.state[name], state[name]), name


def test_registers_come_along_and_their_positions_are_antialiased(
    tmp_path: Path, tiny: Variant
) -> None:
    variant = of_encoder(tiny, registers=4)
    state = random_state(variant)
    table = torch.randn(1, 1 + 37 * 37, 64)
    torch.save(published(state, "visual") | {"pos_embed": table}, tmp_path / "reg4.pth")
    made = convert(variant, [tmp_path / "reg4.pth"]).state
    assert torch.equal(made["visual.register_tokens"], state["visual.register_tokens"])
    assert torch.equal(made["visual.pos_embed"], resample_positions(table, (4, 4), antialias=True))
    assert not torch.equal(made["visual.pos_embed"], resample_positions(table, (4, 4)))
    with pytest.raises(WeightsError, match=r"unexpected register_tokens in reg4\.pth"):
        convert(tiny, [tmp_path / "reg4.pth"])


def test_dinov2_g_keeps_its_gates(tmp_path: Path, tiny: Variant) -> None:
    variant = of_encoder(tiny, swiglu=True)
    state = random_state(variant)
    torch.save(published(state, "visual"), tmp_path / "g.pth")
    made = convert(variant, [tmp_path / "g.pth"]).state
    assert torch.equal(
        made["visual.blocks.3.mlp.w12.weight"], state["visual.blocks.3.mlp.w12.weight"]
    )


@pytest.mark.parametrize("wrapper", ["module", "model", None])
@pytest.mark.parametrize("fused", [False, True])
def test_eva02_comes_out_of_its_wrappers(
    tmp_path: Path, tiny: Variant, wrapper: str | None, fused: bool
) -> None:
    variant = of_encoder(tiny, kind="eva02")
    state = random_state(variant)
    eva = published(state, "visual") | {
        "rope.freqs_cos": torch.zeros(256, 16),
        "blocks.0.attn.rope.freqs_sin": torch.zeros(256, 16),
        "fc_norm.weight": torch.zeros(64),
        "head.weight": torch.zeros(1000, 64),
        "norm.weight": torch.zeros(64),
        "mask_token": torch.zeros(1, 1, 64),
    }
    if fused:
        for block in range(4):
            pieces = [eva.pop(f"blocks.{block}.attn.{p}_proj.weight") for p in "qkv"]
            eva[f"blocks.{block}.attn.qkv.weight"] = torch.cat(pieces)
    eva = {name: tensor.half() for name, tensor in eva.items()}
    torch.save({wrapper: eva, "epoch": 3} if wrapper else eva, tmp_path / "eva.pt")
    made = convert(variant, [tmp_path / "eva.pt"])
    assert set(made.state) == {name for name in state if name.startswith("visual.")}
    for name, tensor in made.state.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].half().float()), name
    save_weights(made.state, variant, tmp_path / "ours.safetensors")
    stored, _ = read_weights(tmp_path / "ours.safetensors")
    assert torch.equal(
        stored["visual.blocks.1.attn.k_proj.weight"],
        made.state["visual.blocks.1.attn.k_proj.weight"],
    )


def test_official_encoders_and_a_trained_adapter_make_a_whole_network(
    tmp_path: Path, tiny: Variant
) -> None:
    state = random_state(tiny)
    torch.save(published(state, "visual"), tmp_path / "dinov2.pth")
    depth = published(state, "depth")
    depth["depth_head.scratch.refinenet4.resConfUnit1.conv1.weight"] = torch.zeros(16, 16, 3, 3)
    torch.save(depth, tmp_path / "da.pth")
    adapter = {k: v for k, v in state.items() if not k.startswith(("visual.", "depth"))}
    save_weights(adapter, tiny, tmp_path / "adapter.safetensors", {"step": "100"})
    files = [tmp_path / name for name in ("dinov2.pth", "da.pth", "adapter.safetensors")]
    made = convert(tiny, files)
    assert made.complete
    save_weights(made.state, tiny, tmp_path / "whole.safetensors", made.notes())
    network = DepthForge(tiny)
    load_weights(network, tiny, [tmp_path / "whole.safetensors"])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert json.loads(made.notes()[MADE_FROM]) == {
        "visual": "dinov2.pth",
        "depth": "da.pth",
        "depth_head": "da.pth",
        **dict.fromkeys(("tokens", "refinement", "pixel_decoder", "mask_decoder"), files[2].name),
    }


def test_the_authors_files_become_what_they_load_as(tmp_path: Path, tiny: Variant) -> None:
    theirs = load_file(DATA / "tiny" / "tiny_weights.safetensors")
    trained = {k: v for k, v in theirs.items() if "depthforge" in k or "decode_head" in k}
    frozen = {k.removeprefix("backbone."): v for k, v in theirs.items() if k not in trained}
    torch.save({"state_dict": trained, "meta": {"epoch": 3}}, tmp_path / "iter.pth")
    torch.save(frozen, tmp_path / "frozen.pth")
    made = convert(tiny, [tmp_path / "iter.pth", tmp_path / "frozen.pth"])
    network = DepthForge(tiny)
    load_weights(network, tiny, [DATA / "tiny" / "tiny_weights.safetensors"])
    assert made.complete
    for name, tensor in network.state_dict().items():
        assert torch.equal(made.state[name], tensor), name


def test_encoders_for_wide_images_are_brought_to_the_square_crop(
    tmp_path: Path, tiny: Variant
) -> None:
    state = published(random_state(tiny), "visual") | {"pos_embed": torch.randn(1, 1 + 4 * 8, 64)}
    torch.save(state, tmp_path / "wide.pth")
    with pytest.raises(WeightsError, match=r"wide\.pth: pos_embed: .*32 patches.*--stored-size"):
        convert(tiny, [tmp_path / "wide.pth"])
    made = convert(tiny, [tmp_path / "wide.pth"], (4, 8)).state["visual.pos_embed"]
    assert torch.equal(made, resample_positions(state["pos_embed"], (4, 4), (4, 8)))


def test_every_fault_is_named_at_once(tmp_path: Path, tiny: Variant) -> None:
    state = published(random_state(tiny), "visual")
    del state["blocks.2.attn.proj.bias"]
    state["cls_token"] = torch.zeros(1, 1, 32)
    state["blocks.0.extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError) as caught:
        convert(tiny, [tmp_path / "a.pth"])
    head, *lines = str(caught.value).split("\n  ")
    assert head.endswith("a.pth cannot become variant 'tiny', 3 faults:")
    assert sorted(lines) == [
        "missing visual.blocks.2.attn.proj.bias",
        "unexpected blocks.0.extra in a.pth",
        "visual.cls_token in a.pth is [1, 1, 32], expected [1, 1, 64]",
    ]


def test_encoders_of_another_size_are_named_with_both_numbers(
    tmp_path: Path, tiny: Variant
) -> None:
    small = dataclasses.replace(
        tiny,
        visual=dataclasses.replace(tiny.visual, width=32, blocks=6),
        depth=dataclasses.replace(tiny.depth, width=32, blocks=6),
    )
    torch.save(published(random_state(small), "depth"), tmp_path / "da.pth")
    with pytest.raises(WeightsError) as caught:
        convert(tiny, [tmp_path / "da.pth"])
    lines = str(caught.value).split("\n  ")[1:3]
    assert lines == [
        "da.pth: width of the depth encoder is 32, expected 64",
        "da.pth: blocks of the depth encoder are 6, expected 4",
    ]


def test_other_networks_are_refused_by_what_they_are(tmp_path: Path, tiny: Variant) -> None:
    eva = of_encoder(tiny, kind="eva02")
    files = {
        "eva.pth": published(random_state(eva), "visual"),
        "rein.pth": {"backbone.reins.scale": torch.ones(1)},
        "cat.pth": {"layer1.0.conv1.weight": torch.ones(1)},
    }
    for name, state in files.items():
        torch.save(state, tmp_path / name)
    for name, text in (
        ("eva.pth", "visual encoder of kind eva02, variant 'tiny' wants dinov2"),
        ("rein.pth", "is a Rein training checkpoint, whose tokens see only visual features"),
        (
            "cat.pth",
            r"holds layer1\.0\.conv1\.weight, …; expected weights of one of: depthforge_ros",
        ),
    ):
        with pytest.raises(WeightsError, match=rf"{name} .*{text}"):
            convert(tiny, [tmp_path / name])


def test_half_the_bytes_hold_the_same_weights_to_three_digits(
    tmp_path: Path, tiny: Variant
) -> None:
    state = random_state(tiny)
    save_weights(state, tiny, tmp_path / "whole.safetensors")
    made = convert(tiny, [tmp_path / "whole.safetensors"]).halved()
    save_weights(made.state, tiny, tmp_path / "half.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.55 * sizes[1]
    network = DepthForge(tiny)
    load_weights(network, tiny, [tmp_path / "half.safetensors"])
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-4)


def test_a_weight_beyond_float16_is_not_halved(tmp_path: Path, tiny: Variant) -> None:
    state = random_state(tiny)
    state["tokens.scale"] = torch.tensor(1e6)
    save_weights(state, tiny, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"tokens\.scale holds numbers beyond float16"):
        convert(tiny, [tmp_path / "w.safetensors"]).halved()
