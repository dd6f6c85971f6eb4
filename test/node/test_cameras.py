# SPDX-License-Identifier: Apache-2.0
"""Several cameras on one network, over real DDS: whose masks come out, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
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
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image

NAMES = ("front", "left", "right", "rear")
WARN, ERROR = DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Rig(Bench):
    """A bench with several cameras, and the outputs of each."""

    def __init__(
        self, domain: int, names: tuple[str, ...], qos: Mapping[str, QoSProfile] | None = None
    ) -> None:
        """qos: of the images of a camera, where it is not that of a sensor."""
        super().__init__(domain)
        self.cameras = {
            n: self.node.create_publisher(Image, f"/{n}/image", (qos or {}).get(n, SENSOR))
            for n in names
        }
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


@pytest.mark.parametrize("names", [NAMES[:2], NAMES], ids=["two", "four"])
def test_every_mask_has_the_header_of_its_own_cameras_image(
    domain: int, tmp_path: Path, names: tuple[str, ...]
) -> None:
    with Rig(domain, names) as rig:
        infos = rig.subscribe(CameraInfo, "/depthforge/left/camera_info", KEEP)
        with running_node(domain, tmp_path, checkpoint="instant", cameras=list(names)) as node:
            rig.spin_until(rig.ready)
            rig.all_served(names)

            def served() -> bool:
                for name in names:
                    rig.shoot(name)
                rig.drain()
                rated = rig.said("inference")[1]["rate Hz"] != "0.0"
                return rated and all(len(masks) >= 8 for masks in rig.masks.values())

            def settled() -> bool:
                rig.report_from_now()
                said = [rig.said(name)[1] for name in names]
                return all(
                    int(v["frames in"]) == int(v["frames out"]) + sum(drops(v).values())
                    for v in said
                )

            rig.spin_until(served)
            rig.spin_until(settled)
            topics = {name for name, _ in rig.node.get_topic_names_and_types()}
            assert node.end() == 0
            assert "Traceback" not in node.log
    for name in names:
        own = {(h.stamp.sec, h.stamp.nanosec): h for h in rig.sent[name]}
        heard = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in rig.masks[name]]
        assert heard == sorted(set(heard))  # in order, and none twice
        for message in rig.masks[name]:
            assert message.header == own[message.header.stamp.sec, message.header.stamp.nanosec]
            assert (message.width, message.height) == (WIDTH, HEIGHT)
        _, values = rig.said(name)
        assert values["input topic"] == f"/{name}/image"
        assert int(values["frames in"]) >= 8
    assert {info.k[0] for info in infos} == {81.0}  # of the left one
    _, whole = rig.said("inference")
    assert whole["input topic"] == ", ".join(f"/{name}/image" for name in names)
    for key in ("frames in", "frames out"):
        assert int(whole[key]) == sum(int(rig.said(name)[1][key]) for name in names)
    assert {f"/depthforge/{n}/labels" for n in names} <= topics
    assert not topics & {"/depthforge/semantic", "/depthforge/labels"}


def drops(values: dict[str, str]) -> dict[str, int]:
    return {k: int(v) for k, v in values.items() if k.startswith("dropped: ")}


def test_a_slow_camera_beside_a_fast_one_gets_its_frames_served(
    domain: int, tmp_path: Path
) -> None:
    """A fast camera always has an image waiting; the slow one sends when it has its last mask."""
    slow, fast = "front", "left"
    parameters = {
        "cameras": [slow, fast],
        "short_side_px": 1024,
        "full_size": False,
        "max_batch": 1,
        # What is sent once must arrive.
        f"qos_overrides./{slow}/image.subscription.reliability": "reliable",
    }
    with (
        Rig(domain, (slow, fast), qos={slow: QoSProfile(depth=1)}) as rig,
        running_node(domain, tmp_path, checkpoint="instant", **parameters),
    ):
        rig.spin_until(rig.ready)
        rig.all_served((slow, fast))
        masks = rig.masks

        def flooded(enough: Callable[[], bool]) -> bool:
            """Whether there is enough, after two more images of the fast camera."""
            rig.shoot(fast)
            rig.shoot(fast)
            answered = len(masks[fast])
            rig.drain(lambda: enough() or len(masks[fast]) > answered)
            return enough()

        def serve() -> int:
            """One image of the slow camera: masks of later images that came before its own."""
            sent = len(rig.sent[fast])
            rig.shoot(slow)
            expected = rig.sent[slow][-1]

            def overtaken() -> int:
                stamps = [header.stamp for header in rig.sent[fast][sent:]]
                return sum(mask.header.stamp in stamps for mask in masks[fast])

            rig.spin_until(lambda: flooded(lambda: masks[slow][-1].header == expected))
            return overtaken()

        def replaced() -> int:
            return drops(rig.said(fast)[1]).get("dropped: replaced", 0)

        serve()  # whatever was sent before is served or dropped
        rig.report_from_now()
        (_, before), first = rig.said(slow), len(masks[slow])
        overtaken = [serve() for _ in range(6)]
        assert [m.header for m in masks[slow][first:]] == rig.sent[slow][-6:]
        assert max(overtaken) <= 4  # in the engine, in the executor, and on the way to this test
        rig.spin_until(lambda: flooded(lambda: replaced() > 0))
        rig.report_from_now()
        _, after = rig.said(slow)
        assert int(after["frames in"]) == int(before["frames in"]) + 6
        assert int(after["frames out"]) == int(before["frames out"]) + 6
        assert drops(after) == drops(before)


def test_a_dead_camera_is_told_while_the_others_go_on(domain: int, tmp_path: Path) -> None:
    names = NAMES[:2]
    limits = {"stall_after_s": 0.5, "stall_error_after_s": 3600.0, "max_frame_age_s": 0.0}
    with (
        Rig(domain, names) as rig,
        running_node(domain, tmp_path, checkpoint="instant", cameras=list(names), **limits),
    ):
        rig.spin_until(rig.ready)
        rig.all_served(names)
        meaningless = "checkpoint 'instant': masks mean nothing"

        def dead(level: bytes) -> bool:
            """Whether the left one is reported as dead, and nothing else is wrong."""
            rig.shoot("front")
            rig.drain()
            left, _ = rig.said("left")
            alive, values = rig.said("front")
            return (
                left.level == level
                and left.message.startswith("input stalled: no image on /left/image for ")
                and (alive.level, alive.message) == (WARN, meaningless)
                and float(values["rate Hz"]) > 0
                and rig.said("inference")[0].message == meaningless
            )

        rig.spin_until(lambda: dead(WARN))
        assert rig.set(stall_error_after_s=1.0).successful
        rig.spin_until(lambda: dead(ERROR))

        def back() -> bool:
            rig.shoot("left")
            rig.drain()
            return rig.said("left")[0].message == meaningless

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
