# SPDX-License-Identifier: Apache-2.0
"""`depthforge demo` over real DDS: its numbers, its pictures, its folder."""

from __future__ import annotations

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
from dds import Listener
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String

from depthforge_ros import cli
from depthforge_ros.demo import output, pictures, report
from depthforge_ros.demo.drives import HEIGHT_PX, SEED, WIDTH_PX, fingerprint
from depthforge_ros.engine import build_engine
from depthforge_ros.frame import UNLABELLED, DepthKind, Frame
from depthforge_ros.learning.metrics import Confusion, DepthErrors
from depthforge_ros.pipeline import Pipeline
from depthforge_ros.ros.bags import bag_messages, open_bag, own_topic
from depthforge_ros.ros.graph import Driven
from depthforge_ros.ros.messages import depth_message, mono8_message, rgb8_message, stamp_ns
from depthforge_ros.ros.processes import free_domain
from depthforge_ros.ros.recorder import Counters, Recorded, Recorder
from depthforge_ros.ros.recording import Seen, pixels, recorded
from depthforge_ros.ros.segments import SegmentedBag
from depthforge_ros.street import StreetDrive
from depthforge_ros.variant import load_variant

TINY = Path(__file__).parent / "data/tiny/tiny.yaml"
LABELS = load_variant("nano").labels
OLD_PAGE = f"an old demo {output.GENERATOR}"


def command(*options: str | Path) -> list[str]:
    return [sys.executable, "-m", "depthforge_ros.cli", "demo", *map(str, options)]


def quick_environment(temporary: Path) -> dict[str, str]:
    temporary.mkdir()
    return {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}


def demo(temporary: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*options),
        env=quick_environment(temporary),
        capture_output=True,
        text=True,
        timeout=240,
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
        for connection, _, raw in bag_messages(reader):
            cls = classes[connection.msgtype.rpartition("/")[2]]
            found.setdefault(connection.topic, []).append(deserialize_message(raw, cls))
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
    files = {f"{name}{end}" for name in ("night", "snow") for end in ("_bag", ".mp4", ".png")}
    assert {p.name for p in out.iterdir()} == {"index.html", "log.txt", "frames", *files}
    assert output.GENERATOR in (out / "index.html").read_text()
    notice = report.NOTICES["instant"]
    assert notice in done.stdout
    assert notice in (out / "index.html").read_text()
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
        assert film(out / f"{name}.mp4") == (3, 10.0, (3 * 360, 216))
        assert cv2.imread(str(out / f"{name}.png")).shape[1] == 3 * 360


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
    assert [row[name] for name in ("mIoU", "pixel acc.", "AbsRel")] == ["-", "-", "-"]
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
    assert film(out / "my_street_1.mp4") == (3, 5.0, (3 * 360, 240))


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
    ("number", "everybody"), [(signal.SIGINT, True), (signal.SIGTERM, False)], ids=["^C", "term"]
)
def test_an_interrupted_demo_leaves_nothing_behind(
    tmp_path: Path, number: int, everybody: bool
) -> None:
    out = old_demo(tmp_path / "out")
    process = subprocess.Popen(
        command("--frames", "4", "--checkpoint", "instant", "--rate", "0.2", "--out", out),
        env=quick_environment(tmp_path / "tmp"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "night: 4 images at 0.2 Hz ...\n"
    time.sleep(1)  # node, player and recorder at work
    if everybody:
        os.killpg(process.pid, number)  # as the terminal does
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert is_untouched(out)
    assert not list((tmp_path / "tmp").glob("depthforge*"))
    until = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):  # noqa: PT012 - Python's own helpers end a little later
        while time.monotonic() < until:
            os.killpg(process.pid, 0)
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "OUT holds something else than a demo; give another --out"),
        (["--images", "EMPTY"], "EMPTY has no images; wanted"),
        (["--images", "NONE"], "NONE does not exist"),
        (["--images", "BROKEN"], "no picture in BROKEN can be used: a.png skipped: no image"),
        (["--images", "OUT"], "OUT is in OUT, which is replaced; give another --out"),
        (["--images", "EMPTY", "--frames", "3"], "--frames is not for your own pictures"),
        (["--fov", "50"], "--fov is not for rendered drives"),
        (["--images", "EMPTY", "--fov", "180"], "--fov is 180.0 degrees; wanted 1..179"),
        (["--rate", "nan"], "--rate is nan; wanted 0.01..1000"),
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


def header(stamp: int, frame_id: str = "camera") -> Header:
    made = Header(frame_id=frame_id)
    made.stamp.sec = stamp
    return made


def test_what_did_not_come_back_is_shown_as_missing(tmp_path: Path) -> None:
    rgb = np.full((24, 48, 3), 200, np.uint8)
    labels, depth = np.full((24, 48), 1, np.uint8), np.full((24, 48), 2, np.float32)
    names = ("/image", "/semantic", "/depth")
    topics = [own_topic(name, "sensor_msgs/msg/Image") for name in names]
    with SegmentedBag(
        tmp_path / "bag", topics, job={}, storage="mcap", segment_bytes=1 << 40
    ) as bag:
        for topic, message in (
            ("/image", rgb8_message(header(1), rgb)),
            ("/image", rgb8_message(header(2), rgb)),
            ("/depth", depth_message(header(1), depth)),
            ("/image", rgb8_message(header(3), rgb)),
            ("/semantic", mono8_message(header(1), labels)),
            ("/semantic", mono8_message(header(3), labels)),
            ("/semantic", mono8_message(header(9), labels)),  # its image is not in the bag
        ):
            bag.write(topic, "sensor_msgs/msg/Image", 0, serialize_message(message))
        bag.finish()
    seen = list(recorded(tmp_path / "bag", *names))
    assert [frame.stamp_ns for frame in seen] == [1_000_000_000, 2_000_000_000, 3_000_000_000]
    assert [frame.labels is None for frame in seen] == [False, True, False]
    assert [frame.depth is None for frame in seen] == [False, True, True]
    painter = pictures.Painter(LABELS, DepthKind.METRIC)
    strips = [painter.strip(frame, "") for frame in seen]
    assert [strip.shape for strip in strips] == [(180, 3 * 360, 3)] * 3
    for strip in strips:
        assert (strip[90, 180] == 200).all()
    sidewalk = np.array(LABELS.classes[1].color)
    answered = np.rint(0.35 * 200 + 0.65 * sidewalk)
    assert np.abs(strips[0][90, 540] - answered).max() <= 1
    assert np.abs(strips[2][90, 540] - answered).max() <= 1
    assert not strips[1][90, 540].any()
    assert strips[0][90, 900].any()
    assert not strips[1][90, 900].any()
    assert not strips[2][90, 900].any()
    assert strips[1][:24, 360:].any()  # it says so


def test_pictures_of_other_sizes_are_fitted_into_the_first() -> None:
    painter = pictures.Painter(LABELS, DepthKind.RELATIVE)
    white = np.full((100, 100, 3), 255, np.uint8)
    unlabelled, flat = np.full((100, 100), UNLABELLED, np.uint8), np.ones((100, 100), np.float32)
    first = painter.strip(Seen(1, white[:50], unlabelled[:50], flat[:50]), "")
    tall = painter.strip(Seen(2, white[:, :50], unlabelled[:, :50], flat[:, :50]), "")
    assert first.shape == tall.shape == (180, 3 * 360, 3)
    assert (first[:, :720] == 255).all()
    shown = np.flatnonzero((tall[:, :720] == 255).all((0, 2)))
    assert shown.tolist() == [*range(135, 225), *range(495, 585)]


def test_depth_is_bright_where_near_and_black_where_unknown() -> None:
    depth = np.array([[2, 8, 50, np.inf, np.nan]], np.float32)
    brightness = pictures.depth_picture(depth, DepthKind.METRIC).sum(-1)[0].tolist()
    assert brightness[0] > brightness[1] > brightness[2] > brightness[3] == brightness[4]
    inverse = pictures.depth_picture(1 / depth[:, :3], DepthKind.RELATIVE).sum(-1)[0].tolist()
    assert inverse[0] > inverse[1] > inverse[2]


def test_the_sheet_shows_frames_from_the_whole_drive() -> None:
    sheet = pictures.Sheet(60)
    for index in range(60):
        sheet.offer(np.full((40, 720, 3), index, np.uint8))
    drawn = sheet.drawn(["title"], LABELS)
    rows = drawn[pictures.CAPTION_PX :][: 6 * 40 : 40, 400, 0]
    assert rows.tolist() == [5, 15, 25, 35, 45, 55]


def test_an_output_with_a_header_of_its_own_is_counted() -> None:
    headers = {
        "/camera/image_raw": [b"1", b"3"],
        "/camera/camera_info": [b"1", b"2", b"3"],
        "/depthforge/semantic": [b"1", b"2"],
        "/depthforge/depth": [b"1", b"now"],
    }
    assert Driven(Recorded(headers, {}), Counters()).foreign_headers() == 1


def test_counters_of_one_drive() -> None:
    earlier = Counters(5, 3, 1, {"replaced": 1})
    later = Counters(12, 8, 1, {"replaced": 1, "corrupt_image": 2})
    assert later.since(earlier) == Counters(7, 5, 0, {"corrupt_image": 2})
    assert (earlier.pending, later.pending) == (1, 1)


def test_a_recorder_that_cannot_write_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    domain = free_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setattr(SegmentedBag, "write", no_space)
    with Listener(domain) as camera, Recorder({"/image": Image}, {}) as recorder:
        assert free_domain() != domain
        publisher = camera.node.create_publisher(Image, "/image", 10)

        def failed() -> bool:
            publisher.publish(Image())
            try:
                return recorder.report().state == "active"
            except RuntimeError as error:
                return "OSError: [Errno 28] No space left on device" in str(error)

        with (
            pytest.raises(RuntimeError, match="recording failed"),
            recorder.recording(tmp_path / "bag"),
        ):
            camera.spin_until(failed)
    assert not (tmp_path / "bag").exists()
