# SPDX-License-Identifier: Apache-2.0
"""`depthforge weights` as people call it, with a web server of our own."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from http_servers import serving
from paths import TINY
from safetensors.torch import load_file

from depthforge_ros import cli
from depthforge_ros.engine.load import build_engine, checkpoint_files, default_checkpoint
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.weights import WeightsError, load_weights, save_weights
from depthforge_ros.resources import weights_folder
from depthforge_ros.variant import Variant, load_variant

PARTS = {"visual": "dinov2.pth", "depth": "depth_anything.pth"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's weights are, and nobody else's."""
    monkeypatch.setenv("DEPTHFORGE_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture(scope="module")
def theirs() -> dict[str, torch.Tensor]:
    return load_file(TINY / "tiny_weights.safetensors")


@pytest.fixture
def variant() -> Variant:
    return load_variant(TINY / "tiny.yaml")


class Web:
    """A folder that a server on this machine offers. log: every path asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, []
        folder.mkdir()
        log = self.log

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                log.append(self.path)

        self.server = ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
        )
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def web(tmp_path: Path, theirs: dict[str, torch.Tensor]) -> Iterator[Web]:
    """Offers the two encoders of the variant `tiny` as their makers would."""
    web = Web(tmp_path / "web")
    depth = "backbone.depth_anything."
    visual = {
        key.removeprefix("backbone."): tensor
        for key, tensor in theirs.items()
        if key.startswith("backbone.") and not key.startswith((depth, "backbone.depthforge."))
    }
    torch.save(visual, web.folder / PARTS["visual"])
    torch.save(
        {k.removeprefix(depth): v for k, v in theirs.items() if k.startswith(depth)},
        web.folder / PARTS["depth"],
    )
    with serving(web.server):
        yield web


def with_sources(path: Path, web: Web, *, licence: str = "Apache-2.0") -> Path:
    """A yaml file of `tiny` that says where its encoders are published."""
    data = yaml.safe_load((TINY / "tiny.yaml").read_text())
    for part, file in PARTS.items():
        content = (web.folder / file).read_bytes()
        data[part]["source"] = {
            "url": f"https://weights.invalid/{file}",
            "sha256": hashlib.sha256(content).hexdigest(),
            "size_mb": 1,
        }
    data["depth"]["licence"] = licence
    path.write_text(yaml.safe_dump(data))
    return path


def adapter(path: Path, variant: Variant, theirs: dict[str, torch.Tensor]) -> Path:
    """What training leaves: all but the encoders, with the variant inside."""
    network = DepthForge(variant)
    load_weights(network, variant, [TINY / "tiny_weights.safetensors"])
    state = network.state_dict()
    kept = {k: v for k, v in state.items() if not k.startswith(("visual.", "depth"))}
    save_weights(kept, variant, path)
    return path


def weights(*arguments: object) -> int:
    return cli.main(["weights", *map(str, arguments)])


def row(text: str, variant: str, part: str) -> list[str]:
    lines = (line.split() for line in text.splitlines())
    return next(line for line in lines if line[:2] == [variant, part])


def test_the_list_has_every_part_its_size_licence_and_presence(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert weights("list") == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].split() == ["variant", "part", "MB", "licence", "present"]
    assert row(text, "dinov2_s", "visual") == ["dinov2_s", "visual", "88", "Apache-2.0", "no"]
    noncommercial = ["CC-BY-NC-4.0", "(non-commercial)", "no"]
    assert row(text, "dinov2_l", "depth") == ["dinov2_l", "depth", "1336", *noncommercial]
    assert row(text, "dinov2_l", "adapter")[2] == "112"
    assert "dinov2_s+outdoor" in text
    assert row(text, "dinov2_s+rein_gta5", "adapter")[3:] == ["GPL-3.0", "no"]
    assert f"folder: {folder}" in text


def test_what_is_fetched_is_converted_listed_and_runs(
    tmp_path: Path,
    web: Web,
    variant: Variant,
    theirs: dict[str, torch.Tensor],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = with_sources(tmp_path / "mine.yaml", web)
    with pytest.raises(WeightsError, match=r"no weights of variant 'tiny' at .* or .*weights/tiny"):
        default_checkpoint(variant)
    assert weights("fetch", mine, "--mirror", web.url) == 0
    text = capsys.readouterr().out
    encoders = folder / "tiny.encoders.safetensors"
    assert "visual: dinov2.pth, 1 MB, Apache-2.0\n" in text
    assert f"depth_head from depth_anything.pth\nwritten: {encoders}\n" in text
    assert [line.split()[-1] for line in web.log] == ["/dinov2.pth", "/depth_anything.pth"]
    assert weights("list", mine) == 0
    text = capsys.readouterr().out
    assert row(text, "tiny", "visual")[-1] == str(encoders)
    assert row(text, "tiny", "depth")[-1] == str(encoders)
    assert row(text, "tiny", "adapter")[-1] == "no"
    with pytest.raises(WeightsError, match=r"tiny\.encoders\.safetensors holds only its encoders"):
        build_engine(variant, device="cpu")
    trained = adapter(tmp_path / "adapter.safetensors", variant, theirs)
    joined = build_engine(variant, f"{encoders},{trained}", device="cpu")
    whole = build_engine(variant, str(TINY / "tiny_weights.safetensors"), device="cpu")
    crops = torch.arange(3 * 64 * 64).view(1, 3, 64, 64).remainder(251).to(torch.uint8)
    assert torch.equal(joined(crops, depth=True).scores, whole(crops, depth=True).scores)
    assert weights("convert", "--variant", mine, encoders, trained) == 0
    assert f"written: {folder / 'tiny.safetensors'}\n" in capsys.readouterr().out
    found = build_engine(variant, device="cpu")
    assert torch.equal(found(crops, depth=True).scores, whole(crops, depth=True).scores)


def test_nothing_is_fetched_twice(
    tmp_path: Path, web: Web, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = with_sources(tmp_path / "mine.yaml", web)
    assert weights("fetch", mine, "--mirror", web.url) == 0
    web.log.clear()
    assert weights("fetch", mine, "--mirror", web.url) == 0
    (folder / "tiny.encoders.safetensors").unlink()
    assert weights("fetch", mine, "--mirror", web.url) == 0
    assert (folder / "tiny.encoders.safetensors").is_file()
    assert web.log == []
    assert "tiny.encoders.safetensors is there already" in capsys.readouterr().out


def test_a_noncommercial_licence_must_be_accepted(
    tmp_path: Path, web: Web, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = with_sources(tmp_path / "mine.yaml", web, licence="CC-BY-NC-4.0")
    assert weights("fetch", mine, "--mirror", web.url) == 2
    assert capsys.readouterr().err == (
        "depthforge weights: depth_anything.pth (CC-BY-NC-4.0) may not be used commercially; "
        "--accept-noncommercial says that you will not\n"
    )
    assert web.log == []
    assert not folder.exists()
    assert weights("fetch", mine, "--mirror", web.url, "--accept-noncommercial") == 0
    assert "depth is CC-BY-NC-4.0: not for commercial use\n" in capsys.readouterr().out
    assert (folder / "tiny.encoders.safetensors").is_file()


def test_another_file_under_the_name_is_refused(
    tmp_path: Path, web: Web, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = with_sources(tmp_path / "mine.yaml", web)
    (web.folder / "depth_anything.pth").write_bytes(b"something else")
    assert weights("fetch", mine, "--mirror", f"{web.url}/") == 2
    assert "depth_anything.pth is not the expected file: SHA-256" in capsys.readouterr().err
    assert [path.name for path in (folder / "published").iterdir()] == ["dinov2.pth"]


def test_what_is_not_published_is_said_and_the_rest_fetched(
    tmp_path: Path, web: Web, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = with_sources(tmp_path / "mine.yaml", web)
    data = yaml.safe_load(mine.read_text())
    del data["depth"]["source"]
    mine.write_text(yaml.safe_dump(data))
    assert weights("fetch", mine, "--mirror", web.url) == 0
    assert "depth: not published by its authors\n" in capsys.readouterr().out
    assert (folder / "tiny.visual.safetensors").is_file()
    assert weights("list", mine) == 0
    text = capsys.readouterr().out
    assert row(text, "tiny", "visual")[-1] == str(folder / "tiny.visual.safetensors")
    assert row(text, "tiny", "depth")[-1] == "no"


def test_our_own_encoders_are_not_to_be_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    assert weights("fetch", "nano") == 2
    assert "nothing is published for variant 'nano'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kept", "name"),
    [
        (("visual.", "depth.", "depth_head."), "tiny.encoders.safetensors"),
        (("visual.",), "tiny.visual.safetensors"),
        (("tokens.", "refinement.", "pixel_dec", "mask_dec"), "tiny.adapter.safetensors"),
        (("",), "tiny.safetensors"),
    ],
)
def test_the_name_says_what_is_in_it_and_nothing_is_overwritten(
    tmp_path: Path,
    variant: Variant,
    folder: Path,
    kept: tuple[str, ...],
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = {k: v for k, v in DepthForge(variant).state_dict().items() if k.startswith(kept)}
    torch.save(state, tmp_path / "some.pth")
    command = ("convert", tmp_path / "some.pth", "--variant", TINY / "tiny.yaml")
    assert weights(*command) == 0
    assert [path.name for path in folder.iterdir()] == [name]
    assert weights(*command) == 2
    assert (
        f"{folder / name} is there already; remove it, or name another" in capsys.readouterr().err
    )
    assert weights(*command, "--out", tmp_path / "other.safetensors") == 0
    assert load_file(tmp_path / "other.safetensors").keys() == state.keys()
    assert weights(*command, "--out", tmp_path / "other.pth") == 2
    assert "expected a name that ends in .safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["512", "512x", "0x512", "512x500", "axb"])
def test_a_wrong_size_is_refused_by_its_value(
    size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        weights("convert", "a.pth", "--variant", "nano", "--stored-size", size)
    error = capsys.readouterr().err
    assert f"the size is {size!r}; expected WIDTHxHEIGHT in pixels, width first" in error or (
        f"{size!r} is no multiple of 16 pixels a side" in error
    )


def lines(text: str, head: str) -> list[str]:
    return [line.removeprefix(head).strip() for line in text.splitlines() if line.startswith(head)]


def test_a_file_of_ours_says_what_it_is(
    tmp_path: Path, variant: Variant, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(DepthForge(variant).state_dict(), variant, path, {"step": "7"})
    assert weights("inspect", path) == 0
    text = capsys.readouterr().out
    assert lines(text, "sha256") == [hashlib.sha256(path.read_bytes()).hexdigest()]
    assert lines(text, "variant") == ["tiny (stored in it)"]
    assert lines(text, "parts") == [
        "visual, depth, depth_head, tokens, refinement, pixel_decoder, mask_decoder"
    ]
    assert lines(text, "note") == ["step = 7"]
    assert lines(text, "missing") == lines(text, "unexpected") == []


def test_a_published_file_is_recognised_by_its_shapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = load_variant("dinov2_s")
    with torch.device("meta"):
        shapes = DepthForge(small).visual.state_dict()
    hub = {
        name.replace("patch_embed.", "patch_embed.proj."): torch.zeros(value.shape).half()
        for name, value in shapes.items()
    }
    hub["patch_embed.proj.weight"] = torch.zeros(384, 3, 14, 14)
    hub["pos_embed"] = torch.zeros(1, 1370, 384)
    torch.save(hub, tmp_path / "hub.pth")
    assert weights("inspect", tmp_path / "hub.pth") == 0
    text = capsys.readouterr().out
    assert lines(text, "names of") == ["DINOv2"]
    assert lines(text, "variant") == ["dinov2_s (by its shapes)"]
    assert lines(text, "parts") == ["visual"]
    assert lines(text, "tensors")[0].endswith("float16, float32")


def test_what_is_wrong_with_a_file_is_listed(
    tmp_path: Path,
    variant: Variant,
    theirs: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = dict(theirs)
    del state["decode_head.cls_embed.bias"]
    state["decode_head.extra"] = torch.zeros(1)
    state["backbone.cls_token"] = torch.full((1, 1, 64), torch.nan)
    torch.save(state, tmp_path / "bad.pth")
    assert weights("inspect", tmp_path / "bad.pth", "--variant", TINY / "tiny.yaml") == 1
    text = capsys.readouterr().out
    assert lines(text, "variant") == ["none; the nearest is tiny"]
    assert lines(text, "missing") == ["mask_decoder.class_head.bias"]
    assert lines(text, "unexpected") == ["decode_head.extra"]
    assert lines(text, "not finite") == ["backbone.cls_token"]
    few = dataclasses.replace(
        variant, labels=dataclasses.replace(variant.labels, classes=variant.labels.classes[:4])
    )
    save_weights(DepthForge(few).state_dict(), variant, tmp_path / "lie.safetensors")
    assert weights("inspect", tmp_path / "lie.safetensors") == 1
    assert "lie.safetensors: labels are 4, expected 19" in lines(capsys.readouterr().out, "differs")


def test_weights_of_other_networks_are_called_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    assert weights("inspect", tmp_path / "resnet.pth") == 1
    assert lines(capsys.readouterr().out, "names of") == ["an unknown layout"]
    assert weights("inspect", tmp_path / "gone.pth") == 2
    assert f"no weights at {tmp_path / 'gone.pth'}" in capsys.readouterr().err


def test_where_weights_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("DEPTHFORGE_WEIGHTS", "~/mine")
    assert weights_folder() == tmp_path / "mine"
    monkeypatch.delenv("DEPTHFORGE_WEIGHTS")
    assert weights_folder() == Path("/caches/depthforge_ros/weights")
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert weights_folder() == tmp_path / ".cache" / "depthforge_ros" / "weights"


def test_files_of_a_checkpoint_may_lie_in_the_home_folder(
    variant: Variant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    files = checkpoint_files(variant, "~/encoders.safetensors, runs/weights.safetensors")
    assert files == [tmp_path / "encoders.safetensors", Path("runs/weights.safetensors")]
