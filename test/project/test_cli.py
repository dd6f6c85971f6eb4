# SPDX-License-Identifier: Apache-2.0
"""The command line: what it loads, and what its errors look like."""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser, Namespace
from typing import NamedTuple

import pytest
from waits import WAIT_S

from depthforge_ros import cli


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False
    )


class Echo:
    """A verb that raises what it was given, or returns 7."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("--count", type=int, default=3, help="how often")
        parser.add_argument("--loud", action="store_true", help="shout")
        parser.add_argument("--voice", help="whose")

    def run(self, args: Namespace) -> int:
        if self.error is not None:
            raise self.error
        return 4 + args.count


class EchoVerb(NamedTuple):
    help: str
    module: Echo

    def load(self) -> Echo:
        return self.module


def use(monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> None:
    monkeypatch.setattr(cli, "VERBS", {"echo": EchoVerb("say it", Echo(error))})


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_overview_loads_neither_torch_nor_ros(option: str) -> None:
    code = (
        "import atexit, sys; from depthforge_ros.cli import main\n"
        "atexit.register(lambda: print('loaded', {'torch', 'rclpy', 'cv2'} & set(sys.modules)))\n"
        f"main([{option!r}])"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("loaded set()\n")


def test_help_has_one_line_for_every_verb() -> None:
    done = python("-m", "depthforge_ros.cli", "--help")
    assert done.returncode == 0
    for name, verb in cli.VERBS.items():
        assert f"{name} {verb.help}" in " ".join(done.stdout.split())


@pytest.mark.parametrize("name", sorted(cli.VERBS))
def test_every_verb_loads_and_explains_itself(name: str) -> None:
    done = python("-m", "depthforge_ros.cli", name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: depthforge {name} [-h]")


def test_every_verb_is_in_the_module_that_its_name_says() -> None:
    for name, verb in cli.VERBS.items():
        assert verb.module.split(".")[-1] == f"{name}_command"


def test_a_verb_gets_its_arguments_and_gives_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    assert cli.main(["echo"]) == 7
    assert cli.main(["echo", "--count", "5"]) == 9


def test_help_shows_the_defaults_that_say_something(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch)
    with pytest.raises(SystemExit):
        cli.main(["echo", "--help"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert {"--count COUNT how often (default: 3)", "--loud shout", "--voice VOICE whose"} < {
        *lines
    }


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("crop is 7;\n expected 16"), "depthforge echo: crop is 7; expected 16\n"),
        (
            ValueError("no folder x; expected:\n        x/images\n          NAME.png"),
            "depthforge echo: no folder x; expected:\n  x/images\n    NAME.png\n",
        ),
        (
            FileNotFoundError(2, "No such file", "a.yaml"),
            "depthforge echo: [Errno 2] No such file: 'a.yaml'\n",
        ),
        (
            ModuleNotFoundError("No module named 'rosbags'", name="rosbags"),
            "depthforge echo: needs the Python module 'rosbags', which is not installed\n",
        ),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    line: str,
) -> None:
    use(monkeypatch, error)
    assert cli.main(["echo"]) == 2
    assert capsys.readouterr() == ("", line)
    with pytest.raises(type(error)):
        cli.main(["--traceback", "echo"])


def test_an_interrupt_is_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, KeyboardInterrupt())
    assert cli.main(["echo"]) == 130


def test_a_defect_is_not_dressed_up_as_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, TypeError("a defect"))
    with pytest.raises(TypeError, match="a defect"):
        cli.main(["echo"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [([], "required: VERB"), (["dance"], "invalid choice: 'dance'"), (["echo", "-x"], "-x")],
)
def test_wrong_usage_is_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    text: str,
) -> None:
    use(monkeypatch)
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 2
    assert text in capsys.readouterr().err
