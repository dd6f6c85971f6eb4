# SPDX-License-Identifier: Apache-2.0
"""Several cameras on one network, over real DDS: whose masks come out, and what is said of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from dds import own_domain
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from nodes import (
    HEIGHT,
    KEEP,
    SENSOR,
    WIDTH,
    Bench,
    camera_info_message,
    image_message,
    running_node,
)
from sensor_msgs.msg import CameraInfo, Image

NAMES = ("front", "left", "right", "rear")
WARN, ERROR = DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Rig(Bench):
    """A bench with several cameras, and the outputs of each."""

    def __init__(self, domain: int, names: tuple[str, ...]) -> None:
        super().__init__(domain)
        self.cameras = {n: self.node.create_publisher(Image, f"/{n}/image", SENSOR) for n in names}
        self.infos = {
            n: self.node.create_publisher(CameraInfo, f"/{n}/camera_info", SENSOR) for n in names
        }
        self.masks: dict[str, list[Image]] = {
            n: self.subscribe(Image, f"/depthforge/{n}/semantic", KEEP) for n in names
        }
        self.sent: dict[str, list] = {n: [] for n in names}

    def ready(self) -> bool:
        return all(camera.get_subscription_count() for camera in self.cameras.values())

    def shoot(self, name: str) -> None:
        """One more image of the camera, with a stamp, a frame_id and an fx that no other has."""
        index = len(self.sent[name])
        info = camera_info_message()
        info.header.frame_id = f"{name}_optical"
        info.k[0] = 80.0 + NAMES.index(name)
        self.infos[name].publish(info)
        message = image_message(1000 * list(self.cameras).index(name) + index)
        message.header.frame_id = f"{name}_optical"
        self.sent[name].append(message.header)
        self.cameras[name].publish(message)

    def all_served(self, names: tuple[str, ...]) -> None:
        """Shoot with all until each has a mask of an image shot in here."""
        started = {name: len(self.masks[name]) for name in names}

        def served() -> bool:
            waiting = [name for name in names if len(self.masks[name]) == started[name]]
            for name in waiting:
                self.shoot(name)
            self.drain()
            return not waiting

        self.spin_until(served)

    def said(self, name: str) -> tuple[DiagnosticStatus, dict[str, str]]:
        """The newest report on a camera, or on the whole where the name is `inference`."""
        expected = f"depthforge: {name if name == 'inference' else f'camera {name}'}"
        (status,) = [s for s in self.diagnostics[-1].status if s.name == expected]
        return status, {entry.key: entry.value for entry in status.values}


@pytest.fixture
def domain() -> int:
    return own_domain()


@pytest.mark.parametrize("names", [NAMES[:2], NAMES], ids=["two", "four"])
def test_every_mask_has_the_header_of_its_own_cameras_image(
    domain: int, tmp_path: Path, names: tuple[str, ...]
) -> None:
    with Rig(domain, names) as rig:
        infos = rig.subscribe(CameraInfo, "/depthforge/left/camera_info", KEEP)
        with running_node(domain, tmp_path, checkpoint="instant", cameras=list(names)) as node:
            rig.spin_until(rig.ready)
            rig.all_served(names)
            for _ in range(8):
                for name in names:
                    rig.shoot(name)
                rig.drain()
            rig.spin_until(lambda: rig.said("inference")[1]["rate Hz"] != "0.0")
            topics = {name for name, _ in rig.node.get_topic_names_and_types()}
            assert node.end() == 0
            assert "Traceback" not in node.log
    for name in names:
        own = {(h.stamp.sec, h.stamp.nanosec): h for h in rig.sent[name]}
        heard = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in rig.masks[name]]
        assert len(heard) >= 6
        assert heard == sorted(set(heard))  # in order, and none twice
        for message in rig.masks[name]:
            assert message.header == own[message.header.stamp.sec, message.header.stamp.nanosec]
            assert (message.width, message.height) == (WIDTH, HEIGHT)
        _, values = rig.said(name)
        assert values["input topic"] == f"/{name}/image"
        drops = sum(int(v) for k, v in values.items() if k.startswith("dropped: "))
        assert int(values["frames in"]) <= int(values["frames out"]) + drops + 1
    assert {info.k[0] for info in infos} == {81.0}  # of the left one
    _, whole = rig.said("inference")
    assert whole["input topic"] == ", ".join(f"/{name}/image" for name in names)
    for key in ("frames in", "frames out"):
        assert int(whole[key]) == sum(int(rig.said(name)[1][key]) for name in names)
    assert {f"/depthforge/{n}/labels" for n in names} <= topics
    assert not topics & {"/depthforge/semantic", "/depthforge/labels"}


def test_a_slow_camera_beside_a_fast_one_gets_its_frames_served(
    domain: int, tmp_path: Path
) -> None:
    """5 Hz beside 60 Hz, and an engine that is too slow for the fast one."""
    names = ("front", "left")  # slow and fast
    busy = {"short_side_px": 1024, "full_size": False, "max_batch": 1}
    with (
        Rig(domain, names) as rig,
        running_node(domain, tmp_path, checkpoint="instant", cameras=list(names), **busy),
    ):
        rig.spin_until(rig.ready)
        rig.all_served(names)
        started_s = time.monotonic()
        for tick in range(120):
            rig.shoot("left")
            if tick % 12 == 0:
                rig.shoot("front")
            due_s = started_s + (tick + 1) / 60
            rig.spin_until(lambda due_s=due_s: time.monotonic() >= due_s)
        rig.drain()
        del rig.diagnostics[:]
        rig.spin_until(lambda: len(rig.diagnostics) >= 2)
        _, slow = rig.said("front")
        assert slow["frames in"] == slow["frames out"]  # each that came was served
        assert int(slow["frames in"]) >= 6  # of 11, through a best-effort subscription
        assert int(rig.said("left")[1]["dropped: replaced"]) > 0


def test_a_dead_camera_is_told_while_the_others_go_on(domain: int, tmp_path: Path) -> None:
    names = NAMES[:2]
    limits = {"stall_after_s": 0.5, "stall_error_after_s": 2.0, "max_frame_age_s": 0.0}
    with (
        Rig(domain, names) as rig,
        running_node(domain, tmp_path, checkpoint="instant", cameras=list(names), **limits),
    ):
        rig.spin_until(rig.ready)
        rig.all_served(names)
        levels = []

        def reported() -> bool:
            rig.shoot("front")
            rig.drain()
            dead, _ = rig.said("left")
            if dead.message.startswith("input stalled: no image on /left/image for "):
                levels.append(dead.level)
            return levels[-1:] == [ERROR]

        rig.spin_until(reported)
        assert set(levels) == {WARN, ERROR}
        alive, values = rig.said("front")
        assert alive.level == WARN  # because of its checkpoint, and of that alone
        assert alive.message == "checkpoint 'instant': masks mean nothing"
        assert float(values["rate Hz"]) > 0
        assert rig.said("inference")[0].message == alive.message

        def back() -> bool:
            rig.shoot("left")
            rig.drain()
            return rig.said("left")[0].message == alive.message

        rig.spin_until(back)


def test_cameras_are_fixed_from_configure_on(domain: int, tmp_path: Path) -> None:
    with (
        Rig(domain, ("front",)) as rig,
        running_node(domain, tmp_path, checkpoint="instant", autostart=False),
    ):
        assert rig.set(cameras=["a b"]).reason.startswith("cameras has 'a b'; expected letters")
        assert rig.set(cameras=["front"]).successful
        assert rig.change(Transition.TRANSITION_CONFIGURE)
        assert rig.change(Transition.TRANSITION_ACTIVATE)
        rig.all_served(("front",))
        assert rig.set(cameras=["left"]).reason.startswith("'cameras' takes effect in configure")
        assert rig.change(Transition.TRANSITION_DEACTIVATE)
        assert rig.change(Transition.TRANSITION_CLEANUP)
        assert rig.set(cameras=[""]).successful
        assert rig.change(Transition.TRANSITION_CONFIGURE)
        assert rig.change(Transition.TRANSITION_ACTIVATE)
        heard = rig.hear("semantic")
        rig.exchange(image_message(1), heard)
        rig.spin_until(lambda: len(rig.diagnostics[-1].status) == 1)
        rig.wait_for("input topic", "/image")
