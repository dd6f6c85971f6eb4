# SPDX-License-Identifier: Apache-2.0
"""`depthforge play` of a folder of images: stamps, bytes and counts as they arrive over DDS."""

from __future__ import annotations

import math
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from dds import Listener, environment, own_domain
from players import (
    BEST_EFFORT,
    MANY,
    WAIT_SURELY,
    bag_of,
    command,
    play_to_the_end,
    stamp_ns_of,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from waits import WAIT_S

from depthforge_ros import cli
from depthforge_ros.ros.images import frame_from_compressed, stamp_ns


def picture(index: int) -> np.ndarray:
    """RGB [24, 40, 3] uint8."""
    return np.random.default_rng(index).integers(0, 256, (24, 40, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """1.png, 2.bmp, 10.jpg and what is no image."""
    path = tmp_path / "images"
    path.mkdir()
    for index, name in enumerate(("1.png", "2.bmp", "10.jpg")):
        cv2.imwrite(str(path / name), picture(index)[..., ::-1])
    (path / "notes.txt").write_text("not an image and not meant to be one")
    (path / ".hidden.png").write_bytes(b"")
    return path


def test_a_folder_reaches_a_best_effort_subscriber(folder: Path) -> None:
    (folder / "3.png").write_bytes((folder / "1.png").read_bytes()[:60])
    domain = own_domain()
    with Listener(domain) as listener:
        images = listener.subscribe(Image, "/camera/image_raw", BEST_EFFORT)
        before_ns = time.time_ns()
        options = ("--rate", "20", *WAIT_SURELY)
        out, errors = play_to_the_end(listener, domain, folder, *options, status=3)
    assert len(images) == 3
    for message, index in zip(images[:2], (0, 1), strict=True):
        assert message.data.tobytes() == picture(index).tobytes()
    jpeg = cv2.imread(str(folder / "10.jpg"))[..., ::-1]
    assert images[2].data.tobytes() == jpeg.tobytes()
    for message in images:
        assert (message.encoding, message.width, message.height) == ("rgb8", 40, 24)
        assert message.header.frame_id == "camera"
    stamps = [stamp_ns(message.header) for message in images]
    assert before_ns < stamps[0] < stamps[1] < stamps[2] < time.time_ns()
    assert f"{folder / '3.png'} is no image that OpenCV can read; skipped" in errors
    assert "published 3 messages" in out
    assert "/camera/image_raw 3), skipped 1" in out


def test_a_folder_compressed_with_camera_info(folder: Path) -> None:
    domain = own_domain()
    with Listener(domain) as listener:
        images = listener.subscribe(CompressedImage, "/front/image/compressed", MANY)
        infos = listener.subscribe(CameraInfo, "/front/camera_info", MANY)
        options = ("--topic", "/front/image", "--frame-id", "front", "--fov", "90")
        play_to_the_end(
            listener, domain, folder, "--compressed", *options, "--wait-for-subscribers", "2"
        )
    assert [message.format for message in images] == ["png", "jpeg", "jpeg"]
    for message, name in ((images[0], "1.png"), (images[2], "10.jpg")):
        assert message.data.tobytes() == (folder / name).read_bytes()
    assert frame_from_compressed(images[1]).rgb.shape == (24, 40, 3)
    assert [m.header for m in infos] == [m.header for m in images]
    for message in infos:
        assert (message.width, message.height, message.header.frame_id) == (40, 24, "front")
        focal_px = 20 / math.tan(math.radians(45))
        np.testing.assert_allclose(message.k, [focal_px, 0, 19.5, 0, focal_px, 11.5, 0, 0, 1])
        np.testing.assert_allclose(
            message.p, [focal_px, 0, 19.5, 0, 0, focal_px, 11.5, 0, 0, 0, 1, 0]
        )
        assert list(message.d) == [0] * 5


def test_a_folder_with_its_clock_is_stamped_by_it(folder: Path) -> None:
    (folder / "3.png").write_bytes(b"broken")  # leaves its place empty
    domain = own_domain()
    with Listener(domain) as listener:
        images = listener.subscribe(Image, "/camera/image_raw", MANY)
        clock = listener.subscribe(Clock, "/clock", MANY)
        options = ("--rate", "8", "--clock", "40", "--wait-for-subscribers", "2", *WAIT_SURELY)
        play_to_the_end(listener, domain, folder, *options, status=3)
    stamps = [stamp_ns(message.header) for message in images]
    assert np.diff(stamps).tolist() == [125_000_000, 250_000_000]
    ticks = [stamp_ns_of(message) for message in clock]
    assert np.diff(ticks).tolist() == [25_000_000] * (len(ticks) - 1)
    assert ticks[0] == stamps[0]
    assert ticks[-1] == stamps[0] + 500_000_000  # the last image lasts as long as the others


def test_a_node_that_does_not_come(folder: Path, tmp_path: Path) -> None:
    def reported(path: Path, *options: str) -> str:
        env = environment(own_domain())
        words = command(path, "--wait-for-node", "/front/depthforge", *options)
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == 2
        return done.stderr

    assert (
        "node /front/depthforge has not subscribed to /camera/image_raw within 0.2 s; "
        "subscribed: nobody" in reported(folder, "--timeout", "0.2")
    )
    bag = bag_of(tmp_path, "mcap")
    assert "there are none to publish" in reported(bag, "--topics", "/latched")


def test_subscribers_that_do_not_come(folder: Path) -> None:
    done = subprocess.run(
        command(folder, "--wait-for-subscribers", "2", "--timeout", "0.2"),
        env=environment(own_domain()),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 2
    assert "0 of 2 subscriptions within 0.2 s: /camera/image_raw 0" in done.stderr


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--speed", "2"], "is a folder; --speed is not for it"),
        (["--stamps", "original", "--topics", "/a"], "is a folder; --topics, --stamps is not"),
        (["--rate", "0"], "--rate is 0.0; expected a number above 0"),
        (["--rate", "nan"], "--rate is nan"),
        (["--clock", "-1"], "--clock is -1.0"),
        (["--fov", "180"], "fov is 180.0 degrees; expected 1..179"),
        (["--wait-for-subscribers", "-1"], "--wait-for-subscribers is -1; expected 0 or more"),
        (
            ["--wait-for-node", "depthforge"],
            "--wait-for-node is 'depthforge'; expected a name from",
        ),
    ],
)
def test_wrong_options_for_a_folder(
    folder: Path, options: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["play", str(folder), *options]) == 2
    assert error in capsys.readouterr().err


def test_places_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("")
    for path, error in (
        (tmp_path, "has no images; expected .avif"),
        (tmp_path / "none", "does not exist"),
        (tmp_path / "a.txt", "is no bag"),
    ):
        assert cli.main(["play", str(path)]) == 2
        assert error in capsys.readouterr().err
