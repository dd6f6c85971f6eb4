# SPDX-License-Identifier: Apache-2.0
"""From a request to a checked engine, with a backend that stores weights: one small network."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import stored_backend
import torch
from paths import DATA, ROOT
from safetensors.torch import save_file
from waits import WAIT_S

from depthforge_ros.engine import CancelledError, Journal, Request, Shape, candidate, select_engine
from depthforge_ros.engine.build_subprocess import BuildError, build_in_subprocess
from depthforge_ros.engine.cache import MANIFEST, EngineCache
from depthforge_ros.engine.candidate import Candidates
from depthforge_ros.engine.load import build_engine, load_network
from depthforge_ros.engine.self_check import check, check_images
from depthforge_ros.network.weights import WeightsError, save_weights
from depthforge_ros.variant import load_variant

SMALL = DATA / "small.yaml"
BUILDERS = ROOT / "test" / "builders"
SHAPE = Shape(64, 96, 2)
CPU = torch.device("cpu")
REQUEST = Request(str(SMALL), "untrained", "cpu", precision="fp32", shapes=(SHAPE,))


@pytest.fixture(scope="module", autouse=True)
def backend():
    with pytest.MonkeyPatch.context() as patch:
        stored_backend.install(patch, load_variant(SMALL))
        yield


def build_here(job, on_progress, keep_going):
    """Build without a subprocess, which would not know the backend of the tests."""
    network = load_network(load_variant(job.variant), job.checkpoint).requires_grad_(False)
    shape = Shape(job.height, job.width, job.batch)
    stored_backend.build(network.eval(), shape, job.precision, Path(job.folder))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory, backend):
    """A cache with one engine."""
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    assert ready(cache, build_here)[0].backend == "stored"
    (entry,) = (path for path in cache.folder.iterdir() if path.is_dir())
    return entry


@pytest.fixture
def cache(compiled, tmp_path):
    """A copy of that cache, to be spoilt."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    shutil.copytree(compiled, folder / compiled.name)
    return EngineCache(folder)


@pytest.fixture
def rebuild(compiled):
    """Builds by copying what was compiled, and counts."""

    def build(job, tell, keep_going):
        build.jobs.append(job)
        for path in compiled.iterdir():
            if path.name != MANIFEST:
                shutil.copy(path, job.folder)

    build.jobs = []
    return build


def never(job, tell, keep_going):
    pytest.fail(f"{job} was not to be built")


def ready(cache, build=never, **changes):
    journal = Journal()
    request = dataclasses.replace(REQUEST, cache=cache, **{"backend": "stored", **changes})
    return select_engine(request, journal, build=build), journal


def assert_same(engine, precision="fp32"):
    eager = build_engine(load_variant(SMALL), "untrained", device="cpu", precision=precision)
    for batch in (1, 2, 3):
        images = check_images(Shape(64, 96, batch))
        ours, theirs = engine(images, depth=True), eager(images, depth=True)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.depth, theirs.depth, rtol=0, atol=1e-5)
    assert engine(images, depth=False).depth is None


def test_what_was_compiled_is_loaded_checked_and_gives_the_numbers_of_eager(cache):
    engine, journal = ready(cache)
    assert (engine.backend, engine.precision) == ("stored", "fp32")
    assert journal.self_check.startswith("stored fp32: labels agree on 100.00%, IoU of every class")
    assert journal.refused == ()
    assert journal.progress == ""
    assert_same(engine)


def test_without_shapes_a_named_backend_takes_what_is_in_the_cache(cache, tmp_path):
    assert ready(cache, shapes=())[0].backend == "stored"
    engine, journal = ready(EngineCache(tmp_path / "empty"), shapes=())
    assert (engine.backend, engine.precision) == ("eager", "fp32")
    ((name, reason),) = journal.refused
    assert name == "stored fp32"
    assert reason.startswith("nothing is compiled, and the size of images is not known")
    assert not (tmp_path / "empty").exists()


def test_auto_on_a_cpu_takes_the_cache_and_waits_for_no_compiler(cache, tmp_path):
    engine, journal = ready(cache, backend="auto")
    assert (engine.backend, engine.precision) == ("stored", "fp32")
    empty = EngineCache(tmp_path / "empty")
    engine, journal = ready(empty, backend="auto")
    assert (engine.backend, engine.precision) == ("eager", "fp32")
    assert journal.refused == ()
    engine, journal = ready(empty, backend="auto", precision="bf16")
    assert (engine.backend, engine.precision) == ("eager", "bf16")
    assert journal.self_check.startswith("eager bf16: labels agree on 100.00%")


def test_a_size_that_nothing_was_compiled_for_runs_in_eager_and_is_told(cache):
    engine, journal = ready(cache)
    images = check_images(Shape(64, 64))
    eager = build_engine(load_variant(SMALL), "untrained", device="cpu")
    scores = engine(images, depth=True).scores
    torch.testing.assert_close(scores, eager(images, depth=True).scores, rtol=0, atol=1e-5)
    assert "no stored engine for images inferred at 64x64" in journal.notes["64x64"]


def test_a_damaged_engine_is_built_again(cache, rebuild):
    (entry,) = cache.folder.iterdir()
    (entry / stored_backend.FILE).write_bytes(b"PK")
    engine, _ = ready(cache, rebuild)
    assert engine.backend == "stored"
    assert [(job.backend, job.precision) for job in rebuild.jobs] == [("stored", "fp32")]
    assert ready(cache)[0].backend == "stored"  # kept, and not built once more


def test_an_engine_that_does_not_load_is_removed_and_built_again(cache, rebuild, monkeypatch):
    """Intact by its hashes, but made for another driver, say."""
    load, failures = stored_backend.load, [RuntimeError("not for this GPU")]

    def loading(folder, shape, device):
        if failures:
            raise failures.pop()
        return load(folder, shape, device)

    monkeypatch.setattr(stored_backend, "load", loading)
    engine, journal = ready(cache, rebuild)
    assert (engine.backend, journal.refused) == ("stored", ())
    assert len(rebuild.jobs) == 1
    failures.append(torch.OutOfMemoryError("CUDA out of memory"))
    engine, journal = ready(cache)  # no fault of the file: it is kept
    assert engine.backend == "eager"
    assert "out of memory" in journal.refused[0][1]
    assert ready(cache)[0].backend == "stored"


def test_all_images_are_checked_once(cache, monkeypatch):
    calls = []

    def checked(engine, reference, shapes, *, thorough=True):
        calls.append((thorough, reference.backend))
        return check(engine, reference, shapes, thorough=thorough)

    monkeypatch.setattr(candidate, "check", checked)
    for _ in range(2):
        assert ready(cache)[0].backend == "stored"
    assert calls == [(True, "eager"), (False, "recorded")]


def test_a_record_that_disagrees_is_not_the_last_word(cache):
    ready(cache)
    (record,) = cache.folder.glob("*.checked")
    with np.load(record) as file:
        arrays = dict(file)
    with record.open("wb") as written:
        np.savez(written, **{**arrays, "scores": arrays["scores"][:, ::-1]})
    assert ready(cache)[0].backend == "stored"  # compared with eager again
    with np.load(record) as file:
        np.testing.assert_array_equal(file["scores"], arrays["scores"])


def test_a_checked_engine_of_the_cache_needs_no_network(cache, tmp_path, monkeypatch):
    """Until a size that nothing was compiled for comes; and changed weights are noticed then."""
    file = tmp_path / "weights.safetensors"
    network = load_network(load_variant(SMALL), "untrained")
    save_weights(network.state_dict(), network.variant, file)
    loads = []

    def loading(variant, checkpoint):
        loads.append(checkpoint)
        return load_network(variant, checkpoint)

    monkeypatch.setattr(candidate, "load_network", loading)
    assert ready(cache, checkpoint=str(file))[0].backend == "stored"
    assert loads == [str(file)]  # its weights are those of the cache's engine
    engine, journal = ready(cache, checkpoint=str(file))
    assert engine.backend == "stored"
    assert journal.self_check.startswith("stored fp32: labels agree on 100.00%")
    assert len(loads) == 1
    assert_same(engine)
    assert engine(check_images(Shape(64, 64)), depth=True).scores.shape[-1] == 64
    assert len(loads) == 2
    engine, _ = ready(cache, checkpoint=str(file))
    with torch.no_grad():
        network.tokens.scale.add_(0.1)
    file.unlink()
    save_weights(network.state_dict(), network.variant, file)
    with pytest.raises(WeightsError, match="have changed since they were loaded"):
        engine(check_images(Shape(64, 64)), depth=True)
    file.unlink()
    with pytest.raises(WeightsError, match=r"weights\.safetensors"):
        ready(cache, checkpoint=str(file))


def test_memory_is_free_while_an_engine_is_built(tmp_path, rebuild, monkeypatch):
    """Neither the network nor the reference is kept by the process that waits."""
    kept = []
    release = Candidates.release

    def releasing(self):
        release(self)
        kept.append((self._network, self._reference))

    monkeypatch.setattr(Candidates, "release", releasing)
    engine, _ = ready(EngineCache(tmp_path / "cache"), rebuild)
    assert kept == [(None, None), (None, None)]  # before the build, and after the selection
    assert_same(engine)
    assert engine(check_images(Shape(64, 64)), depth=True).scores.shape[-1] == 64  # loaded again


def wait_for(condition):
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_engines_are_built_in_the_background_for_the_images_that_come(tmp_path):
    """Eager answers at once; the engine takes over, also for a size that comes later."""
    cache = EngineCache(tmp_path / "cache")
    go_on = threading.Event()

    def build(job, on_progress, keep_going):
        assert go_on.wait(WAIT_S)
        build_here(job, on_progress, keep_going)

    engine, journal = ready(cache, build, shapes=(), background=True)
    try:
        assert (engine.backend, journal.refused) == ("eager", ())
        images = check_images(SHAPE)
        before = engine(images, depth=True)
        wait_for(lambda: "build" in journal.notes)
        assert journal.notes["build"] == (
            "eager fp32 runs until an engine for 96x64 batch 2 is built"
        )
        go_on.set()
        wait_for(lambda: engine.backend == "stored")
        wait_for(lambda: journal.notes == {})
        after = engine(images, depth=True)
        torch.testing.assert_close(after.scores, before.scores, rtol=0, atol=1e-5)
        assert journal.self_check.startswith("stored fp32 for 96x64 batch 2: labels agree on 100")
        engine(check_images(Shape(64, 64)), depth=True)
        wait_for(lambda: Shape(64, 64) in engine.engine.shapes)
        assert engine.engine.shapes == (Shape(64, 64), SHAPE)
    finally:
        engine.close()
    assert len(cache.keys()) == 2


def test_a_build_in_the_background_that_fails_leaves_eager_and_is_not_repeated(tmp_path):
    def build(job, on_progress, keep_going):
        raise BuildError("no kernel")

    engine, journal = ready(EngineCache(tmp_path / "c"), build, shapes=(), background=True)
    try:
        for _ in range(2):
            engine(check_images(SHAPE), depth=True)
            wait_for(lambda: "could be built" in journal.notes.get("build", ""))
        assert engine.backend == "eager"
        assert journal.refused == (("stored fp32 for 96x64 batch 2", "no kernel"),)
    finally:
        engine.close()


def test_closing_ends_a_build_in_the_background(tmp_path):
    ended = threading.Event()

    def build(job, on_progress, keep_going):
        while keep_going():
            time.sleep(0.01)
        ended.set()
        raise CancelledError

    engine, journal = ready(EngineCache(tmp_path / "c"), build, shapes=(), background=True)
    engine(check_images(SHAPE), depth=True)
    wait_for(lambda: "build" in journal.notes)
    engine.close()
    assert ended.is_set()
    assert engine.backend == "eager"


def test_an_engine_of_other_weights_is_refused_with_the_figures(cache, rebuild, tmp_path):
    network = load_network(load_variant(SMALL), "untrained")
    with torch.no_grad():
        network.mask_decoder.class_head.weight.mul_(-1)
    save_file(network.state_dict(), tmp_path / "other.safetensors")
    engine, journal = ready(cache, rebuild, checkpoint=str(tmp_path / "other.safetensors"))
    assert (engine.backend, engine.precision) == ("eager", "fp32")
    ((name, reason),) = journal.refused
    assert name == "stored fp32"
    assert reason.startswith("self-check: 96x64 batch 2, night, image 1 of 2: scores of ")
    assert "allowed 15%" in reason


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, rebuild):
    (tmp_path / "file").write_text("")
    engine, journal = ready(EngineCache(tmp_path / "file" / "cache"), rebuild)
    assert engine.backend == "stored"
    assert "cannot be written" in journal.notes["cache"]
    assert "engines are not kept" in journal.notes["cache"]
    assert_same(engine)


def test_a_failed_build_is_refused_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(BUILDERS))

    def build(job, tell, keep_going):
        build_in_subprocess(job, tell, keep_going, "failing_builder")

    engine, journal = ready(EngineCache(tmp_path / "cache"), build)
    assert engine.backend == "eager"
    assert journal.refused == (
        ("stored fp32", "build failed: RuntimeError: No space left on device"),
    )


def test_a_backend_that_is_not_here_is_refused_by_name(tmp_path):
    engine, journal = ready(EngineCache(tmp_path / "cache"), backend="tensorrt")
    assert engine.backend == "eager"
    assert journal.refused == (
        ("tensorrt fp32", "tensorrt needs an NVIDIA GPU; the device is cpu"),
    )


def test_what_does_not_exist_is_named():
    with pytest.raises(
        ValueError, match="backend is 'onnx'; expected one of auto, eager, tensorrt"
    ):
        Request("nano", backend="onnx")
    with pytest.raises(ValueError, match="precision is 'int8'; expected one of auto, fp32, bf16"):
        Request("nano", precision="int8")
