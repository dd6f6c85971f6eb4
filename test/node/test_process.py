# SPDX-License-Identifier: Apache-2.0
"""The command depthforge_node: its help, and starts that fail at once with one line."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from dds import own_domain

from depthforge_ros.ros.node import process
from depthforge_ros.ros.node.parameter_descriptors import declarations


@pytest.fixture
def _handlers() -> Iterator[None]:
    """The signal handlers of this process, restored."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_help_names_every_parameter_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert process.main(["depthforge_node", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: depthforge_node [--ros-args ")
    for name, default, _ in declarations():
        assert f"  {name} ({default!r})\n" in text


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize(
    ("values", "line"),
    [
        ("max_rate_hz: 10", "max_rate_hz is 10, an integer; expected a double: write 10.0"),
        ("max_batch: 0", "max_batch"),
        ("max_batch: many", "Trying to set parameter 'max_batch' to 'many' of type 'STRING'"),
        ("mode: fast", "mode is 'fast'; expected one of whole, slide"),
        ("cameras: []", "cameras is empty; expected a list like [front, left] or ['']"),
        ("cameras: [front, front-left]", "cameras has 'front-left'; expected letters, digits"),
        ("palette: 'cow=#ffffff'", "a colour is given for cow; expected some of road,"),
        ("drivable_classes: raod", "drivable_classes names 'raod'; cityscapes has bicycle"),
        ("obstacle_classes: raod", "obstacle_classes names 'raod'; cityscapes has bicycle"),
        ("encoding: rgb24", "encoding is 'rgb24'; expected nothing, or one of rgb8"),
        ("- not a map", "parameter file {path}: expected NODE: ros__parameters: NAME: VALUE"),
        ("mode: [", "parameter file {path} is no YAML: "),
        (None, "parameter file {path} does not exist"),
    ],
)
def test_a_start_that_cannot_be_is_one_line_and_status_2(
    values: str | None,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(own_domain()))
    path = tmp_path / "params.yaml"
    if values is not None:
        path.write_text(f"/**:\n  ros__parameters:\n    {values}\n", "utf-8")
    arguments = ["depthforge_node", "--ros-args", "--params-file", str(path)]
    assert process.main(arguments) == 2
    (written,) = capfd.readouterr().err.splitlines()
    assert written.startswith("depthforge_node: ")
    assert line.format(path=path) in written
