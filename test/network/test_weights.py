# SPDX-License-Identifier: Apache-2.0
"""Loading is strict, safe and says everything that is wrong at once."""

import dataclasses
import json
import logging
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import TINY
from safetensors.torch import load_file, save_file
from waits import WAIT_S

from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.weights import (
    WeightsError,
    files,
    load_weights,
    read_weights,
    save_weights,
)
from depthforge_ros.variant import load_variant, variant_to_mapping

TOKENS_A = "backbone.depthforge.learnable_tokens_a"


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
    assert "backbone.cls_token is [1, 1, 32], expected [1, 1, 64]" in text
    assert "unexpected decode_head.extra" in text
    for name, tensor in network.state_dict().items():
        assert torch.equal(before[name], tensor)


def test_the_last_file_gives_the_whole_of_each_part_it_holds(tmp_path, variant, author_state):
    base = TINY / "tiny_weights.safetensors"
    network = DepthForge(variant)
    load_weights(network, variant, [base])
    tuned = {
        name: value + 1
        for name, value in network.state_dict().items()
        if name.startswith(("tokens.", "refinement.", "pixel_decoder.", "mask_decoder."))
    }
    save_file(tuned, tmp_path / "adapter.safetensors")
    both = DepthForge(variant)
    load_weights(both, variant, [base, tmp_path / "adapter.safetensors"])
    for name, value in both.state_dict().items():
        assert torch.equal(value, tuned.get(name, network.state_dict()[name])), name
    load_weights(both, variant, [tmp_path / "adapter.safetensors", base])
    assert torch.equal(both.tokens.a, network.tokens.a)
    token = {"backbone.cls_token": author_state["backbone.cls_token"]}
    save_file(token, tmp_path / "b.safetensors")  # a part of a part
    with pytest.raises(WeightsError, match=r"missing visual\.pos_embed") as caught:
        load_weights(both, variant, [base, tmp_path / "b.safetensors"])
    *_, last = str(caught.value).split("\n  ")
    count = sum(name.startswith("visual.") for name in network.state_dict())
    assert last.startswith(f"… and {count - 1 - 12} more; `depthforge weights inspect` shows")


def test_another_variant_is_refused_with_the_differing_sizes(tmp_path, variant):
    other = dataclasses.replace(variant, tokens=20, name="other")
    save_weights(DepthForge(other).state_dict(), other, tmp_path / "o.safetensors")
    with pytest.raises(WeightsError, match="tokens: stored 20, expected 12"):
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


def test_what_came_from_where_is_logged(tmp_path, variant, author_state, caplog):
    torch.manual_seed(2)
    network = DepthForge(variant)
    state = network.state_dict()
    adapter = {k: v for k, v in state.items() if not k.startswith(("visual.", "depth"))}
    encoders = {k: v for k, v in state.items() if k not in adapter}
    save_weights(adapter, variant, tmp_path / "adapter.safetensors")
    save_weights(encoders, variant, tmp_path / "encoders.safetensors")
    other = DepthForge(variant)
    with caplog.at_level(logging.INFO, "depthforge_ros"):
        load_weights(
            other, variant, [tmp_path / "encoders.safetensors", tmp_path / "adapter.safetensors"]
        )
    assert [record.getMessage() for record in caplog.records] == [
        f"visual, depth, depth_head from {tmp_path / 'encoders.safetensors'}",
        f"tokens, refinement, pixel_decoder, mask_decoder from {tmp_path / 'adapter.safetensors'}",
    ]
    for name, tensor in state.items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_encoders_serve_an_adapter_of_other_labels_and_no_other_encoders(tmp_path, variant):
    few = dataclasses.replace(
        variant,
        name="few",
        labels=dataclasses.replace(variant.labels, classes=variant.labels.classes[:3]),
    )
    state = DepthForge(variant).state_dict()
    encoders = {k: v for k, v in state.items() if k.startswith(("visual.", "depth"))}
    save_weights(encoders, variant, tmp_path / "e.safetensors")
    network = DepthForge(few)
    adapter = {k: v for k, v in network.state_dict().items() if k not in encoders}
    save_weights(adapter, few, tmp_path / "a.safetensors")
    load_weights(network, few, [tmp_path / "e.safetensors", tmp_path / "a.safetensors"])
    assert torch.equal(network.state_dict()["visual.pos_embed"], encoders["visual.pos_embed"])
    with pytest.raises(WeightsError, match=r"labels\.classes: stored 3, expected 19"):
        load_weights(
            DepthForge(variant), variant, [tmp_path / "e.safetensors", tmp_path / "a.safetensors"]
        )


def changed(variant, *, labels=19, width=64, blocks=4, tokens=12):
    sizes = {"width": width, "blocks": blocks}
    return dataclasses.replace(
        variant,
        visual=dataclasses.replace(variant.visual, **sizes),
        depth=dataclasses.replace(variant.depth, **sizes),
        tokens=tokens,
        labels=dataclasses.replace(variant.labels, classes=variant.labels.classes[:labels]),
    )


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ({"labels": 5}, ["other.pth: labels are 19, expected 5"]),
        ({"tokens": 7}, ["other.pth: tokens a layer are 12, expected 7"]),
        (
            {"width": 32},
            [
                "other.pth: width of the visual encoder is 64, expected 32",
                "other.pth: width of the depth encoder is 64, expected 32",
                "other.pth: width of the tokens is 64, expected 32",
            ],
        ),
        (
            {"blocks": 5},
            [
                "other.pth: blocks of the visual encoder are 4, expected 5",
                "other.pth: blocks of the depth encoder are 4, expected 5",
                "other.pth: layers of tokens are 4, expected 5",
            ],
        ),
    ],
)
def test_other_sizes_are_named_with_both_numbers(tmp_path, author_state, variant, change, texts):
    torch.save({"state_dict": author_state}, tmp_path / "other.pth")
    expected = changed(variant, **change)
    with pytest.raises(WeightsError) as caught:
        load_weights(DepthForge(expected), expected, [tmp_path / "other.pth"])
    assert [
        line for line in str(caught.value).split("\n  ") if line.startswith("other.pth:")
    ] == texts


def test_blocks_that_only_the_file_has_are_counted(tmp_path, author_state, variant):
    state = dict(author_state)
    for name in author_state:
        if name.startswith("backbone.blocks.3."):
            state[name.replace(".3.", ".6.")] = author_state[name]
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "more.safetensors")
    with pytest.raises(WeightsError, match="blocks of the visual encoder are 7, expected 4"):
        load_weights(DepthForge(variant), variant, [tmp_path / "more.safetensors"])


def test_a_rein_checkpoint_is_sent_to_the_converter(tmp_path, variant, author_state):
    state = {k.replace("depthforge.", "reins."): v for k, v in author_state.items()}
    torch.save({"state_dict": state}, tmp_path / "rein.pth")
    with pytest.raises(
        WeightsError, match=r"rein\.pth is a Rein checkpoint as published; .*\+rein"
    ):
        load_weights(DepthForge(variant), variant, [tmp_path / "rein.pth"])


def test_published_files_are_sent_to_the_converter(tmp_path, variant, author_state):
    state = {
        k.removeprefix("backbone.depth_anything."): v
        for k, v in author_state.items()
        if "depth_anything" in k
    }
    torch.save(state, tmp_path / "da.pth")
    with pytest.raises(WeightsError, match=r"da\.pth is Depth Anything V2 .*weights convert"):
        load_weights(DepthForge(variant), variant, [tmp_path / "da.pth"])


@pytest.mark.parametrize("old_format", [False, True])
def test_half_precision_is_widened(tmp_path, variant, author_state, old_format):
    half = {k: v.half() for k, v in author_state.items()}
    torch.save(half, tmp_path / "h.pth", _use_new_zipfile_serialization=not old_format)
    network = DepthForge(variant)
    load_weights(network, variant, [tmp_path / "h.pth"])
    name = "mask_decoder.class_head.weight"
    value = network.state_dict()[name]
    assert value.dtype == torch.float32
    assert torch.equal(value, half["decode_head.cls_embed.weight"].float())


class HistoryBuffer:
    """What mmengine pickles beside the weights, under its name."""

    def __init__(self):
        self.max_length, self._log_history = 10, np.array([0.5, 0.25])
        self.last = np.float64(0.25)


def test_the_training_log_of_mmengine_is_left_out_without_mmengine(
    tmp_path, variant, author_state, monkeypatch
):
    name = "mmengine.logging.history_buffer"
    module = types.ModuleType(name)
    module.HistoryBuffer = HistoryBuffer
    monkeypatch.setattr(HistoryBuffer, "__module__", name)
    with monkeypatch.context() as there:
        for part in ("mmengine", "mmengine.logging"):
            there.setitem(sys.modules, part, types.ModuleType(part))
        there.setitem(sys.modules, name, module)
        log = {"log_scalars": {"train/loss": HistoryBuffer()}}
        torch.save({"state_dict": author_state, "message_hub": log}, tmp_path / "iter.pth")
    network = DepthForge(variant)
    load_weights(network, variant, [tmp_path / "iter.pth"])
    assert torch.equal(network.state_dict()["tokens.a"], author_state[TOKENS_A])


def test_a_file_that_needs_more_is_refused_by_what_it_needs(tmp_path, variant):
    torch.save({"state_dict": {"x": torch.ones(1)}, "cfg": Path("a")}, tmp_path / "more.pth")
    with pytest.raises(WeightsError, match=r"more\.pth .*needs 'pathlib\..*' beside tensors"):
        load_weights(DepthForge(variant), variant, [tmp_path / "more.pth"])


def test_others_may_read_what_is_saved_as_far_as_the_umask_lets_them(tmp_path, variant):
    (tmp_path / "reference").touch()
    save_weights({"x": torch.ones(1)}, variant, tmp_path / "w.safetensors")
    modes = [(tmp_path / name).stat().st_mode for name in ("reference", "w.safetensors")]
    assert modes[0] == modes[1]


def test_loading_never_holds_the_weights_twice(tmp_path, variant):
    """In a process of its own: how much more at its peak the loading of 300 MB takes than the same
    network without a file. Both have been there before, which costs libraries some memory once, and
    what is freed goes back at once, so that a peak is what was held.
    """
    wide = changed(variant, width=512, blocks=12)
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in DepthForge(wide).state_dict().items()}
    save_weights({k: torch.zeros(s) for k, s in shapes.items()}, wide, tmp_path / "w.safetensors")
    size = (tmp_path / "w.safetensors").stat().st_size
    assert size > 150e6
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from depthforge_ros.engine.load import load_network\n"
        "from depthforge_ros.network.weights.files import open_weights\n"
        "variant = open_weights(Path(sys.argv[1])).variant\n"
        "def kib(name):\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith(name))\n"
        "def took(checkpoint):\n"
        "    Path('/proc/self/clear_refs').write_text('5')  # the peak is counted anew\n"
        "    before = kib('VmRSS')\n"
        "    load_network(variant, checkpoint)\n"
        "    return kib('VmHWM') - before\n"
        "for checkpoint in 2 * ('untrained', sys.argv[1]):\n"
        "    print(1024 * took(checkpoint))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "w.safetensors")],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True, text=True, timeout=WAIT_S, check=True,
    )  # fmt: skip
    *_, untrained, loaded = map(int, done.stdout.split())
    assert untrained > 0.9 * size  # it was counted
    assert loaded - untrained < 0.3 * size
