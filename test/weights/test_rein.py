# SPDX-License-Identifier: Apache-2.0
"""Adapters of Rein, from files with the names and shapes that its code gives them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from paths import TINY, TINY_YAML
from safetensors.torch import load_file
from torch import Tensor

from depthforge_ros import cli
from depthforge_ros.engine.load import default_checkpoint
from depthforge_ros.network.deploy import deploy
from depthforge_ros.network.depthforge import ADAPTER_PARTS, DepthForge
from depthforge_ros.network.weights import WeightsError, load_weights
from depthforge_ros.variant import Variant, load_variant
from depthforge_ros.weights.convert import convert
from depthforge_ros.weights.inspection import inspect, text

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]


def layer(name: str, *weight: int, bias: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": weight}
    return shapes | ({f"{name}.bias": weight[:1]} if bias else {})


def joined(parts: Iterable[Shapes]) -> Shapes:
    return {name: shape for part in parts for name, shape in part.items()}


def rein_shapes(width: int, blocks: int, classes: int = 19, tokens: int = 100) -> Shapes:
    """Names and shapes in a training checkpoint of Rein: LoRAReins (rank 16) in the backbone, and
    mmdet 3's Mask2Former head of width 256 whose queries come from the tokens.
    """
    reins, head = "backbone.reins", "decode_head"
    pixels = f"{head}.pixel_decoder"
    parts: list[Shapes] = [
        {f"{reins}.scale": (), f"{reins}.learnable_tokens_a": (blocks, tokens, 16)},
        {f"{reins}.learnable_tokens_b": (blocks, 16, width)},
        layer(f"{reins}.mlp_token2feat", width, width),
        layer(f"{reins}.mlp_delta_f", width, width),
        layer(f"{reins}.transform", 256, width),
        layer(f"{reins}.merge", 256, 3 * 256),
        {f"{pixels}.level_encoding.weight": (3, 256), f"{head}.level_embed.weight": (3, 256)},
        layer(f"{pixels}.lateral_convs.0.conv", 256, width, 1, 1, bias=False),
        layer(f"{pixels}.lateral_convs.0.gn", 256),
        layer(f"{pixels}.output_convs.0.conv", 256, 256, 3, 3, bias=False),
        layer(f"{pixels}.output_convs.0.gn", 256),
        layer(f"{pixels}.mask_feature", 256, 256, 1, 1),
        layer(f"{head}.querys2feat", 256, 256),
        layer(f"{head}.cls_embed", classes + 1, 256),
        layer(f"{head}.transformer_decoder.post_norm", 256),
    ]
    for index in range(3):
        name = f"{pixels}.input_convs.{index}"
        parts += [layer(f"{name}.conv", 256, width, 1, 1), layer(f"{name}.gn", 256)]
        parts.append(layer(f"{head}.mask_embed.{2 * index}", 256, 256))
    for index in range(6):
        name = f"{pixels}.encoder.layers.{index}"
        parts += [
            layer(f"{name}.self_attn.sampling_offsets", 8 * 3 * 4 * 2, 256),
            layer(f"{name}.self_attn.attention_weights", 8 * 3 * 4, 256),
            layer(f"{name}.self_attn.value_proj", 256, 256),
            layer(f"{name}.self_attn.output_proj", 256, 256),
            layer(f"{name}.ffn.layers.0.0", 1024, 256),
            layer(f"{name}.ffn.layers.1", 256, 1024),
            *(layer(f"{name}.norms.{norm}", 256) for norm in range(2)),
        ]
    for index in range(9):
        name = f"{head}.transformer_decoder.layers.{index}"
        for attention in ("self_attn", "cross_attn"):
            inner = f"{name}.{attention}.attn"
            parts.append({f"{inner}.in_proj_weight": (768, 256), f"{inner}.in_proj_bias": (768,)})
            parts.append(layer(f"{inner}.out_proj", 256, 256))
        parts += [
            layer(f"{name}.ffn.layers.0.0", 2048, 256),
            layer(f"{name}.ffn.layers.1", 256, 2048),
            *(layer(f"{name}.norms.{norm}", 256) for norm in range(3)),
        ]
    return joined(parts)


def config(levels: tuple[int, ...] | None, crop: int = 512, kind: str = "Dino") -> str:
    """The lines of mmengine's configuration text that matter here."""
    named = {"Dino": "ReinsDinoVisionTransformer", "EVA": "ReinsEVA2"}[kind]
    indices = "" if levels is None else f"out_indices=[\n {', '.join(map(str, levels))},\n ],\n"
    return f"crop_size = (\n    {crop},\n    {crop},\n)\nbackbone=dict({indices} type='{named}'),\n"


def publish(path: Path, shapes: Shapes, text: str | None = None) -> Path:
    """A file of these names and shapes; every tensor shares one number, so it takes no room."""
    meta = {"epoch": 0, "iter": 40000} | ({} if text is None else {"cfg": text})
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    torch.save({"meta": meta, "state_dict": state}, path)
    return path


@pytest.mark.parametrize(
    ("name", "width", "blocks"),
    [
        ("dinov2_s+rein_gta5", 384, 12),
        ("dinov2_b+rein_gta5", 768, 12),
        ("dinov2_l+rein_cityscapes", 1024, 24),
        ("dinov2_l+rein_cityscapes+outdoor+crop1024", 1024, 24),
        ("eva02_l+rein_gta5", 1024, 24),
    ],
)
def test_files_of_the_published_names_and_shapes_become_the_whole_adapter(
    tmp_path: Path, name: str, width: int, blocks: int
) -> None:
    variant = load_variant(name)
    assert variant.adapter is not None
    kind = "EVA" if name.startswith("eva") else "Dino"
    stored = config(None if width == 1024 else variant.levels, 1024, kind)
    path = publish(tmp_path / variant.adapter.source.file, rein_shapes(width, blocks), stored)
    made = convert(variant, [path])
    assert set(made.made_from) == set(ADAPTER_PARTS)
    assert made.made_from["tokens"] == path.name
    assert made.trained_crop == 1024
    numbers = sum(math.prod(shape) for shape in rein_shapes(width, blocks).values())
    refinement = sum(v.numel() for k, v in made.state.items() if k.startswith("refinement."))
    assert sum(value.numel() for value in made.state.values()) == numbers + refinement
    assert not any(made.state[k].any() for k in made.state if k.startswith("refinement."))


@pytest.fixture(scope="module")
def theirs() -> State:
    """The reference network as a Rein checkpoint of its size: tokens renamed, no refinement."""
    state = load_file(TINY / "tiny_weights.safetensors")
    names = {key: key.replace("backbone.depthforge.", "backbone.reins.") for key in state}
    kept = ("backbone.reins.", "decode_head.")
    rein = {
        name: state[key]
        for key, name in names.items()
        if name.startswith(kept) and ".DQCM." not in name
    }
    # As after long training: tokens that act.
    rein["backbone.reins.scale"] = torch.tensor(0.3)
    rein["backbone.reins.learnable_tokens_b"] = 10 * rein["backbone.reins.learnable_tokens_b"]
    return rein


@torch.no_grad()
def rein_by_hand(network: DepthForge, images: Tensor) -> Tensor:
    """Scores by the formulas of arXiv 2312.04265, section 3, on the network's own encoder."""
    x, _ = network.visual.embed(network.normalise(images))
    t, levels = network.tokens, []
    for index, block in enumerate(network.visual.blocks):
        x = block(x)
        tokens = t.a[index] @ t.b[index]  # [m, C]
        features = x[:, 1:]
        similarity = (features @ tokens.T / math.sqrt(x.shape[-1])).softmax(-1)
        delta = similarity[..., 1:] @ t.token_to_feature(tokens[1:])
        features = features + t.scale * t.delta(delta + features)
        x = torch.cat([x[:, :1], features], dim=1)
        levels.append(features.transpose(1, 2).unflatten(2, (4, 4)))
    sizes = ((16, 16), (8, 8), (4, 4), (2, 2))
    maps = [
        torch.nn.functional.interpolate(level, size, mode="bilinear")
        for level, size in zip(levels, sizes, strict=True)
    ]
    outputs = network.mask_decoder(t.queries(), *network.pixel_decoder(maps))
    masks = torch.nn.functional.interpolate(outputs.mask_logits[-1], (64, 64), mode="bilinear")
    classes = outputs.class_logits[-1].softmax(-1)[..., :-1]
    return torch.einsum("bqk,bqhw->bkhw", classes, masks.sigmoid())


@torch.no_grad()
def test_two_commands_make_a_network_that_computes_rein_and_still_sees_depth(
    tmp_path: Path,
    theirs: State,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DEPTHFORGE_WEIGHTS", str(tmp_path / "weights"))
    name = f"{TINY_YAML}+rein"
    frozen = load_file(TINY / "tiny_weights.safetensors")
    encoders = {
        k.removeprefix("backbone."): v
        for k, v in frozen.items()
        if k.startswith("backbone.") and ".depthforge." not in k
    }
    torch.save(encoders, tmp_path / "encoders.pth")
    torch.save({"state_dict": theirs, "meta": {"cfg": config(None)}}, tmp_path / "rein.pth")
    files = [str(tmp_path / "encoders.pth"), str(tmp_path / "rein.pth")]
    assert cli.main(["weights", "convert", "--variant", name, *files]) == 0
    out = capsys.readouterr().out
    assert "refinement from nothing: zero, so that it changes nothing\n" in out
    assert "trained with crops of 512 px; variant 'tiny+rein' has 64\n" in out
    variant = load_variant(name)
    network = DepthForge(variant)
    load_weights(network, variant, [default_checkpoint(variant)])
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, 3, 64, 64), generator=generator).to(torch.uint8)
    expected = rein_by_hand(network, images)
    scores, depth = network(images)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    plain = DepthForge(load_variant(TINY_YAML))
    plain.load_state_dict(network.state_dict())
    seen, depth_seen = plain(images)
    assert torch.equal(depth, depth_seen)  # the depth head is untouched
    assert (seen - scores).abs().max() > 1e-3  # tokens that see depth compute something else
    folded = deploy(network, 64, 64)
    torch.testing.assert_close(folded(images)[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded(images, depth=False)[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded(images)[1], depth, rtol=1e-4, atol=1e-5)
    network.depth.requires_grad_(False)
    for parameter in network.depth.parameters():
        parameter.fill_(torch.nan)
    assert torch.equal(network(images, depth=False)[0], scores)  # it does not even run


def refusal(variant: Variant, path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        convert(variant, [path])
    return str(caught.value)


def test_what_does_not_fit_is_refused_with_both_numbers_and_the_nearest_variant(
    tmp_path: Path, theirs: State
) -> None:
    base = load_variant("dinov2_b+rein")
    path = publish(tmp_path / "rein.pth", rein_shapes(384, 12))
    error = refusal(base, path)
    assert "rein.pth: width of the tokens is 384, expected 768" in error
    assert "rein.pth: variants of its size: dinov2_s+rein" in error
    publish(path, rein_shapes(1024, 24))
    error = refusal(base, path)
    assert "layers of tokens are 24, expected 12" in error
    assert "variants of its size: dinov2_l+rein, eva02_l+rein" in error
    error = refusal(base, publish(path, rein_shapes(768, 12, classes=65, tokens=50)))
    assert "labels are 65, expected 19" in error
    assert "tokens a layer are 50, expected 100" in error
    error = refusal(base, publish(path, rein_shapes(768, 12), config((2, 5, 8, 11))))
    assert "decoder reads blocks (2, 5, 8, 11), expected (3, 5, 7, 11)" in error
    large = load_variant("dinov2_l+rein")
    error = refusal(large, publish(path, rein_shapes(1024, 24), config(None, kind="EVA")))
    assert "visual encoder is eva02, expected dinov2" in error
    full = rein_shapes(768, 12) | {"backbone.reins.learnable_tokens": (12, 100, 768)}
    del full["backbone.reins.learnable_tokens_a"], full["backbone.reins.learnable_tokens_b"]
    error = refusal(base, publish(path, full))
    assert "unexpected backbone.reins.learnable_tokens in rein.pth" in error
    assert "missing tokens.a" in error
    error = refusal(load_variant("dinov2_b"), publish(path, rein_shapes(768, 12)))
    assert "tokens see only visual features; those of variant 'dinov2_b' do not" in error
    assert "those of 'dinov2_b+rein' do" in error
    state = {k.replace(".reins.", ".depthforge."): v for k, v in theirs.items()}
    torch.save(state, path)
    error = refusal(load_variant(f"{TINY_YAML}+rein"), path)
    assert "tokens see depth and visual features; those of variant 'tiny+rein' do not" in error
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, path)
    assert "a Rein training checkpoint" in refusal(base, path)


def test_the_list_and_inspect_know_the_published_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEPTHFORGE_WEIGHTS", str(tmp_path / "weights"))
    assert cli.main(["weights", "list", "dinov2_l+rein_cityscapes"]) == 0
    *_, row, _ = (line.split() for line in capsys.readouterr().out.splitlines())
    assert row == ["dinov2_l+rein_cityscapes", "adapter", "112", "GPL-3.0", "no"]
    path = publish(tmp_path / "rein.pth", rein_shapes(384, 12))
    names = ("dinov2_b", "dinov2_b+rein", "dinov2_s", "dinov2_s+rein")
    out = text(inspect(path, map(load_variant, names)))
    assert "names of    a Rein training checkpoint\n" in out
    assert "variant     dinov2_s+rein (by its shapes)\n" in out
    assert cli.main(["weights", "inspect", str(path), "--variant", "dinov2_s"]) == 1
    assert "differs     a Rein training checkpoint, whose tokens see" in capsys.readouterr().out
