# SPDX-License-Identifier: Apache-2.0
"""Parameter files name nodes; a file for another node is not ignored silently."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from dds import environment, own_domain
from nodes import end_politely
from waits import WAIT_S

from depthforge_ros.ros.node.parameter_files import is_for_node, parameter_files

CONTENT = """
/**: {ros__parameters: {max_batch: 1}}
depthforge: {ros__parameters: {max_batch: 2}}
front: {depthforge: {ros__parameters: {max_batch: 3}}}
/left/depthforge: {ros__parameters: {max_batch: 4}}
/*/depthforge: {ros__parameters: {max_batch: 5}}
/**/depthforge: {ros__parameters: {max_batch: 6}}
other: {ros__parameters: {max_batch: 7}}
"""


@pytest.mark.parametrize(
    ("node", "numbers"),
    [
        ("/depthforge", [0, 1, 5]),
        ("/front/depthforge", [0, 2, 4, 5]),
        ("/left/depthforge", [0, 3, 4, 5]),
        ("/a/b/depthforge", [0, 5]),
        ("/other", [0, 6]),
    ],
)
def test_every_spelling_of_a_node_s_name_is_understood(
    tmp_path: Path, node: str, numbers: list[int]
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(CONTENT)
    (patterns,) = parameter_files(["--ros-args", "--params-file", str(path)]).values()
    assert [i for i, pattern in enumerate(patterns) if is_for_node(pattern, node)] == numbers


def test_the_tags_that_launch_ros_writes_before_lists_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    parameters = {"cameras": ("front", "left")}
    path.write_text(yaml.dump({"/**": {"ros__parameters": parameters}}))
    assert "!!python/tuple" in path.read_text()
    assert parameter_files(["--params-file", str(path)]) == {str(path): ["/**"]}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("/**: {ros__parameters: {a: 1}", "is no YAML"),
        ("- a\n- b\n", "expected NODE: ros__parameters: NAME: VALUE"),
    ],
)
def test_a_file_without_parameters_is_refused_by_name(
    tmp_path: Path, text: str, fault: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=fault) as error:
        parameter_files(["--params-file", str(path)])
    assert str(path) in str(error.value)


def test_a_file_for_another_node_is_named_when_the_node_starts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "depthforge_ros.ros.node", "--ros-args", "-r", "__ns:=/front"]
    command += ["-p", "autostart:=false"]
    files = {}
    for name in ("/depthforge", "/front/depthforge", "/**"):
        files[name] = tmp_path / f"{len(files)}.yaml"
        files[name].write_text(yaml.safe_dump({name: {"ros__parameters": {"variant": "nano"}}}))
        command += ["--params-file", str(files[name])]
    log = tmp_path / "node.log"
    until_s = time.monotonic() + WAIT_S
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment(own_domain()), stderr=stream)
        try:
            while "parameter file" not in log.read_text() and time.monotonic() < until_s:
                assert process.poll() is None
                time.sleep(0.05)
        finally:
            end_politely(process)
    lines = [line for line in log.read_text().splitlines() if "parameter file" in line]
    assert len(lines) == 1
    assert lines[0].endswith(
        f"parameter file {files['/depthforge']} is for /depthforge and ignored; expected "
        "/front/depthforge or /**"
    )
