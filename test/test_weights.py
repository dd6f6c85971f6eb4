# SPDX-License-Identifier: Apache-2.0
"""Loading is strict, safe and says everything that is wrong at once."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.weights import (
    WeightsError,
    files,
    load_weights,
    read_weights,
    save_weights,
)
from depthforge_ros.variant import load_variant, variant_to_mapping

TINY = Path(__file__).parent / "data" / "tiny"


@pytest.fixture
def variant():
    return load_variant(TINY / "tiny.yaml")


@pytest.fixture(scope="module")
def author_state():
    return load_file(TINY / "tiny_weights.safetensors")


def test_our_own_file_returns_what_was_saved(tmp_path, variant):
    torch.manual_seed(1)
    network = DepthForge(variant)
    save_weights(network.state_dict(), variant, tmp_path / "w.safetensors", {"step": "7"})
    state, stored = read_weights(tmp_path / "w.safetensors")
    assert stored == variant
    other = DepthForge(variant)
    load_weights(other, variant, [tmp_path / "w.safetensors"])
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
        assert torch.equal(state[name], tensor)


def test_an_author_training_checkpoint_and_a_frozen_file_complete_each_other(
    tmp_path, variant, author_state
):
    trained = {k: v for k, v in author_state.items() if "depthforge" in k or "decode_head" in k}
    frozen = {k.removeprefix("backbone."): v for k, v in author_state.items() if k not in trained}
    torch.save({"state_dict": trained, "meta": {"epoch": 3}}, tmp_path / "iter.pth")
    torch.save(frozen, tmp_path / "frozen.pth")
    split, whole = DepthForge(variant), DepthForge(variant)
    load_weights(split, variant, [tmp_path / "iter.pth", tmp_path / "frozen.pth"])
    load_weights(whole, variant, [TINY / "tiny_weights.safetensors"])
    for name, tensor in whole.state_dict().items():
        assert torch.equal(split.state_dict()[name], tensor), name


def test_every_fault_is_listed_and_nothing_is_loaded(tmp_path, variant, author_state):
    state = dict(author_state)
    del state["decode_head.cls_embed.bias"]
    state["backbone.cls_token"] = torch.zeros(1, 1, 32)
    state["decode_head.extra"] = torch.zeros(1)
    save_file(state, tmp_path / "bad.safetensors")
    network = DepthForge(variant)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_weights(network, variant, [tmp_path / "bad.safetensors"])
    text = str(caught.value)
    assert "3 faults" in text
    assert "missing mask_decoder.class_head.bias" in text
    assert "backbone.cls_token is [1, 1, 32], wanted [1, 1, 64]" in text
    assert "unexpected decode_head.extra" in text
    for name, tensor in network.state_dict().items():
        assert torch.equal(before[name], tensor)


def test_a_name_in_two_files_is_refused(tmp_path, variant, author_state):
    save_file(
        {"backbone.cls_token": author_state["backbone.cls_token"]}, tmp_path / "b.safetensors"
    )
    paths = [TINY / "tiny_weights.safetensors", tmp_path / "b.safetensors"]
    with pytest.raises(WeightsError, match=r"cls_token is in tiny_weights\.safetensors and in b"):
        load_weights(DepthForge(variant), variant, paths)


def test_another_variant_is_refused_with_the_differing_sizes(tmp_path, variant):
    other = dataclasses.replace(variant, tokens=20, name="other")
    save_weights(DepthForge(other).state_dict(), other, tmp_path / "o.safetensors")
    with pytest.raises(WeightsError, match="tokens: stored 20, wanted 12"):
        load_weights(DepthForge(variant), variant, [tmp_path / "o.safetensors"])


class Bomb:
    def __reduce__(self):
        return (print, ("code ran while loading weights",))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_damaged_files_are_refused_by_name(tmp_path, variant, suffix):
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match=f"broken.{suffix} cannot be read as weights"):
        load_weights(DepthForge(variant), variant, [path])


def test_a_truncated_file_is_refused(tmp_path, variant):
    path = tmp_path / "short.safetensors"
    path.write_bytes((TINY / "tiny_weights.safetensors").read_bytes()[:100_000])
    with pytest.raises(WeightsError, match=r"short\.safetensors cannot be read"):
        load_weights(DepthForge(variant), variant, [path])


def test_code_in_a_pickle_never_runs(tmp_path, variant, capfd):
    torch.save({"state_dict": {"x": Bomb()}}, tmp_path / "bomb.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in ("bomb.pth", "raw.pth"):
        with pytest.raises(WeightsError, match=name):
            load_weights(DepthForge(variant), variant, [tmp_path / name])
    assert "code ran" not in capfd.readouterr().out


def test_an_absent_file_is_named(tmp_path, variant):
    with pytest.raises(WeightsError, match=r"no weights at .*gone\.pth"):
        load_weights(DepthForge(variant), variant, [tmp_path / "gone.pth"])


def test_a_failed_save_leaves_the_older_file_alone(tmp_path, variant, monkeypatch):
    path = tmp_path / "w.safetensors"
    state = DepthForge(variant).state_dict()
    save_weights(state, variant, path)
    before = path.read_bytes()

    def full_disk(state, target, metadata):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_weights(state, variant, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_stored_variant_is_plain_json(variant):
    assert json.loads(json.dumps(variant_to_mapping(variant)))["decoder"]["width"] == 32
