# SPDX-License-Identifier: Apache-2.0
"""A node that is killed, ended or fed with rubbish: each test starts a process of its own."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bagfiles import START_NS, image, info, recorded, write_bag
from dds import environment, own_domain
from fuzz import camera_infos, compressed_images, images
from hypothesis import HealthCheck, Phase, given, settings
from lifecycle_msgs.msg import Transition
from nodes import Bench, camera_info_message, image_message, running_node
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

PERIOD_NS = 40_000_000
REMAPS = ("image:=/front/image_raw", "camera_info:=/front/camera_info")


def test_a_node_killed_in_mid_bag_is_replaced_by_the_next_one(tmp_path: Path) -> None:
    domain = own_domain()
    messages, headers = [], []
    for index in range(25):
        stamp_ns = START_NS + index * PERIOD_NS
        messages.append(recorded("/front/image_raw", stamp_ns, image(index, stamp_ns)))
        messages.append(recorded("/front/camera_info", stamp_ns, info(stamp_ns)))
        headers.append(image(index, stamp_ns).header)
    bag = write_bag(tmp_path / "bag", messages)
    play = [sys.executable, "-m", "depthforge_ros.cli", "play", str(bag), "--loop"]
    with Bench(domain) as bench:
        heard, depths = bench.hear("semantic"), bench.hear("depth")
        player = subprocess.Popen(play, env=environment(domain), stdout=subprocess.DEVNULL)
        try:
            for life in range(2):
                folder = tmp_path / str(life)
                folder.mkdir()
                counts = len(heard), len(depths)
                with running_node(domain, folder, *REMAPS, checkpoint="instant") as node:
                    bench.spin_until(
                        lambda counts=counts: (
                            len(heard) > counts[0] + 4 and len(depths) > counts[1] + 4
                        )
                    )
                    if life == 0:
                        node.process.kill()
                        assert node.process.wait() == -signal.SIGKILL
                        bench.drain()
                    else:
                        assert node.end() == 0
            assert player.poll() is None
        finally:
            player.kill()
            player.wait()
    assert all(message.header in headers for message in heard + depths)


BUSY = """
import sys, time
from depthforge_ros.engine.fake import FakeEngine
from depthforge_ros.pipeline import Pipeline
from depthforge_ros.ros.node import node, process
from depthforge_ros.variant import load_variant

class Busy(FakeEngine):
    def __call__(self, crops, *, depth):
        time.sleep({seconds})
        return super().__call__(crops, depth=depth)

node.load_pipeline = lambda *_: Pipeline(Busy(load_variant("nano")))
node.JOIN_TIMEOUT_S = 1.5
sys.exit(process.main())
"""


def test_a_signal_during_inference_ends_the_process_in_order(tmp_path: Path) -> None:
    """Also where the engine hangs, as a driver may, and never comes back."""
    with ExitStack() as stack:
        nodes = []
        for number, seconds in ((signal.SIGINT, 1.0), (signal.SIGTERM, 1e6)):
            domain = own_domain()
            folder = tmp_path / str(number)
            folder.mkdir()
            program = ("-c", BUSY.format(seconds=seconds))
            bench = stack.enter_context(Bench(domain))
            heard = bench.hear("semantic")
            node = stack.enter_context(
                running_node(domain, folder, program=program, max_inference_s=0.2)
            )
            nodes.append((number, bench, heard, node))
        for number, bench, heard, node in nodes:
            bench.wait_for("state", "active")
            indices = itertools.count(1)

            def stalled(bench: Bench = bench, indices: Iterator[int] = indices) -> bool:
                bench.send(image_message(next(indices)))  # one after the other: it is never idle
                return "inference stalled" in bench.status().message

            bench.spin_until(stalled)
            assert node.end(number) == 0
            assert "Traceback" not in node.log
            bench.drain()
            sent = {1_700_000_000 + index for index in range(1, next(indices))}
            assert {message.header.stamp.sec for message in heard} <= sent


# The same messages in every run; each one is sent once, whatever comes of it.
rubbish = settings(
    max_examples=333,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
RELIABLE = QoSProfile(depth=2000)


def test_a_thousand_rubbish_messages_are_counted_drops_and_nothing_else(tmp_path: Path) -> None:
    """Over DDS as they are, then with bytes of their serialization changed."""
    domain = own_domain()
    reliable = {
        f"qos_overrides./{topic}.subscription.{name}": value
        for topic in ("image", "image/compressed", "camera_info")
        for name, value in (("reliability", "reliable"), ("depth", 2000))
    }
    with (
        Bench(domain) as bench,
        running_node(domain, tmp_path, checkpoint="instant", **reliable) as node,
    ):
        bench.image = bench.node.create_publisher(Image, "/image", RELIABLE)
        bench.compressed = bench.node.create_publisher(
            CompressedImage, "/image/compressed", RELIABLE
        )
        bench.camera_info = bench.node.create_publisher(CameraInfo, "/camera_info", RELIABLE)
        heard = {name: bench.hear(name) for name in ("semantic", "depth", "overlay")}
        infos = bench.hear("camera_info", CameraInfo)
        clouds = bench.hear("points", PointCloud2)
        bench.wait_for("state", "active")
        stream, sent = itertools.count(1), itertools.count()

        def send(message: Image | CompressedImage) -> None:
            """With a stamp after the ones before it: most of a camera's clock goes right."""
            if message.header.stamp.sec > 1_600_000_000:
                message.header.stamp.sec = 1_700_000_000 + next(stream)
            bench.send(message)
            if next(sent) % 3 == 0:  # so that a good part of them is looked at and not replaced
                bench.state()

        @rubbish
        @given(images())
        def send_images(message: Image) -> None:
            send(message)

        @rubbish
        @given(camera_infos())
        def send_camera_infos(message: CameraInfo) -> None:
            bench.send(message)
            fitting = image_message(0)
            fitting.header.frame_id = message.header.frame_id
            send(fitting)

        @rubbish
        @given(compressed_images())
        def send_compressed(message: CompressedImage) -> None:
            send(message)

        def settled(sent: int) -> dict[str, int]:
            """The counters once all have come and each has gone out or is a drop."""

            def reported() -> dict[str, int]:
                values = bench.values()
                names = [n for n in values if n.startswith(("frames ", "dropped: "))]
                return {name: int(values[name]) for name in names}

            def adds_up() -> bool:
                found = reported()
                return found["frames in"] >= sent and 2 * found["frames in"] == sum(found.values())

            bench.spin_until(adds_up)
            assert reported()["frames in"] == sent
            return reported()

        bench.spin_until(lambda: bench.image.get_subscription_count() == 1)
        bench.spin_until(lambda: bench.camera_info.get_subscription_count() == 1)
        send_images()
        send_camera_infos()
        counted = settled(666)
        assert {"dropped: short_data", "dropped: unknown_encoding"} <= set(counted)
        assert "dropped: inference_error" not in counted

        assert bench.change(Transition.TRANSITION_DEACTIVATE)
        assert bench.change(Transition.TRANSITION_CLEANUP)
        assert bench.set(image_transport="compressed").successful
        assert bench.change(Transition.TRANSITION_CONFIGURE)
        assert bench.change(Transition.TRANSITION_ACTIVATE)
        bench.spin_until(lambda: bench.compressed.get_subscription_count() == 1)
        send_compressed()
        counted = settled(999)
        assert "dropped: corrupt_image" in counted
        assert "dropped: inference_error" not in counted
        bench.spin_until(lambda: all(heard.values()) and bool(infos) and bool(clouds))

        # What cannot be read as a message at all is for the middleware to drop.
        chance = random.Random(0)
        picture = CompressedImage(header=image_message(1).header, format="png")
        for message, publisher in (
            (camera_info_message(), bench.camera_info),
            (picture, bench.compressed),
        ):
            raw = bytes(serialize_message(message))
            for _ in range(150):
                spoilt = bytearray(raw)
                for _ in range(chance.choice([1, 2, 8])):
                    spoilt[chance.randrange(len(raw))] = chance.randrange(256)
                publisher.publish(bytes(spoilt[: chance.choice([len(raw), len(raw) // 2])]))
        bench.report_from_now()
        assert bench.values()["state"] == "active"
        assert node.end() == 0
        assert "Traceback" not in node.log
