# SPDX-License-Identifier: Apache-2.0
"""`depthforge demo` over real DDS: its numbers, its pictures, its folder."""

from __future__ import annotations

import csv
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from dds import own_domain
from paths import TINY_YAML
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from waits import WAIT_S

from depthforge_ros import cli
from depthforge_ros.demo import output, report
from depthforge_ros.demo.drives import HEIGHT_PX, SEED, WIDTH_PX, fingerprint
from depthforge_ros.engine import build_engine
from depthforge_ros.frame import DepthKind, Frame
from depthforge_ros.learning.metrics import Confusion, DepthErrors
from depthforge_ros.pipeline import Pipeline
from depthforge_ros.ros.bags.reader import open_bag
from depthforge_ros.ros.harness.read_recording import pixels
from depthforge_ros.ros.images import stamp_ns
from depthforge_ros.street import StreetDrive
from depthforge_ros.variant import load_variant

TINY = TINY_YAML
LABELS = load_variant("nano").labels
OLD_PAGE = f"an old demo {output.GENERATOR}"


def command(*options: str | Path) -> list[str]:
    fixed = [sys.executable, "-m", "depthforge_ros.cli", "demo", "--domain-id", str(own_domain())]
    return [*fixed, *map(str, options)]


def quick_environment(temporary: Path) -> dict[str, str]:
    temporary.mkdir()
    return {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}


def demo(temporary: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*options),
        env=quick_environment(temporary),
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
        check=False,
    )
    assert not list(temporary.glob("depthforge*"))
    return done


def old_demo(folder: Path) -> Path:
    folder.mkdir()
    (folder / "index.html").write_text(OLD_PAGE)
    (folder / "old_bag").mkdir()
    (folder / "old_bag" / "metadata.yaml").write_text("old")
    return folder


def is_untouched(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return names == {"index.html", "old_bag"} and (folder / "index.html").read_text() == OLD_PAGE


def table(text: str) -> dict[str, dict[str, str]]:
    """The rows of the printed table by drive."""
    lines = [re.split(r"\s{2,}", line) for line in text.splitlines()]
    at = next(i for i, line in enumerate(lines) if line[0] == "drive")
    assert tuple(lines[at]) == report.HEADINGS
    rows = [line for line in lines[at + 1 :] if len(line) == len(report.HEADINGS)]
    return {line[0]: dict(zip(report.HEADINGS, line, strict=True)) for line in rows}


def messages(bag: Path) -> dict[str, list]:
    """Every message by topic."""
    found: dict[str, list] = {}
    classes = {"Image": Image, "CameraInfo": CameraInfo, "String": String}
    with open_bag(bag) as reader:
        for topic, _, raw in reader.messages():
            cls = classes[topic.kind.rpartition("/")[2]]
            found.setdefault(topic.name, []).append(deserialize_message(raw, cls))
    return found


def film(path: Path) -> tuple[int, float, tuple[int, int]]:
    """Frames, frames a second, width and height."""
    video = cv2.VideoCapture(str(path))
    rate_hz = video.get(cv2.CAP_PROP_FPS)
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    height, width = frames[0].shape[:2]
    return len(frames), rate_hz, (width, height)


def test_rendered_drives_are_scored_against_their_exact_truth(tmp_path: Path) -> None:
    out = old_demo(tmp_path / "out")
    options = ("--frames", "3", "--checkpoint", "instant", "--rate", "2", "--out", out)
    done = demo(tmp_path / "tmp", *options)
    assert done.returncode == 0, done.stderr
    files = {
        f"{name}{end}" for name in ("night", "snow") for end in ("_bag", ".csv", ".mp4", ".png")
    }
    assert {p.name for p in out.iterdir()} == {"index.html", "log.txt", "frames", *files}
    assert output.GENERATOR in (out / "index.html").read_text()
    notice = report.NOTICES["instant"]
    assert notice in done.stdout
    assert notice in (out / "index.html").read_text()
    assert report.SCORES in done.stdout
    assert report.SCORES in (out / "index.html").read_text()
    rows = table(done.stdout)
    pipeline = Pipeline(build_engine(load_variant("nano"), "instant"))
    for name in ("night", "snow"):
        drive = StreetDrive(SEED, name, WIDTH_PX, HEIGHT_PX, 3)
        truth = {fingerprint(frame.rgb): frame for frame in drive}
        bag = messages(out / f"{name}_bag")
        masks = {stamp_ns(m.header): pixels(m) for m in bag["/depthforge/semantic"]}
        depths = {stamp_ns(m.header): pixels(m) for m in bag["/depthforge/depth"]}
        confusion, errors = Confusion(len(LABELS)), DepthErrors()
        for image in bag["/camera/image_raw"]:
            rgb, stamp = pixels(image), stamp_ns(image.header)
            if stamp not in masks:  # replaced by a newer one on a machine that is busy
                continue
            focal_px = bag["/camera/camera_info"][0].k[0]
            seen = pipeline(Frame(rgb, focal_px=focal_px))
            np.testing.assert_array_equal(masks[stamp], seen.labels)
            np.testing.assert_allclose(depths[stamp], seen.depth, rtol=1e-5)
            true = truth[fingerprint(rgb)]
            assert focal_px == pytest.approx(true.intrinsics[0, 0], rel=1e-6)
            confusion.add(true.labels, masks[stamp])
            errors.add(true.depth_m, depths[stamp], DepthKind.METRIC)
        row = rows[name]
        assert row["mIoU"] == f"{confusion.mean_iou():.1%}"
        assert row["mIoU (truth)"] == f"{confusion.mean_iou_of_truth():.1%}"
        classes = np.count_nonzero(confusion.counts.sum(1))
        said = f"{name}: mIoU is over {classes} classes, 0 of them in masks only (IoU 0)"
        assert said in done.stdout
        assert row["pixel acc."] == f"{confusion.pixel_accuracy():.1%}"
        assert row["AbsRel"] == f"{errors.scores().abs_rel:.3f}"
        assert (row["Hz"], row["played"], row["wrong headers"]) == ("2", "3", "0")
        dropped = sum(int(count) for count in re.findall(r"(\d+) [a-z_]+", row["dropped"]))
        assert int(row["frames in"]) == int(row["masks"]) + dropped == len(masks) + dropped
        sent = {stamp_ns(m.header): m.header for m in bag["/camera/image_raw"]}
        outputs = ("semantic", "confidence", "depth", "semantic_color", "overlay", "camera_info")
        for topic in outputs:
            assert [stamp_ns(m.header) for m in bag[f"/depthforge/{topic}"]] == list(masks)
            assert all(m.header == sent[stamp_ns(m.header)] for m in bag[f"/depthforge/{topic}"])
        assert "motorcycle" in bag["/depthforge/labels"][0].data
        assert film(out / f"{name}.mp4") == (3, 10.0, (2 * 640, 2 * 384))
        assert cv2.imread(str(out / f"{name}.png")).shape[1] == 3 * 360
        with (out / f"{name}.csv").open(encoding="utf-8") as file:
            figures = {line["image"]: line for line in csv.DictReader(file)}
        assert set(figures) == {"0000.png", "0001.png", "0002.png"}
        answered = [line for line in figures.values() if line["answered"] == "yes"]
        assert len(answered) == len(masks)
        accuracies = [float(line["pixel_accuracy"]) for line in answered]
        assert np.mean(accuracies) == pytest.approx(confusion.pixel_accuracy(), abs=1e-4)
        assert answered[0]["classes"].count("%") >= 1
        assert answered[0]["depth_unit"] == "m"


def turned_jpeg(bgr: np.ndarray) -> bytes:
    """A JPEG whose EXIF says that it is to be turned by 90 degrees to be upright."""
    jpeg = cv2.imencode(".jpg", bgr)[1].tobytes()
    entry = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def test_own_pictures_of_every_kind(tmp_path: Path) -> None:
    images = tmp_path / "my street #1"
    images.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (101, 151, 3), np.uint8)
    cv2.imwrite(str(images / "2.png"), noise)
    cv2.imwrite(str(images / "3.bmp"), noise[:, :40])
    (images / "4.jpg").write_bytes(b"no picture")
    (images / "5.png").write_bytes(b"")
    cv2.imwrite(str(images / "6.png"), noise[:10])
    (images / "10.jpg").write_bytes(turned_jpeg(noise[:60]))
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    out = tmp_path / "out"
    options = ("--variant", TINY, "--checkpoint", "untrained", "--film-rate", "5", "--out", out)
    done = demo(tmp_path / "tmp", "--images", images, *options)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in images.iterdir()} == before
    row = table(done.stdout)["my_street_1"]
    assert (row["played"], row["wrong headers"]) == ("3", "0")
    assert [row[name] for name in report.HEADINGS[-4:]] == ["-"] * 4
    assert report.SCORES not in done.stdout
    assert 0 < float(row["Hz"]) <= 10
    page = (out / "index.html").read_text()
    for said in (
        "4.jpg skipped: no image that OpenCV can read",
        "5.png skipped: no image that OpenCV can read",
        "6.png skipped: image is 151x10",
    ):
        assert said in done.stderr
        assert said in page
    assert report.NOTICES["untrained"] in done.stdout
    assert 'src="my_street_1.mp4"' in page
    bag = messages(out / "my_street_1_bag")
    sizes = [(m.width, m.height) for m in bag["/camera/image_raw"]]
    assert sizes == [(151, 101), (40, 101), (60, 151)]
    np.testing.assert_array_equal(pixels(bag["/camera/image_raw"][0]), noise[..., ::-1])
    sent = {stamp_ns(m.header): (m.width, m.height) for m in bag["/camera/image_raw"]}
    for topic in ("semantic", "inverse_depth"):
        for message in bag[f"/depthforge/{topic}"]:
            assert (message.width, message.height) == sent[stamp_ns(message.header)]
    assert film(out / "my_street_1.mp4") == (3, 5.0, (2 * 640, 2 * 428))
    with (out / "my_street_1.csv").open(encoding="utf-8") as file:
        figures = list(csv.DictReader(file))
    assert [line["image"] for line in figures] == ["2.png", "3.bmp", "10.jpg"]
    answered = [line for line in figures if line["answered"] == "yes"]
    assert answered
    assert all(line["depth_unit"] == "relative inverse" for line in answered)
    assert all(line["mean_iou"] == "" for line in answered)


def test_a_wrong_checkpoint_is_one_line_and_leaves_the_old_demo(tmp_path: Path) -> None:
    out = old_demo(tmp_path / "out")
    done = demo(tmp_path / "tmp", "--checkpoint", tmp_path / "none.safetensors", "--out", out)
    line = f"configure failed: no weights at {tmp_path / 'none.safetensors'}"
    assert (done.returncode, done.stderr) == (1, f"depthforge demo: {line}\n")
    assert is_untouched(out)


def test_a_failed_first_demo_leaves_no_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with output.replacing(tmp_path / "out") as work:
            (work / "night.png").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_demo_left_is_no_obstacle(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with output.replacing(out) as work:
        left = out / f"{work.name}-killed"
        left.mkdir()
        (work / "index.html").write_text(OLD_PAGE)
    (out / "index.html").unlink()
    left.mkdir()
    with output.replacing(out) as work:
        (work / "index.html").write_text("new")
        (work / "frames").mkdir()
    assert {path.name for path in out.iterdir()} == {"index.html", "frames"}
    assert (out / "index.html").read_text() == "new"


@pytest.mark.parametrize(
    ("number", "frames"), [(signal.SIGINT, 4), (signal.SIGTERM, 4), (signal.SIGINT, 400)]
)
def test_an_interrupted_demo_leaves_nothing_behind(
    tmp_path: Path, number: int, frames: int
) -> None:
    out = old_demo(tmp_path / "out")
    options = ("--checkpoint", "instant", "--rate", "0.2", "--out", out)
    process = subprocess.Popen(
        command("--frames", str(frames), *options),
        env=quick_environment(tmp_path / "tmp"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if frames == 4:
        assert process.stdout.readline() == "night: 4 images at 0.2 Hz ...\n"
        time.sleep(1)  # node, player and recorder at work
    else:
        until = time.monotonic() + WAIT_S
        while not list(out.glob(".demo-*/frames/night/*.png")):  # processes that render at work
            assert time.monotonic() < until
            time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as the terminal does
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=WAIT_S)
    assert (process.returncode, errors) == (130, "")
    assert is_untouched(out)
    assert not list((tmp_path / "tmp").glob("depthforge*"))
    until = time.monotonic() + WAIT_S
    with pytest.raises(ProcessLookupError):  # noqa: PT012 - Python's own helpers end a little later
        while time.monotonic() < until:
            os.killpg(process.pid, 0)
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "OUT contains something other than a demo; give another --out"),
        (["--images", "EMPTY"], "EMPTY has no images; expected"),
        (["--images", "NONE"], "NONE does not exist"),
        (["--images", "BROKEN"], "no picture in BROKEN can be used: a.png skipped: no image"),
        (["--images", "OUT"], "OUT is in OUT, which is replaced; give another --out"),
        (["--images", "EMPTY", "--frames", "3"], "--frames is not for your own pictures"),
        (["--fov", "50"], "--fov is not for rendered drives"),
        (["--images", "EMPTY", "--fov", "180"], "--fov is 180.0 degrees; expected 1..179"),
        (["--rate", "nan"], "--rate is nan; expected 0.01..1000"),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], line: str
) -> None:
    folders = {name: tmp_path / name.lower() for name in ("OUT", "EMPTY", "NONE", "BROKEN")}
    for name in ("OUT", "EMPTY", "BROKEN"):
        folders[name].mkdir()
    (folders["BROKEN"] / "a.png").write_bytes(b"broken")
    held = folders["OUT"] / "index.html"
    if not options:
        held.write_text("<html>somebody's page</html>")
    words = [str(folders.get(word, word)) for word in options]
    assert cli.main(["demo", "--out", str(folders["OUT"]), *words]) == 2
    for name, path in folders.items():
        line = line.replace(name, str(path))
    errors = capsys.readouterr().err
    assert errors.startswith(f"depthforge demo: {line}")
    assert errors.count("\n") == 1
    assert list(folders["OUT"].iterdir()) == ([] if options else [held])
