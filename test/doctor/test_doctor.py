# SPDX-License-Identifier: Apache-2.0
"""What `depthforge doctor` says about machines, environments and graphs, good and bad."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest
from dds import Listener, own_domain
from paths import ROOT
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from depthforge_ros import transport_command
from depthforge_ros.doctor import doctor_command, machine, middleware, software
from depthforge_ros.doctor.finding import Finding, Level, warn
from depthforge_ros.ros.qos_check import Link, links

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL
CONFIG = ROOT / "config"
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
MIB = 1 << 20


def arguments(*words: str) -> Namespace:
    parser = ArgumentParser()
    doctor_command.configure(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("granted", "cyclone", "level"),
    [
        ("4194304", False, OK),
        ("212992", False, WARN),
        ("212992", True, FAIL),
        ("9999999", True, FAIL),
        ("10000000", True, OK),
        ("", False, WARN),
    ],
)
def test_socket_buffers(tmp_path: Path, granted: str, cyclone: bool, level: Level) -> None:
    folder = tmp_path / "sys" / "net" / "core"
    folder.mkdir(parents=True)
    (folder / "rmem_max").write_text(granted)
    (folder / "wmem_max").write_text("4194304")
    received, sent = machine.socket_buffers(cyclone, tmp_path)
    assert (received.check, received.level) == ("net.core.rmem_max", level)
    assert (sent.check, sent.level) == ("net.core.wmem_max", OK)
    assert ("sysctl -w net.core.rmem_max=16777216" in received.remedy) == (
        level is not OK and granted != ""
    )


def test_shared_memory(tmp_path: Path) -> None:
    assert machine.shared_memory(1, tmp_path).level is OK
    small = machine.shared_memory(1 << 60, tmp_path)
    assert small.level is FAIL
    assert "--shm-size" in small.remedy
    assert machine.shared_memory(1, tmp_path / "none").level is FAIL


@pytest.mark.parametrize(
    ("text", "level"),
    [(None, OK), ("0", OK), ("101", OK), ("102", WARN), ("233", FAIL), ("-1", FAIL), ("a", FAIL)],
)
def test_domains(text: str | None, level: Level) -> None:
    assert middleware.domain({} if text is None else {"ROS_DOMAIN_ID": text}).level is level


@pytest.mark.parametrize(
    ("env", "levels"),
    [
        ({}, [OK]),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, [OK]),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "HOST"}, [FAIL]),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, [FAIL]),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF", "ROS_STATIC_PEERS": "10.0.0.2"}, [OK]),
        ({"ROS_LOCALHOST_ONLY": "1"}, [OK, OK]),
        ({"ROS_LOCALHOST_ONLY": "1", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, [OK, WARN]),
    ],
)
def test_discovery(env: dict[str, str], levels: list[Level]) -> None:
    assert [finding.level for finding in middleware.discovery(env)] == levels


def test_profiles_of_fast_dds(tmp_path: Path) -> None:
    def judged(path: Path | str) -> tuple[Level, int]:
        env = {"FASTRTPS_DEFAULT_PROFILES_FILE": str(path)}
        return middleware.profile("rmw_fastrtps_cpp", env).level, middleware.segment_bytes(env)

    assert judged(CONFIG / "fastdds.xml") == (OK, 128 * MIB)
    made = tmp_path / "made.xml"
    made.write_text(transport_command.profile(3840, 2160, 2))
    assert judged(made) == (OK, 384 * MIB)
    assert judged("") == (WARN, 64 * MIB)
    assert judged(tmp_path / "none.xml") == (FAIL, 64 * MIB)
    made.write_text("<profiles>")
    assert judged(made) == (FAIL, 64 * MIB)
    made.write_text("<profiles/>")
    assert judged(made) == (FAIL, 64 * MIB)
    text = (CONFIG / "fastdds.xml").read_text().replace(">134217728<", ">1048576<")
    made.write_text(text)
    assert judged(made) == (WARN, MIB)


def test_configurations_of_cyclone_and_others() -> None:
    def judged(uri: str) -> Level:
        return middleware.profile("rmw_cyclonedds_cpp", {"CYCLONEDDS_URI": uri}).level

    assert judged(f"file://{CONFIG / 'cyclonedds.xml'}") is OK
    assert judged("<CycloneDDS/>") is OK
    assert judged("<CycloneDDS>") is FAIL
    assert judged("file:///none.xml") is FAIL
    assert judged("") is WARN
    assert middleware.profile("rmw_zenoh_cpp", {}).level is WARN


@pytest.mark.parametrize(
    ("name", "text", "level"),
    [
        ("torch", "2.13.0+cpu", OK),
        ("torch", "2.3.1", FAIL),
        ("torch", "2.10", OK),
        ("numpy", "2.2.6", OK),
        ("numpy", "2.3.0", FAIL),
        ("numpy", "1.26.4", OK),
        ("opencv", "4.10.0.84", OK),
        ("opencv", "", OK),
    ],
)
def test_versions(name: str, text: str, level: Level) -> None:
    assert software.version(name, text).level is level


def test_pythons() -> None:
    tried = ((3, 9, 2), (3, 10, 0), (3, 12, 9), (3, 13, 0))
    assert [software.python(version).level for version in tried] == [FAIL, OK, OK, FAIL]


def test_weights_are_looked_for_where_the_node_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFORGE_WEIGHTS", str(tmp_path))
    assert software.weights("dinov2_l", "").level is FAIL
    file = tmp_path / "dinov2_l.safetensors"
    file.write_bytes(b"")
    assert software.weights("dinov2_l", "") == Finding(OK, "weights", str(file))
    assert software.weights("dinov2_l", f"{file},{file}.none").text == f"missing: {file}.none"
    assert software.weights("dinov2_x", "").level is FAIL
    assert software.weights("nano", "untrained").level is WARN


def test_a_graph_that_does_not_match(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = own_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    with Listener(domain, "camera") as camera, Listener(domain, "planner") as planner:
        camera.node.create_publisher(Image, "/front", BEST_EFFORT)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        planner.subscribe(Image, "/front", BEST_EFFORT)
        planner.subscribe(Image, "/rear", 1)
        camera.subscribe(Image, "/front", latched)
        found: dict[tuple[str, str], Link] = {}

        def discovered() -> bool:
            found.update({(link.topic, link.subscription): link for link in links(1.0)})
            return len(found) == 3 and found["/front", "/planner"].publisher != ""

        camera.spin_until(discovered)
    assert found["/front", "/planner"] == Link("/front", "/camera", "/planner", "")
    assert found["/rear", "/planner"] == Link("/rear", "", "/planner", "no publisher", ("/front",))
    wrong = found["/front", "/camera"]
    assert wrong.reason == (
        "Best effort publisher and reliable subscription, "
        "Volatile publisher and transient local subscription"
    )
    findings = {finding.text: finding for finding in doctor_command.matches([*found.values()])}
    levels = sorted(finding.level.value for finding in findings.values())
    assert levels == ["FAIL", "OK", "WARN"]
    (unfed,) = (finding for finding in findings.values() if finding.level is WARN)
    assert unfed.remedy == "remap /rear; topics that have a publisher: /front"
    assert findings[f"/camera does not reach /camera: {wrong.reason}"].level is FAIL
    (alone,) = doctor_command.matches([])
    assert alone.level is OK


@pytest.mark.parametrize(
    ("candidates", "remedy"),
    [
        ((), "start the publisher; no topic of such messages has one in this domain"),
        (("/cam/raw",), "remap /image; topics that have a publisher: /cam/raw"),
        (
            ("/cam/raw/compressed",),
            "remap /image; topics that have a publisher: /cam/raw/compressed (needs "
            "image_transport: compressed, without /compressed in the remapping)",
        ),
    ],
)
def test_the_topics_that_exist_are_named(candidates: tuple[str, ...], remedy: str) -> None:
    link = Link("/image", "", "/depthforge", "no publisher", candidates)
    (finding,) = doctor_command.matches([link])
    assert finding == warn("topic /image", "/depthforge subscribes, no publisher", remedy)


def test_the_remedy_names_a_profile_that_exists() -> None:
    remedy = middleware.profile("rmw_fastrtps_cpp", {}).remedy
    path = remedy.removeprefix("export FASTRTPS_DEFAULT_PROFILES_FILE=").split()[0]
    assert Path(path) == CONFIG / "fastdds.xml"


def test_the_verb_reports_everything_and_fails_where_something_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(CONFIG / "fastdds.xml"))
    words = ("--checkpoint", "instant", "--graph", "0")
    doctor_command.run(arguments(*words, "--json"))
    reported = {entry["check"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {"python", "torch", "numpy", "opencv", "CUDA", "weights", "cv_bridge"} <= set(reported)
    assert {"RMW_IMPLEMENTATION", "net.core.rmem_max", "/dev/shm"} <= set(reported)
    assert reported["weights"]["level"] == "WARN"
    assert reported["ROS_DOMAIN_ID"] == {
        "level": "OK", "check": "ROS_DOMAIN_ID", "text": "7", "remedy": ""
    }  # fmt: skip
    assert reported["numpy"]["level"] == "OK"
    monkeypatch.setenv("ROS_DOMAIN_ID", "seven")
    assert doctor_command.run(arguments(*words)) == 1
    said = capsys.readouterr().out.splitlines()
    at = said.index("FAIL ROS_DOMAIN_ID: is 'seven'")
    assert said[at + 1] == "       -> expected 0..232; 0..101 is safe"
    with pytest.raises(ValueError, match="--graph is nan"):
        doctor_command.run(arguments("--graph", "nan"))


def test_a_line_holds_level_check_and_remedy() -> None:
    assert warn("a", "b", "c").line() == "WARN a: b\n       -> c"
    assert Finding(OK, "a", "b").line() == "OK   a: b"
