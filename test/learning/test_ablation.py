# SPDX-License-Identifier: Apache-2.0
"""The three models of the question whether depth helps: what each of them can see."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from runs import config_of, write_run

from depthforge_ros import cli
from depthforge_ros.engine import build_engine
from depthforge_ros.learning.loop import Run
from depthforge_ros.learning.train_command import build_task
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.weights import read_weights
from depthforge_ros.network.weights.files import open_weights
from depthforge_ros.resources import code_version
from depthforge_ros.variant import load_variant

CPU = torch.device("cpu")


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 64, 64), generator=generator).to(torch.uint8)


def with_other_depth(network: DepthForge) -> torch.Tensor:
    """Scores where the depth encoder's features are others."""
    hook = network.tokens.register_forward_pre_hook(
        lambda _, args: (args[0], args[1] + torch.linspace(-3, 3, args[1].shape[-1]), args[2])
    )
    try:
        return network(images(), depth=False)[0]
    finally:
        hook.remove()


@torch.no_grad()
def by_hand(network: DepthForge, ablation: str) -> torch.Tensor:
    """Scores of the network with the parts that are left out taken out of the computation."""
    normalised = network.normalise(images())
    x, _ = network.visual.embed(normalised)
    levels = []
    for index, block in enumerate(network.visual.blocks):
        x = block(x)
        if ablation == "rein":
            tokens = network.tokens.a[index] @ network.tokens.b[index]
            f = x[:, 1:]
            w = (f @ tokens.T / math.sqrt(f.shape[-1])).softmax(-1)
            correction = w[..., 1:] @ network.tokens.token_to_feature(tokens[1:])
            f = f + network.tokens.scale * network.tokens.delta(correction + f)
            x = torch.cat([x[:, :1], f], dim=1)
        levels.append(x[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))
    sizes = ((16, 16), (8, 8), (4, 4), (2, 2))
    maps = [
        torch.nn.functional.interpolate(level, size, mode="bilinear")
        for level, size in zip(levels, sizes, strict=True)
    ]
    outputs = network.mask_decoder(network.tokens.queries(), *network.pixel_decoder(maps))
    masks = torch.nn.functional.interpolate(outputs.mask_logits[-1], (64, 64), mode="bilinear")
    classes = outputs.class_logits[-1].softmax(-1)[..., :-1]
    return torch.einsum("bqk,bqhw->bkhw", classes, masks.sigmoid())


@pytest.mark.parametrize("ablation", ["none", "rein", "depth"])
def test_what_is_left_out_stays_out_after_training(tmp_path: Path, ablation: str) -> None:
    config = config_of(tmp_path, ablation=ablation, lr=1e-2, steps=3)
    run = Run(build_task(config), config, CPU)
    start = {name: value.clone() for name, value in run.task.network.state_dict().items()}
    run.train()
    network = run.task.network.eval()
    moved = {
        name for name, value in network.state_dict().items() if not torch.equal(value, start[name])
    }
    assert {"tokens.a", "tokens.b", "tokens.to_query.weight", "mask_decoder.class_head.weight"} <= (
        moved
    )
    assert ("tokens.scale" in moved) == (ablation != "none")
    assert ("tokens.delta.weight" in moved) == (ablation != "none")
    assert ("refinement.fuse.weight" in moved) == (ablation == "depth")
    assert not any(name.startswith(("visual.", "depth.", "depth_head.")) for name in moved)
    with torch.no_grad():
        scores = network(images(), depth=False)[0]
        if ablation == "none":
            assert torch.equal(with_other_depth(network), scores)
        elif ablation == "depth":
            network.tokens.scale.fill_(1.0)  # so few steps leave it tiny
            network.tokens.b.mul_(30.0)
            seen = network(images(), depth=False)[0]
            assert (with_other_depth(network) - seen).abs().max() > 1e-3
    if ablation != "depth":
        torch.testing.assert_close(scores, by_hand(network, ablation), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ablation", ["none", "rein"])
def test_the_files_of_an_ablation_run_in_any_engine(tmp_path: Path, ablation: str) -> None:
    path = write_run(tmp_path, ablation=ablation, steps=2)
    assert cli.main(["train", str(path), "--device", "cpu"]) == 0
    out = tmp_path / "out"
    given = tmp_path / "frozen.safetensors"
    name = str(tmp_path / "tiny.yaml") + ("+rein" if ablation == "rein" else "")
    variant = load_variant(name)
    engine = build_engine(variant, f"{given},{out / 'weights.safetensors'}", device="cpu")
    notes = open_weights(out / "weights.safetensors").notes
    assert json.loads(notes["depthforge.config"])["ablation"] == ablation
    assert json.loads(notes["depthforge.data"]) == {"folder": 6}
    assert notes["depthforge.code"] == code_version()
    network = DepthForge(variant)
    state = read_weights(given)[0] | read_weights(out / "weights.safetensors")[0]
    network.load_state_dict(state)
    scores = engine(images(), depth=False).scores
    torch.testing.assert_close(scores, by_hand(network, ablation), rtol=1e-4, atol=1e-5)


def test_only_the_method_has_parts_to_leave_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ablation is for stage method; this is stage visual"):
        config_of(tmp_path, stage="visual", ablation="none", weights=[])
