# SPDX-License-Identifier: Apache-2.0
"""The script that asks whether depth in the tokens helps `nano`: its models and its measurement."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT

from depthforge_ros.engine.load import load_network
from depthforge_ros.learning.config import TrainConfig, read_config
from depthforge_ros.learning.train_command import build_task
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.variant import load_variant

SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "scripts" / "depth_ablation.py"))
Model, Change = SCRIPT["Model"], SCRIPT["Change"]
MODELS = list(Model)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return dataclasses.replace(read_config(SCRIPT["CONFIG"]), output=tmp_path)


@pytest.fixture(scope="module")
def shipped() -> DepthForge:
    return load_network(load_variant("nano"), "").eval().requires_grad_(False)


def images() -> torch.Tensor:
    return torch.randint(256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(3))


def network_of(config: TrainConfig, model: Any, seed: int = 0) -> DepthForge:
    network = build_task(SCRIPT["start"](config, model, seed)).network.eval()
    if model is Model.METRES:
        SCRIPT["show_metres"](network)
    return network


def scores_of(network: DepthForge, change: Any) -> torch.Tensor:
    with torch.no_grad(), SCRIPT["changed"](network, change):
        return network(images(), depth=False)[0]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.value)
def test_every_model_starts_as_the_shipped_network_without_tokens(
    config: TrainConfig, shipped: DepthForge, model: Any
) -> None:
    network = network_of(config, model)
    expected = scores_of(shipped, Change.NO_TOKENS)
    torch.testing.assert_close(scores_of(network, Change.NOTHING), expected, rtol=0, atol=1e-5)
    assert not torch.equal(scores_of(shipped, Change.NOTHING), expected)
    frozen = [n for n, p in network.named_parameters() if not p.requires_grad]
    assert {name.partition(".")[0] for name in frozen} == {"visual", "depth_head"}
    with torch.no_grad():
        values = network.tokens.token_to_feature(network.tokens.a @ network.tokens.b)
    assert float(values.square().mean().sqrt()) == pytest.approx(20.0, rel=1e-4)


def test_seeds_start_with_other_values_and_models_of_a_seed_with_the_same(
    config: TrainConfig,
) -> None:
    def weight(model: Any, seed: int) -> torch.Tensor:
        return network_of(config, model, seed).tokens.token_to_feature.weight

    assert torch.equal(weight(Model.DEPTH, 0), weight(Model.VISUAL, 0))
    assert not torch.equal(weight(Model.DEPTH, 0), weight(Model.DEPTH, 1))


def test_models_differ_in_whether_the_tokens_see_depth(config: TrainConfig) -> None:
    scores = {}
    for model in MODELS:
        network = network_of(config, model)
        with torch.no_grad():
            network.tokens.delta.weight.copy_(0.05 * torch.eye(192))
        scores[model] = {change: scores_of(network, change) for change in Change}
    depth, visual = scores[Model.DEPTH], scores[Model.VISUAL]
    assert (depth[Change.NOTHING] - depth[Change.ZERO_DEPTH]).abs().max() > 1e-3
    assert torch.equal(visual[Change.NOTHING], visual[Change.ZERO_DEPTH])
    torch.testing.assert_close(depth[Change.ZERO_DEPTH], visual[Change.NOTHING])
    torch.testing.assert_close(depth[Change.NO_TOKENS], visual[Change.NO_TOKENS])
    metres = scores[Model.METRES]
    assert (metres[Change.NOTHING] - depth[Change.NOTHING]).abs().max() > 1e-3
    torch.testing.assert_close(metres[Change.ZERO_DEPTH], visual[Change.NOTHING])


def test_metres_are_the_answer_of_the_depth_head(config: TrainConfig) -> None:
    network = network_of(config, Model.METRES)
    with torch.no_grad():
        network.tokens.delta.weight.copy_(0.05 * torch.eye(192))
    before = scores_of(network, Change.NOTHING)
    head = network.depth_head.forward
    network.depth_head.forward = lambda *args: 2 * head(*args)
    assert not torch.allclose(scores_of(network, Change.NOTHING), before, atol=1e-4)


def test_sines_of_metres_have_mean_square_one_and_start_at_one_metre() -> None:
    logs = torch.tensor([[0.0, 2.0, 4.0]])
    found = SCRIPT["sines"](logs, 192)
    assert found.shape == (1, 3, 192)
    torch.testing.assert_close(found.square().mean(-1), torch.ones(1, 3))
    assert found[0, 0, :96].abs().max() == 0
    assert float(found[0, 0, 96]) == pytest.approx(2**0.5)


def test_in_the_shipped_network_depth_says_what_the_features_say(shipped: DepthForge) -> None:
    found = SCRIPT["inspect"](shipped, images())
    assert len(found) == 12
    assert found[0][0] == pytest.approx(1.0, abs=1e-6)
    assert min(agreement for agreement, _, _ in found) > 0.99
    assert all(correction < 0.05 * features for _, features, correction in found)


def test_measurement_scores_every_model_on_the_same_streets(config: TrainConfig) -> None:
    networks = {"depth_0": network_of(config, Model.DEPTH)}
    networks["visual_0"] = network_of(config, Model.VISUAL)
    networks["depth_1"] = network_of(config, Model.DEPTH)
    with torch.no_grad():
        networks["depth_1"].tokens.delta.weight.copy_(0.05 * torch.eye(192))
    report = SCRIPT["measure"](networks, 1, ("clear",))
    assert report["pixels"] == 512 * 384
    start, visual, other = (report[name] for name in ("depth_0", "visual_0", "depth_1"))
    assert start["d = 0"]["moved"] == 0  # the last layer is 0
    assert start["as trained"]["miou"] == visual["as trained"]["miou"]
    assert 30 < start["as trained"]["miou"]["clear"] < 90
    assert other["d = 0"]["moved"] > 0
    assert start["scale"] == pytest.approx(0.1)


def test_table_holds_means_and_differences_seed_by_seed() -> None:
    def one(miou: float, scale: float = 0.1) -> dict[str, Any]:
        given = {"miou": {"clear": miou, "night": miou - 2}, "moved": 50}
        return {"as trained": given, "d = 0": given, "scale": scale}

    report = {"pixels": 1000, "depth_0": one(50), "depth_1": one(52), "visual_0": one(49)}
    report |= {"visual_1": one(52.5), "metres_0": one(49), "metres_1": one(52.5)}
    text = SCRIPT["table"](report, 2, ("clear", "night"))
    assert "| depth, d = 0 | 51.0 ± 1.4 | 49.0 ± 1.4 | 50.0 ± 1.4 | 5.000 ± 0.000 |" in text
    assert "depth, night, less visual: +1.00, -0.50: 0.25 ± 1.06" in text
    assert "metres, mean, less visual: +0.00, +0.00: 0.00 ± 0.00" in text
