# SPDX-License-Identifier: Apache-2.0
"""What a vehicle and a fresh machine get: real colcon and pip installations of this tree."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from paths import ROOT
from waits import WAIT_S

SOURCE = ROOT
MANIFEST = ElementTree.parse(SOURCE / "package.xml").getroot()
NAME = "depthforge_ros"
VERSION_LINE = f"depthforge {MANIFEST.findtext('version')}\n"
SHARED = ("launch", "config", "rviz", "models")  # folders that go to share/depthforge_ros
FILES = ("package.xml", "setup.py", "setup.cfg", "pyproject.toml", "LICENSE")
WHERE_MODELS = "from depthforge_ros.variant import models_dir; print(models_dir())"


def run(*command: str | Path, cwd: Path, code: int = 0, **environment: str) -> str:
    """Output of a command that must exit with `code`; the repository is not importable in it."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == code, f"{command} gave {done.returncode}:\n{done.stdout}"
    return done.stdout


def copy_source(target: Path) -> Path:
    """This tree as it is checked out, and a fetched file, which must not be installed."""
    for folder in (NAME, "resource", *SHARED):
        ignore = shutil.ignore_patterns("__pycache__", "fetched")
        shutil.copytree(SOURCE / folder, target / folder, ignore=ignore)
    for name in FILES:
        shutil.copy2(SOURCE / name, target / name)
    (target / "models/fetched").mkdir()
    (target / "models/fetched/licensed_otherwise.safetensors").write_bytes(b"x")
    return target


def files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", "fetched"} & set(path.parts)
    }


def colcon_build(workspace: Path, *options: str) -> Path:
    """The install prefix of the package after `colcon build` of a copy of this tree."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    colcon = shutil.which("colcon", path=places)
    assert colcon, "these tests need colcon: pip install colcon-common-extensions"
    copy_source(workspace / "src" / NAME)
    run(colcon, "build", *options, cwd=workspace)
    return workspace / "install" / NAME


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colcon_build(tmp_path_factory.mktemp("colcon"))


def in_workspace(prefix: Path, command: str, code: int = 0) -> str:
    """Output of a shell command after sourcing the workspace, as on a vehicle."""
    return run("bash", "-c", f"source ../setup.bash && exec {command}", cwd=prefix, code=code)


def test_colcon_installs_every_shared_file(prefix: Path) -> None:
    share = prefix / "share" / NAME
    for folder in SHARED:
        expected = files_below(SOURCE / folder)
        assert expected, f"{folder}/ is empty"
        assert files_below(share / folder) == expected
        assert not (share / folder / "fetched").exists()
    assert (share / "package.xml").read_bytes() == (SOURCE / "package.xml").read_bytes()
    assert (prefix / "share/ament_index/resource_index/packages" / NAME).is_file()


def test_colcon_executables_start(prefix: Path) -> None:
    executables = prefix / "lib" / NAME
    assert {path.name for path in executables.iterdir()} == {"depthforge", "depthforge_node"}
    assert in_workspace(prefix, f"{executables}/depthforge --version") == VERSION_LINE
    # The node itself would run until it is stopped; a value that it refuses ends it at once.
    refused = "--ros-args -p confidence_threshold:=7.5"
    said = in_workspace(prefix, f"{executables}/depthforge_node {refused}", code=2)
    assert said.startswith("depthforge_node: ")
    assert "7.5" in said


def test_colcon_installation_finds_its_models(prefix: Path) -> None:
    found = in_workspace(prefix, f'{sys.executable} -c "{WHERE_MODELS}"')
    assert Path(found.strip()) == prefix / "share" / NAME / "models"


def test_symlinked_installation_finds_the_models_of_its_source(tmp_path: Path) -> None:
    prefix = colcon_build(tmp_path, "--symlink-install")
    found = in_workspace(prefix, f'{sys.executable} -c "{WHERE_MODELS}"')
    assert Path(found.strip()) == tmp_path / "src" / NAME / "models"
    assert in_workspace(prefix, f"lib/{NAME}/depthforge --version") == VERSION_LINE


def test_pip_installation_finds_its_models(tmp_path: Path) -> None:
    source, prefix = copy_source(tmp_path / "src"), tmp_path / "prefix"
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed")
    run(sys.executable, "-m", "pip", "install", *options, "--prefix", prefix, source, cwd=tmp_path)
    modules = next(prefix.rglob(f"{NAME}/__init__.py")).parent.parent
    models = next(prefix.rglob(f"share/{NAME}/models"))
    assert files_below(models) == files_below(SOURCE / "models")
    found = run(sys.executable, "-c", WHERE_MODELS, cwd=tmp_path, PYTHONPATH=str(modules))
    assert Path(found.strip()) == models
    script = next(prefix.rglob("bin/depthforge"))
    version = run(script, "--version", cwd=tmp_path, PYTHONPATH=str(modules))
    assert version == VERSION_LINE


def test_a_source_tree_uses_its_own_models() -> None:
    found = run(sys.executable, "-c", WHERE_MODELS, cwd=SOURCE)
    assert Path(found.strip()) == SOURCE / "models"


def test_package_xml_and_setup_py_say_the_same() -> None:
    fields = ("name", "version", "description", "license", "maintainer")
    reported = run(sys.executable, "setup.py", *(f"--{field}" for field in fields), cwd=SOURCE)
    assert reported.splitlines()[-len(fields) :] == [MANIFEST.findtext(field) for field in fields]


def imported_by(*places: Path) -> set[str]:
    """Top-level names from outside Python and this repository that files below import."""
    files = [path for place in places for path in place.rglob("*.py")]
    imported = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).split(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
    return imported - set(sys.stdlib_module_names) - {NAME} - {path.stem for path in files}


def declared(root: Path) -> set[str]:
    """Names of everything that setup.py asks pip for, all extras included."""
    (root / "info").mkdir()
    run(sys.executable, "setup.py", "-q", "egg_info", "--egg-base", root / "info", cwd=SOURCE)
    lines = next(root.rglob("requires.txt")).read_text("utf-8").splitlines()
    return {re.split(r"[<>=\[~!]", line)[0] for line in lines if line and line[0] != "["}


def test_pip_is_asked_for_what_is_imported_and_for_nothing_else(tmp_path: Path) -> None:
    asked = declared(tmp_path)
    ros = {name for name in asked if name.startswith("ros-")}
    tools = {"colcon-common-extensions", "mypy", "pytest-xdist", "ruff", "wheel"}
    tools |= {"types-PyYAML", "types-tqdm"}
    called = {"PIL": "pillow", "cv2": "opencv-python-headless", "cv_bridge": "cv-bridge"}
    called |= {"sklearn": "scikit-learn", "yaml": "pyyaml"}
    names = imported_by(SOURCE / NAME, SOURCE / "test")
    in_ros = {name for name in names if name.endswith(("_msgs", "_interfaces")) or name == "rclpy"}
    called |= {"onnx_ir": "onnxscript", "rerun": "rerun-sdk"}
    optional = {"ament_index_python", "launch", "launch_ros", "launch_testing"}
    optional |= {"tensorrt", "torch_tensorrt", "packaging"}  # the second asks for the third
    optional |= {"tf2_ros"}  # has no wheel; used where a distribution has it
    names |= {"openvino"}  # imported by a module of that name, which hides it above
    expected = {called.get(name, name) for name in names - in_ros - optional}
    assert expected == asked - ros - tools
    # Other messages come with these: wheels of ROS name what they need themselves.
    assert ros <= {f"ros-{name.replace('_', '-')}" for name in in_ros}


def asked_of_rosdep(tag: str) -> set[str]:
    """Dependencies of package.xml, by the names of their modules where they are Python's."""
    called = {"opencv": "cv2", "pil": "PIL"}
    names = {str(element.text) for element in MANIFEST.iter(tag)}
    return {
        called.get(name.removeprefix("python3-"), name.removeprefix("python3-")) for name in names
    }


def test_package_xml_asks_for_what_is_imported_and_for_nothing_else() -> None:
    imported = imported_by(SOURCE / NAME, SOURCE / "launch")
    training = {"PIL", "matplotlib", "scipy"}  # setup.py's extra train: no vehicle needs it
    from_pip = {"rosbags", "safetensors", "simplejpeg", "torch", "tensorrt", "torch_tensorrt"}
    from_pip |= {"huggingface_hub", "mcap", "onnx", "onnx_ir", "onnxruntime", "rerun", "zstandard"}
    from_pip |= {"packaging", "tf2_ros"}  # used if installed, and not asked for
    assert asked_of_rosdep("exec_depend") == imported - training - from_pip
    tested = imported_by(SOURCE / "test") - imported | training
    from_pip |= {"tensorboard"}
    tools = {"colcon-common-extensions", "wheel"}
    assert asked_of_rosdep("test_depend") == tested - from_pip | tools


def test_the_readme_installs_with_pip_what_rosdep_does_not() -> None:
    line = re.search(r"^pip install (.*)$", (SOURCE / "README.md").read_text("utf-8"), re.M)
    assert line
    words = [word for word in shlex.split(line[1]) if not word.startswith("--")]
    assert {re.split(r"[<>=]", word)[0] for word in words} == {
        "mcap",
        "rosbags",
        "safetensors",
        "simplejpeg",
        "torch",
    }
    setup = (SOURCE / "setup.py").read_text("utf-8")
    assert all(f'"{word}"' in setup for word in words)


def test_make_demo_refuses_a_missing_folder_before_it_installs(tmp_path: Path) -> None:
    shutil.copy2(SOURCE / "Makefile", tmp_path)
    said = run("make", "demo", "IMAGES=/no/such", "PYTHON=false", cwd=tmp_path, code=2)
    assert "IMAGES is /no/such, which is not a folder\n" in said
    assert "does not run" not in said  # what the missing Python would have caused
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]
