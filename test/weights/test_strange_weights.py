# SPDX-License-Identifier: Apache-2.0
"""Files of the right names whose content is not, and wrappers around the right content."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from paths import TINY
from safetensors.torch import load_file, save_file
from torch import Tensor

from depthforge_ros import cli
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.weights import WeightsError, load_weights
from depthforge_ros.network.weights.files import open_weights
from depthforge_ros.variant import Variant, load_variant
from depthforge_ros.weights.convert import convert

TOKENS = "backbone.depthforge.learnable_tokens_a"


@pytest.fixture
def tiny() -> Variant:
    return load_variant(TINY / "tiny.yaml")


@pytest.fixture
def theirs() -> dict[str, Tensor]:
    return load_file(TINY / "tiny_weights.safetensors")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, tiny: Variant, theirs: dict[str, Tensor], value: float
) -> None:
    theirs[TOKENS] = theirs[TOKENS].clone()
    theirs[TOKENS].view(-1)[:3] = value
    path = tmp_path / "theirs.safetensors"
    save_file(theirs, path)
    fault = f"{path}: 3 numbers of {TOKENS} are not finite"
    with pytest.raises(WeightsError, match=fault):
        convert(tiny, [path])
    with pytest.raises(WeightsError, match=fault):
        load_weights(DepthForge(tiny), tiny, [path])


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_weights_that_are_no_real_numbers_are_refused(
    tmp_path: Path, tiny: Variant, theirs: dict[str, Tensor], kind: torch.dtype
) -> None:
    path = tmp_path / "quantised.pth"
    torch.save({name: value.to(kind) for name, value in theirs.items()}, path)
    with pytest.raises(WeightsError, match=f" is {kind}; expected floating-point numbers"):
        convert(tiny, [path])
    with pytest.raises(WeightsError, match=f" is {kind}; expected floating-point numbers"):
        load_weights(DepthForge(tiny), tiny, [path])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_left_out(
    tmp_path: Path, tiny: Variant, theirs: dict[str, Tensor], prefix: str
) -> None:
    path = tmp_path / "wrapped.pth"
    torch.save({"state_dict": {prefix + name: value for name, value in theirs.items()}}, path)
    assert open_weights(path).shapes == {name: value.shape for name, value in theirs.items()}
    assert convert(tiny, [path]).complete
    torch.save(
        {**{prefix + name: value for name, value in theirs.items()}, "x": theirs[TOKENS]}, path
    )
    assert f"{prefix}{TOKENS}" in open_weights(path).shapes  # of another network


@pytest.mark.parametrize("content", [b"", b"hello", b"<!DOCTYPE html>", b"\x80\x02" + bytes(9)])
def test_other_files_are_refused_in_a_line(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"other{suffix}"
        path.write_bytes(content)
        options = ["--variant", str(TINY / "tiny.yaml"), "--folder", str(tmp_path)]
        assert cli.main(["weights", "convert", str(path), *options]) == 2
        start = f"depthforge weights: {path} cannot be read as weights: "
        error = capsys.readouterr().err
        assert error.startswith(start)
        assert len(error) > len(start) + 10
        assert error.count("\n") == 1
