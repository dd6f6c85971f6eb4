# SPDX-License-Identifier: Apache-2.0
"""Launch files, DDS profile and RViz display: that they name what there is, and that they work."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import typing
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bagfiles import START_NS, header, image, recorded, write_bag
from dds import environment, own_domain
from nodes import SENSOR, Bench, camera_info_message, image_message, running_node
from paths import ROOT
from rcl_interfaces.srv import GetParameters
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from waits import WAIT_S

from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.ros.play import camera_frame

SEGMENT, REPLAY = ROOT / "launch" / "segment.launch.py", ROOT / "launch" / "replay.launch.py"
RVIZ = ROOT / "rviz" / "depthforge.rviz"
PROFILE = ROOT / "config" / "fastdds.xml"
MIB = 1 << 20


def assigned(path: Path, name: str) -> ast.expr:
    """The expression that a launch file assigns to the module's variable."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return node.value
    raise AssertionError(f"{path.name} has no {name}")


def defined(path: Path, name: str) -> Callable:
    """A function of a launch file that needs nothing of it; launch itself may not be here."""
    nodes = ast.parse(path.read_text("utf-8")).body
    (function,) = [n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == name]
    namespace: dict[str, Any] = {"re": re}
    exec(compile(ast.Module([function], []), str(path), "exec"), namespace)
    return namespace[name]


def argument_names(path: Path) -> list[str]:
    return [entry.elts[0].value for entry in assigned(path, "ARGUMENTS").elts]


def test_arguments_are_unique_and_described() -> None:
    segment, replay = argument_names(SEGMENT), argument_names(REPLAY)
    assert len({*segment, *replay}) == len(segment) + len(replay)
    for path in (SEGMENT, REPLAY):
        for entry in assigned(path, "ARGUMENTS").elts:
            assert ast.literal_eval(entry.elts[2]).endswith(".")


def test_parameter_arguments_are_parameters_of_their_type() -> None:
    mapping = assigned(SEGMENT, "PARAMETER_ARGUMENTS")
    kinds = {k.value: v.id for k, v in zip(mapping.keys, mapping.values, strict=True)}
    types = {n: t.__name__ for n, t in typing.get_type_hints(Parameters).items()}
    assert kinds.pop("use_sim_time") == "bool"  # every node has it
    assert kinds == {name: types[name] for name in kinds}
    defaults = {e.elts[0].value: e.elts[1] for e in assigned(SEGMENT, "ARGUMENTS").elts}
    for name in [*kinds, "use_sim_time"]:
        assert defaults[name].value == ""  # left empty, the parameter file decides


@pytest.mark.parametrize(
    ("camera", "image", "expected"),
    [
        ("", "image", ["image", "image/compressed"]),
        ("", "/cam/raw", ["/cam/raw", "/cam/raw/compressed"]),
        ("front", "image", ["front/image", "front/image/compressed"]),
        ("front", "/{camera}/raw", ["/front/raw", "/front/raw/compressed"]),
    ],
)
def test_every_camera_is_remapped_to_topics_of_its_own(
    camera: str, image: str, expected: list[str]
) -> None:
    inputs = defined(SEGMENT, "inputs")
    given = {"image": image, "camera_info": "camera_info"}
    prefix = f"{camera}/" if camera else ""
    assert inputs(camera, given) == [
        (f"{prefix}image", expected[0]),
        (f"{prefix}image/compressed", expected[1]),
        (f"{prefix}camera_info", f"{prefix}camera_info"),
    ]


def test_cameras_cannot_share_a_topic() -> None:
    given = {"image": "/cam/raw", "camera_info": "camera_info"}
    with pytest.raises(
        ValueError, match=r"image is '/cam/raw'; expected \{camera\} in it for 'left'"
    ):
        defined(SEGMENT, "inputs")("left", given)


def test_parameters_are_found_under_every_spelling_of_a_node_s_name() -> None:
    by_node, is_for = defined(SEGMENT, "parameters_by_node"), defined(SEGMENT, "is_for_node")
    content = yaml.safe_load("""
        /**: {ros__parameters: {a: 1}}
        depthforge: {ros__parameters: {a: 2}}
        front: {depthforge: {ros__parameters: {a: 3}}}
        /left/depthforge: {ros__parameters: {a: 4}}
        /*/depthforge: {ros__parameters: {a: 5}}
        /**/depthforge: {ros__parameters: {a: 6}}
        other: {ros__parameters: {a: 7}}
    """)
    values = by_node(content)

    def matching(node: str) -> list[int]:
        return [v["a"] for pattern, v in values.items() if is_for(pattern, node)]

    assert matching("/depthforge") == [1, 2, 6]
    assert matching("/front/depthforge") == [1, 3, 5, 6]
    assert matching("/left/depthforge") == [1, 4, 5, 6]
    assert matching("/a/b/depthforge") == [1, 6]
    assert by_node(None) == by_node([1]) == {}


def test_launched_executables_are_installed() -> None:
    scripts = (ROOT / "setup.py").read_text("utf-8")
    for path in (SEGMENT, REPLAY):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            words = {k.arg: getattr(k.value, "value", "") for k in getattr(node, "keywords", ())}
            if words.get("package") == "depthforge_ros":
                assert f'"{words["executable"]} = depthforge_ros.' in scripts


def test_the_dds_profile_has_room_for_images_and_keeps_udp() -> None:
    space = {"": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
    root = ET.parse(PROFILE).getroot()
    transports = {
        t.find("type", space).text: t for t in root.iterfind(".//transport_descriptor", space)
    }
    segment = int(transports["SHM"].find("segment_size", space).text)
    message = int(transports["SHM"].find("maxMessageSize", space).text)
    assert segment >= 64 * MIB
    assert 3840 * 2160 * 3 < message <= segment
    used = [e.text for e in root.iterfind(".//userTransports/transport_id", space)]
    assert used == [t.find("transport_id", space).text for t in transports.values()]
    assert set(transports) == {"SHM", "UDPv4"}


def test_the_node_talks_under_the_dds_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        monkeypatch.setenv(name, str(PROFILE))
    domain = own_domain()
    with Bench(domain) as bench:
        heard = bench.hear("semantic")
        with running_node(domain, tmp_path, checkpoint="instant") as node:
            answer = bench.exchange(image_message(3), heard)
            assert answer.header.stamp.sec == 1_700_000_003
            assert node.end() == 0
            assert "XML" not in node.log


RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
path, *arguments = sys.argv[1:]
included = IncludeLaunchDescription(
    PythonLaunchDescriptionSource(path), launch_arguments=[a.split(":=", 1) for a in arguments]
)
service = LaunchService()
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
"""


@pytest.fixture
def launched(tmp_path: Path):
    """Starts a launch file with arguments; its process, whose output is in launch.log."""
    pytest.importorskip("launch_ros", reason="needs launch and launch_ros of a ROS distribution")
    packages = pytest.importorskip(
        "ament_index_python.packages", reason="needs ament_index_python of a ROS distribution"
    )
    try:
        packages.get_package_prefix("depthforge_ros")
    except packages.PackageNotFoundError:
        pytest.skip("needs the package installed by colcon, and its setup file sourced")
    running = []

    def start(domain: int, path: Path, *arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "launch.log").open("wb") as log:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-c", RUN, str(path), *arguments],
                    env={**environment(domain), "ROS_LOG_DIR": str(tmp_path / "ros_log")},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def rviz2_that_prints_its_arguments(prefix: Path) -> Path:
    """An ament prefix with a package rviz2, which records its command line and waits."""
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "rviz2"
    program = prefix / "lib" / "rviz2" / "rviz2"
    for path in (marker, program):
        path.parent.mkdir(parents=True)
    marker.touch()
    program.write_text(f'#!/bin/sh\necho "$@" > {prefix}/arguments\nexec sleep 300\n')
    program.chmod(0o755)
    return prefix


def test_launched_rviz_has_the_camera_s_frame_and_the_node_s_topics(
    launched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = rviz2_that_prints_its_arguments(tmp_path / "prefix")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}")
    domain = own_domain()
    arguments = ["image:=/cam/raw", "camera_info:=/cam/info", "namespace:=front", "rviz:=true"]
    arguments += ["checkpoint:=instant", "image_transport:=compressed"]
    process = launched(domain, SEGMENT, *arguments)
    with Bench(domain, "/front/depthforge") as bench:
        infos = bench.node.create_publisher(CameraInfo, "/cam/info", SENSOR)
        info = camera_info_message()
        info.header.frame_id = "zed_left_camera_optical_frame"

        def started() -> bool:
            infos.publish(info)
            return "[rviz2-3]: process started" in (tmp_path / "launch.log").read_text()

        bench.spin_until(started)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(WAIT_S)
    words = (prefix / "arguments").read_text().split()
    assert words[words.index("-f") + 1] == "zed_left_camera_optical_frame"
    config = yaml.safe_load(Path(words[words.index("-d") + 1]).read_text("utf-8"))
    displays = config["Visualization Manager"]["Displays"]
    topics = [display["Topic"]["Value"] for display in displays[:2]]
    assert topics == ["/cam/raw/compressed", "/front/depthforge/overlay"]


def test_launched_without_rviz2_and_with_a_file_for_another_node(launched, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"/depthforge": {"ros__parameters": {"variant": "dinov2_s"}}}))
    domain = own_domain()
    arguments = ["namespace:=front", "rviz:=true", f"params_file:={file}", "checkpoint:=instant"]
    arguments += ["image_size:=640x480,1920x1080", "autostart:=false"]
    process = launched(domain, SEGMENT, *arguments)
    with Bench(domain, "/front/depthforge") as bench:
        bench.wait_for("state", "unconfigured")  # of autostart
        request = GetParameters.Request(names=["image_size"])
        (answer,) = bench.call(GetParameters, "get_parameters", request).values
        assert answer.string_value == "640x480,1920x1080"
        os.killpg(process.pid, signal.SIGINT)
        process.wait(WAIT_S)
    log = (tmp_path / "launch.log").read_text()
    assert "rviz is true and the package rviz2 is not installed: RViz is not started" in log
    assert (
        f"{file} has parameters for /depthforge and none for /front/depthforge, which ignores it; "
        "expected /front/depthforge or /**"
    ) in log


def test_launched_with_a_parameter_file_and_arguments(launched, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    values = {"checkpoint": "/none", "variant": "dinov2_s", "confidence_threshold": 0.95}
    values["drop_stale"] = False  # the images of `image_message` are years old
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
    domain = own_domain()
    arguments = ["image:=/image", "namespace:=front", "checkpoint:=instant"]
    process = launched(domain, SEGMENT, *arguments, f"params_file:={file}")
    with Bench(domain, "/front/depthforge") as bench:
        heard = bench.hear("semantic")
        answer = bench.exchange(image_message(1), heard)
        assert set(answer.data) == {255}  # the threshold of the file
        bench.wait_for("variant", "dinov2_s")  # of the file, as the argument was left empty
        assert bench.values()["checkpoint"] == "instant"  # of the argument
        assert bench.values()["input topic"] == "/image"
        assert bench.status().name == "front/depthforge: inference"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(WAIT_S) == 0
    assert "process has finished cleanly" in (tmp_path / "launch.log").read_text()


def test_launched_with_several_cameras(launched) -> None:
    domain = own_domain()
    topics = ["image:=/{camera}/raw", "cameras:=front,left", "checkpoint:=instant"]
    process = launched(domain, SEGMENT, *topics)
    with Bench(domain) as bench:
        heard = {c: bench.hear(f"{c}/semantic") for c in ("front", "left")}
        bench.image = bench.node.create_publisher(Image, "/left/raw", SENSOR)
        bench.wait_for("state", "active")
        bench.spin_until(lambda: bench.image.get_subscription_count() > 0)
        message = image_message(1)  # stamped only now: a second later it would be stale
        message.header.stamp = bench.node.get_clock().now().to_msg()
        assert bench.exchange(message, heard["left"]).header == message.header
        assert heard["front"] == []
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(WAIT_S) == 0


def drive(path: Path, count: int, step_ns: int) -> Path:
    """A bag of that many images, with CameraInfo."""
    rows = []
    for index in range(count):
        time_ns = START_NS + index * step_ns
        info = camera_info_message(width=48, height=32)
        info.header = header(time_ns)
        rows.append(recorded("/cam/info", time_ns, info))
        rows.append(recorded("/cam/image", time_ns, image(index, time_ns)))
    return write_bag(path, rows)


def test_rviz_s_frame_is_read_from_the_bag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = drive(tmp_path / "drive", 1, 1)
    assert camera_frame.main(["/cam/info", "--bag", str(bag)]) == 0
    assert capsys.readouterr().out == "front\n"
    for words, reason in (
        (["/cam/image", "--bag", str(bag)], f"{bag} has no CameraInfo on /cam/image"),
        (["/cam/info", "--bag", str(tmp_path / "no")], f"bag {tmp_path / 'no'} does not exist"),
    ):
        assert camera_frame.main(words) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith(f"camera_frame: {reason}")


def test_a_bag_is_replayed_in_its_own_time(launched, tmp_path: Path) -> None:
    second = 1_000_000_000
    bag = drive(tmp_path / "drive", 30, second // 10)
    domain = own_domain()
    arguments = [f"bag:={bag}", "image:=/cam/image", "camera_info:=/cam/info", "loop:=true"]
    process = launched(domain, REPLAY, *arguments, "checkpoint:=instant")
    with Bench(domain) as bench:
        heard = bench.hear("semantic", Image)
        infos = bench.hear("camera_info", CameraInfo)
        bench.spin_until(lambda: len(heard) >= 5 and len(infos) >= 1)
        assert all(m.header.frame_id == "front" for m in heard)
        assert START_NS // second <= heard[0].header.stamp.sec < START_NS // second + 3
        # The frame's age is by the bag's clock: years by any other.
        bench.spin_until(lambda: bool(bench.values().get("frame age ms")))
        assert abs(float(bench.values()["frame age ms"])) < 60_000
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(WAIT_S) == 0


@pytest.mark.parametrize("namespace", ["", "front"])
def test_a_replayed_bag_arrives_whole(launched, tmp_path: Path, namespace: str) -> None:
    count = 10
    bag = drive(tmp_path / "drive", count, 250_000_000)
    domain = own_domain()
    # Has a clock and sees images long before the node does, as RViz.
    with Bench(domain, f"/{namespace}/depthforge" if namespace else "/depthforge") as bench:
        bench.subscribe(Clock, "/clock", 10)
        bench.subscribe(Image, "/cam/image", SENSOR)
        arguments = [f"bag:={bag}", "image:=/cam/image", "camera_info:=/cam/info"]
        arguments += ["checkpoint:=instant"]
        arguments += [f"namespace:={namespace}"] if namespace else []
        process = launched(domain, REPLAY, *arguments)
        bench.spin_until(lambda: process.poll() is not None)
        bench.drain()
    assert process.returncode == 0, (tmp_path / "launch.log").read_text()
    assert bench.values()["frames in"] == str(count)


def test_the_launch_file_passes_launch_testing(launched, tmp_path: Path) -> None:
    """`launched` skips where launch and a colcon build are absent."""
    pytest.importorskip("launch_testing", reason="needs launch_testing of a ROS distribution")
    command = [sys.executable, "-m", "launch_testing.launch_test", "launch_test_segment.py"]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parent,
        env={**environment(own_domain()), "ROS_LOG_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
