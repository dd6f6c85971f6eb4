# SPDX-License-Identifier: Apache-2.0
"""Compiled engines are found by all they depend on, and never used damaged or foreign."""

from __future__ import annotations

import json
import multiprocessing
import os
import time

import pytest
import torch
from paths import TINY_YAML
from waits import WAIT_S

from depthforge_ros.engine import cache as cache_module
from depthforge_ros.engine.cache import (
    MANIFEST,
    CacheError,
    EngineCache,
    checkpoint_hash,
    driver_major,
    engine_key,
    entry_name,
    power_mode,
    weights_hash,
)
from depthforge_ros.engine.engine import CancelledError, CropOutput, Shape
from depthforge_ros.engine.load import load_network
from depthforge_ros.variant import load_variant

TINY = TINY_YAML
KEY = {"weights": "w", "size": "64x64"}


def built(folder, text="engine"):
    folder.mkdir()
    (folder / "network.bin").write_text(text)
    return folder


@pytest.fixture
def cache(tmp_path):
    cache = EngineCache(tmp_path / "cache")
    with cache.lock(KEY):
        cache.store(KEY, built(tmp_path / "built"))
    return cache


def test_what_was_stored_is_found_by_its_key_alone(cache):
    entry = cache.find(KEY)
    assert (entry / "network.bin").read_text() == "engine"
    assert cache.keys() == [KEY]
    for changed in ({**KEY, "weights": "v"}, {**KEY, "torch": "2"}, {"weights": "w"}):
        assert cache.find(changed) is None


def test_the_key_names_everything_an_engine_depends_on():
    network = load_network(load_variant(TINY), "untrained")
    cpu = torch.device("cpu")

    def key(weights="w", backend="openvino", precision="fp32", shape="64x64", **versions):
        shape = Shape.parse(shape)
        return engine_key(network.variant, weights, backend, precision, shape, cpu, versions)

    names = {"variant", "sizes", "weights", "code", "backend", "precision", "size", "torch"}
    assert set(key()) == names | {"device", "capability", "instructions"}
    others = [
        key(weights="v"),
        key(backend="tensorrt"),
        key(precision="bf16"),
        key(shape="64x96"),
        key(shape="64x64 batch 2"),
        key(tensorrt="11.0"),
    ]
    assert len({entry_name(one) for one in [key(), *others]}) == len(others) + 1


class Gpu:
    """What torch.cuda says of a Jetson module."""

    name, major, minor = "Orin", 8, 7

    def __init__(self, multi_processor_count=16, total_memory=64 << 30):
        self.multi_processor_count = multi_processor_count
        self.total_memory = total_memory


def test_modules_and_power_modes_of_a_jetson_are_told_apart(tmp_path, monkeypatch):
    variant = load_variant(TINY)
    status = tmp_path / "status"
    status.write_text("pmode:0002\n")
    assert power_mode(status) == "pmode:0002"
    assert power_mode(tmp_path / "absent") == "none"

    def key(gpu, mode="pmode:0000"):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
        monkeypatch.setattr(cache_module, "power_mode", lambda: mode)
        shape = Shape.parse("64x64")
        return engine_key(variant, "w", "tensorrt", "fp16", shape, torch.device("cuda"), {})

    names = [
        entry_name(key(*one))
        for one in ((Gpu(),), (Gpu(8),), (Gpu(8, 8 << 30),), (Gpu(), "pmode:0002"))
    ]
    assert len(set(names)) == 4
    assert names[0] == entry_name(key(Gpu()))
    assert key(Gpu())["device"] == "Orin"


def answer(scale=1.0):
    scores = scale * torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    return CropOutput(scores, 80 * scores[:, 0])


def test_a_passed_check_belongs_to_its_entry_and_keeps_the_references_answer(cache, tmp_path):
    assert cache.recorded_check(KEY, "release 1") is None
    cache.record_check(KEY, "release 1", answer())
    kept = cache.recorded_check(KEY, "release 1")
    torch.testing.assert_close(kept.scores.float(), answer().scores, rtol=5e-4, atol=1e-6)
    assert torch.equal(kept.depth, answer().depth)
    assert cache.recorded_check(KEY, "release 2") is None
    with cache.lock(KEY):
        cache.store(KEY, built(tmp_path / "again"))
    assert cache.recorded_check(KEY, "release 1") is None
    cache.record_check(KEY, "release 1", answer())
    assert not [path for path in cache.folder.iterdir() if path.name.startswith(".unfinished")]
    cache.remove(KEY)
    assert cache.find(KEY) is None
    assert cache.recorded_check(KEY, "release 1") is None


@pytest.mark.parametrize("damage", ["cut", "changed", "text", "empty"])
def test_a_damaged_record_of_a_check_is_no_record(cache, damage):
    cache.record_check(KEY, "release 1", answer())
    file = cache._check_file(KEY)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    damaged = {"cut": content[:-40], "changed": content, "text": b"release 1", "empty": b""}
    file.write_bytes(damaged[damage])
    assert cache.recorded_check(KEY, "release 1") is None


def test_weights_of_known_files_are_found_without_a_network(cache, tmp_path):
    variant = load_variant(TINY)
    files = [tmp_path / "encoders.safetensors", tmp_path / "adapter.safetensors"]
    for file in files:
        file.write_bytes(file.name.encode())
    checkpoint = checkpoint_hash(variant, files)
    assert cache.weights_of(checkpoint) == ""
    cache.record_weights(checkpoint, "a" * 64)
    assert cache.weights_of(checkpoint) == "a" * 64
    assert checkpoint_hash(variant, files[::-1]) != checkpoint
    assert checkpoint_hash(load_variant("nano"), files) != checkpoint
    files[1].write_bytes(b"other")
    assert cache.weights_of(checkpoint_hash(variant, files)) == ""
    cache.record_weights(checkpoint, "no hash")
    assert cache.weights_of(checkpoint) == ""
    cache.folder.chmod(0o777)
    with pytest.raises(CacheError, match="only you can write"):
        cache.weights_of(checkpoint)


def test_one_changed_weight_is_another_hash():
    network = load_network(load_variant(TINY), "untrained")
    before = weights_hash(network)
    assert before == weights_hash(load_network(load_variant(TINY), "untrained"))
    with torch.no_grad():
        network.tokens.scale.add_(1e-6)
    assert weights_hash(network) != before


def test_the_drivers_major_version_is_read(tmp_path):
    reported = tmp_path / "version"
    reported.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu\nGCC 12.3\n"
    )
    assert driver_major(reported) == "550"
    assert driver_major(tmp_path / "absent") == "unknown"


def damage_file(entry):
    (entry / "network.bin").write_text("enginf")


def cut_short(entry):
    (entry / "network.bin").write_text("eng")


def add_file(entry):
    (entry / "more.bin").write_text("x")


def remove_file(entry):
    (entry / "network.bin").unlink()


def link_file(entry):
    (entry / "network.bin").rename(entry.parent / "elsewhere")
    (entry / "network.bin").symlink_to(entry.parent / "elsewhere")


def spoil_manifest(entry):
    (entry / MANIFEST).write_text("{")


def foreign_manifest(entry):
    (entry / MANIFEST).write_text(json.dumps({"format": 0}))


def foreign_key(entry):
    manifest = json.loads((entry / MANIFEST).read_text())
    (entry / MANIFEST).write_text(json.dumps({**manifest, "key": {"weights": "v"}}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (damage_file, "network.bin was changed or cut short"),
        (cut_short, "network.bin was changed or cut short"),
        (add_file, "it holds ['more.bin', 'network.bin']; expected ['network.bin']"),
        (remove_file, "it holds []; expected ['network.bin']"),
        (link_file, "network.bin is not a regular file"),
        (spoil_manifest, "cannot be used"),
        (foreign_manifest, "another format"),
        (foreign_key, "it has another key"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_spoilt_entry_is_not_used_and_is_replaced(cache, tmp_path, caplog, spoil, reason):
    spoil(cache.find(KEY))
    assert cache.find(KEY) is None
    assert reason in caplog.text
    with cache.lock(KEY):
        entry = cache.store(KEY, built(tmp_path / "again", "engine 2"))
    assert cache.find(KEY) == entry
    assert (entry / "network.bin").read_text() == "engine 2"


def test_a_cache_that_others_can_write_to_is_not_used(cache):
    cache.folder.chmod(0o777)
    with pytest.raises(CacheError, match=r"mode 777; expected a folder that only you can write to"):
        cache.find(KEY)
    with pytest.raises(CacheError, match="only you"), cache.lock(KEY):
        pass


def test_the_longest_unused_go_first(tmp_path):
    cache = EngineCache(tmp_path / "cache", limit_bytes=3000)
    keys = [{"shape": str(index)} for index in range(4)]
    for index, key in enumerate(keys):
        with cache.lock(key):
            entry = cache.store(key, built(tmp_path / str(index), "x" * 1000))
        os.utime(entry / MANIFEST, (index, index))
        if index == 1:
            assert cache.find(keys[0]) is not None  # used, so it is not the oldest any more
    assert [cache.find(key) is not None for key in keys] == [True, False, False, True]


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path, monkeypatch):
    cache = EngineCache(tmp_path / "cache")

    def full(*_):
        raise OSError(28, "No space left on device")

    with cache.lock(KEY):
        monkeypatch.setattr("depthforge_ros.engine.cache._size_and_hash", full)
        with pytest.raises(CacheError, match="No space left on device"):
            cache.store(KEY, built(tmp_path / "built"))
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CacheError, match="cannot be written"),
        EngineCache(tmp_path / "file" / "cache").lock(KEY),
    ):
        pass


def _build(folder, log):
    cache = EngineCache(folder)
    with cache.lock(KEY):
        if cache.find(KEY) is None:
            with log.open("a") as file:
                file.write("built\n")
            time.sleep(0.3)
            cache.store(KEY, built(folder.parent / f"built{os.getpid()}"))


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path):
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    processes = [context.Process(target=_build, args=(tmp_path / "cache", log)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(WAIT_S)
        assert process.exitcode == 0
    assert log.read_text() == "built\n"


def test_waiting_for_another_process_is_said_and_can_be_given_up(cache):
    waited = []
    with cache.lock(KEY, on_wait=lambda: waited.append("alone")):
        other = EngineCache(cache.folder)
        lock = other.lock(KEY, keep_going=lambda: False, on_wait=lambda: waited.append("behind"))
        with pytest.raises(CancelledError), lock:
            pass
    assert waited == ["behind"]
