# SPDX-License-Identifier: Apache-2.0
"""Every encoding against a conversion written here in numpy, and every way to be no image."""

from __future__ import annotations

import array
import json
import math
import struct
import tracemalloc

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from depthforge_ros.ros import messages
from depthforge_ros.ros.messages import (
    INPUT_ENCODINGS,
    MAX_PIXELS,
    BadImage,
    depth_message,
    focal_px,
    frame_from_compressed,
    frame_from_image,
    labels_message,
    mono8_message,
    rgb8_message,
    scaled_camera_info,
    stamp_ns,
)
from depthforge_ros.variant import load_labels

HEIGHT, WIDTH = 48, 64
BAYER = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}


def header() -> Header:
    made = Header(frame_id="front_optical")
    made.stamp.sec, made.stamp.nanosec = 1_700_000_000, 123_456_789
    return made


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, shape, np.uint8)


def smooth() -> np.ndarray:
    """An image whose channels are different ramps: [H, W, 3] uint8."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([40 + 2 * x, 200 - 2 * y, 60 + x + y], -1).astype(np.uint8)


def image_message(
    rows: np.ndarray,
    encoding: str,
    *,
    height: int = HEIGHT,
    padding: int = 0,
    cut_last: bool = False,
    is_bigendian: bool = False,
) -> Image:
    """A message from rows [rows, bytes] uint8, each followed by `padding` bytes of rubbish."""
    padded = np.concatenate([rows, np.full((len(rows), padding), 0xAB, np.uint8)], 1)
    data = padded.tobytes()
    if cut_last:
        data = data[: len(data) - padding]
    return Image(
        header=header(),
        height=height,
        width=WIDTH,
        encoding=encoding,
        is_bigendian=is_bigendian,
        step=padded.shape[1],
        data=array.array("B", data),
    )


def rgb_of_yuv(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """BT.601, limited range: [H, W, 3] float."""
    luma = 255 / 219 * (y.astype(float) - 16)
    blue, red = u.astype(float) - 128, v.astype(float) - 128
    scale = 255 / 224
    return np.stack(
        [
            luma + scale * 1.402 * red,
            luma - scale * (0.344136 * blue + 0.714136 * red),
            luma + scale * 1.772 * blue,
        ],
        -1,
    ).clip(0, 255)


def packed(encoding: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Rows [rows, bytes] in an encoding, the image they mean, and the tolerance of rounding."""
    rgb, grey, extra = noise(HEIGHT, WIDTH, 3), noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH, 1)
    if encoding in ("rgb8", "bgr8", "rgba8", "bgra8"):
        pixels = rgb if encoding[0] == "r" else rgb[..., ::-1]
        if "a8" in encoding:
            pixels = np.concatenate([pixels, extra], -1)
        return pixels.reshape(HEIGHT, -1), rgb, 0
    if encoding == "mono8":
        return grey, np.stack([grey] * 3, -1), 0
    if encoding == "mono16":  # high byte last: little endian
        return np.stack([extra[..., 0], grey], -1).reshape(HEIGHT, -1), np.stack([grey] * 3, -1), 0
    # Chroma is subsampled, so it varies slowly enough for any way of siting it.
    u, v = noise(HEIGHT // 2, WIDTH // 2), noise(HEIGHT // 2, WIDTH // 2)[::-1]
    y = noise(HEIGHT, WIDTH) // 2 + 60
    if encoding == "nv12":
        expected = rgb_of_yuv(y, *(c.repeat(2, 0).repeat(2, 1) for c in (u, v)))
        return np.concatenate([y, np.stack([u, v], -1).reshape(HEIGHT // 2, WIDTH)]), expected, 2
    u, v = u.repeat(2, 0), v.repeat(2, 0)
    expected = rgb_of_yuv(y, u.repeat(2, 1), v.repeat(2, 1))
    even, odd = y[:, ::2], y[:, 1::2]
    order = (u, even, v, odd) if encoding in ("yuv422", "uyvy") else (even, u, odd, v)
    return np.stack(order, -1).reshape(HEIGHT, -1), expected, 2


@pytest.mark.parametrize("padding", [0, 24])
@pytest.mark.parametrize("encoding", [e for e in INPUT_ENCODINGS if not e.startswith("bayer")])
def test_encodings(encoding: str, padding: int) -> None:
    rows, expected, tolerance = packed(encoding)
    frame = frame_from_image(image_message(rows, encoding, padding=padding))
    assert frame.rgb.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(frame.rgb.astype(float) - expected).max() <= tolerance
    assert (frame.stamp_ns, frame.frame_id) == (1_700_000_000_123_456_789, "front_optical")


@pytest.mark.parametrize("padding", [0, 24])
@pytest.mark.parametrize("pattern", BAYER)
def test_bayer(pattern: str, padding: int) -> None:
    rgb = smooth()
    mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
    for index, letter in enumerate(pattern):
        y, x = divmod(index, 2)
        mosaic[y::2, x::2] = rgb[y::2, x::2, "rgb".index(letter)]
    seen = frame_from_image(image_message(mosaic, f"bayer_{pattern}8", padding=padding)).rgb
    inner = slice(2, -2)
    # What a photosite measured is kept; the rest of a ramp is interpolated to within rounding.
    for index, letter in enumerate(pattern):
        y, x = divmod(index, 2)
        channel = "rgb".index(letter)
        same = seen[y::2, x::2, channel] == rgb[y::2, x::2, channel]
        assert same[1:-1, 1:-1].all()
    assert np.abs(seen[inner, inner].astype(int) - rgb[inner, inner]).max() <= 1


def test_without_cv_bridge_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("mono8", "bayer_rggb8", "bayer_gbrg8"):
        message = image_message(noise(HEIGHT, WIDTH), encoding)
        with_bridge = frame_from_image(message).rgb
        with monkeypatch.context() as patch:
            patch.setattr(messages, "_BRIDGE", None)
            assert (frame_from_image(message).rgb == with_bridge).all()


def test_unpadded_rgb8_is_not_copied() -> None:
    message = image_message(noise(HEIGHT, WIDTH * 3), "rgb8")
    frame = frame_from_image(message)
    assert np.shares_memory(frame.rgb, np.frombuffer(message.data, np.uint8))


def test_big_endian_mono16_keeps_the_high_byte() -> None:
    rows = noise(HEIGHT, WIDTH * 2)
    message = image_message(rows, "mono16", is_bigendian=True)
    assert (frame_from_image(message).rgb == rows[:, 0::2, None]).all()


def test_the_last_row_may_lack_its_padding() -> None:
    rows, expected, _ = packed("bgr8")
    message = image_message(rows, "bgr8", padding=8, cut_last=True)
    assert (frame_from_image(message).rgb == expected).all()


def changed(**values: object) -> Image:
    message = image_message(noise(HEIGHT, WIDTH * 3), "rgb8")
    for name, value in values.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "cause", "text"),
    [
        (changed(width=0), "zero_size", "image is 0x48; expected at least 16"),
        (changed(height=0), "zero_size", "image is 64x0"),
        (changed(width=1, height=1, step=3), "too_small", "image is 1x1; expected at least 16"),
        (changed(width=15, height=40), "too_small", "image is 15x40"),
        (
            changed(width=400, height=40),
            "bad_aspect",
            "400x40; expected an aspect ratio of at most 8",
        ),
        (
            changed(encoding="rgb16"),
            "unknown_encoding",
            "encoding is 'rgb16'; expected one of rgb8,",
        ),
        (changed(encoding=""), "unknown_encoding", "encoding is ''"),
        (changed(step=191), "wrong_step", "step is 191; expected at least 192 for 64 rgb8"),
        (changed(step=0), "wrong_step", "step is 0"),
        (changed(step=2**32 - 1), "short_data", "has 9216 bytes; expected 206158430160"),
        (
            changed(data=array.array("B", bytes(9215))),
            "short_data",
            "has 9215 bytes; expected 9216",
        ),
        (changed(data=array.array("B")), "short_data", "has 0 bytes"),
        (changed(data=array.array("B", bytes(9217))), "long_data", "9217 bytes; expected 9216"),
        (changed(encoding="nv12", height=31), "odd_size", "nv12 image is 64x31; expected even"),
        (changed(encoding="yuv422", width=63), "odd_size", "yuv422 image is 63x48"),
        (changed(width=12_000, height=9_000), "too_large", f"expected at most {MAX_PIXELS} pixels"),
        (changed(width=2**32 - 1, height=2**32 - 1), "too_large", "4294967295x4294967295"),
    ],
)
def test_bad_images_are_refused(message: Image, cause: str, text: str) -> None:
    with pytest.raises(BadImage, match=text) as caught:
        frame_from_image(message)
    assert caught.value.cause == cause


def test_a_huge_header_allocates_nothing() -> None:
    width, height = 10_000, 10_000
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIB", 13, b"IHDR", width, height, 8) + b"IEND"
    tracemalloc.start()
    try:
        with pytest.raises(BadImage, match="10000x10000"):
            frame_from_image(changed(width=width, height=height, step=width * 3))
        with pytest.raises(BadImage, match="10000x10000"):
            frame_from_compressed(compressed_message(png, "png"))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def encoded(image: np.ndarray, suffix: str = ".png", *options: int) -> bytes:
    return cv2.imencode(suffix, image, options)[1].tobytes()


def compressed_message(content: bytes, image_format: str) -> CompressedImage:
    return CompressedImage(header=header(), format=image_format, data=array.array("B", content))


@pytest.mark.parametrize(
    "image_format", ["png", "rgb8; png compressed bgr8", "bgr8; png compressed bgr8", "PNG"]
)
def test_png_is_exact(image_format: str) -> None:
    rgb = noise(HEIGHT, WIDTH, 3)
    frame = frame_from_compressed(compressed_message(encoded(rgb[..., ::-1]), image_format))
    assert (frame.rgb == rgb).all()
    assert (frame.stamp_ns, frame.frame_id) == (1_700_000_000_123_456_789, "front_optical")


@pytest.mark.parametrize("image_format", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8"])
@pytest.mark.parametrize("progressive", [0, 1])
def test_jpeg_keeps_the_order_of_channels(image_format: str, progressive: int) -> None:
    rgb = smooth()
    options = (cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    content = encoded(rgb[..., ::-1], ".jpg", *options)
    seen = frame_from_compressed(compressed_message(content, image_format)).rgb
    assert np.abs(seen.astype(int) - rgb).mean() < 2


def test_channels_stored_the_other_way_round() -> None:
    rgb = noise(HEIGHT, WIDTH, 3)
    message = compressed_message(encoded(rgb), "rgb8; png compressed rgb8")
    assert (frame_from_compressed(message).rgb == rgb).all()


def test_a_compressed_bayer_mosaic_is_the_raw_one() -> None:
    mosaic = noise(HEIGHT, WIDTH)
    raw = frame_from_image(image_message(mosaic, "bayer_grbg8")).rgb
    message = compressed_message(encoded(mosaic), "bayer_grbg8; png compressed ")
    assert (frame_from_compressed(message).rgb == raw).all()


def test_compressed_grey_and_16_bit() -> None:
    grey = noise(HEIGHT, WIDTH)
    frame = frame_from_compressed(compressed_message(encoded(grey), "mono8; png compressed "))
    assert (frame.rgb == grey[..., None]).all()
    deep = grey.astype(np.uint16) * 256 + 17
    frame = frame_from_compressed(compressed_message(encoded(deep), "mono16; png compressed "))
    assert np.abs(frame.rgb.astype(int) - grey[..., None]).max() <= 1


def test_exif_rotation_is_ignored() -> None:
    # Orientation 6 would turn the image by 90 degrees, and the intrinsics with it.
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + tiff
    jpeg = encoded(smooth(), ".jpg")
    rotated = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    turned = cv2.imdecode(np.frombuffer(rotated, np.uint8), cv2.IMREAD_COLOR)
    assert turned.shape[:2] == (WIDTH, HEIGHT)  # OpenCV does see the tag
    frame = frame_from_compressed(compressed_message(rotated, "jpeg"))
    assert frame.rgb.shape[:2] == (HEIGHT, WIDTH)


def broken(kind: str) -> tuple[bytes, str]:
    """A broken file and its format."""
    jpeg, png = encoded(noise(HEIGHT, WIDTH, 3), ".jpg"), encoded(noise(HEIGHT, WIDTH, 3))
    middle = len(png) // 2
    return {
        "empty": (b"", "jpeg"),
        "text": (b"no image at all", "jpeg"),
        "jpeg magic only": (jpeg[:2], "jpeg"),
        "jpeg head only": (jpeg[:200], "jpeg"),
        "truncated jpeg": (jpeg[: len(jpeg) // 2], "rgb8; jpeg compressed bgr8"),
        "jpeg without its last byte": (jpeg[:-1], "jpeg"),
        "png head only": (png[:30], "png"),
        "truncated png": (png[:middle], "png"),
        "corrupt png": (png[:middle] + bytes(64) + png[middle + 64 :], "png"),
        "png of another size": (png[:16] + struct.pack(">I", 32) + png[20:], "png"),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "text",
        "jpeg magic only",
        "jpeg head only",
        "truncated jpeg",
        "jpeg without its last byte",
        "png head only",
        "truncated png",
        "corrupt png",
        "png of another size",
    ],
)
def test_broken_files_are_refused(kind: str) -> None:
    content, image_format = broken(kind)
    with pytest.raises(BadImage) as caught:
        frame_from_compressed(compressed_message(content, image_format))
    assert caught.value.cause == "corrupt_image"


def test_any_cut_of_a_file_is_refused_or_whole() -> None:
    for content, image_format in ((encoded(smooth(), ".jpg"), "jpeg"), (encoded(smooth()), "png")):
        for end in range(len(content)):
            with pytest.raises(BadImage):
                frame_from_compressed(compressed_message(content[:end], image_format))


@pytest.mark.parametrize(
    "image_format", ["h264", "", "16UC1; compressedDepth png", "bayer_rggb16; png compressed "]
)
def test_other_formats_are_named(image_format: str) -> None:
    with pytest.raises(BadImage, match=f"format is '{image_format}'; expected") as caught:
        frame_from_compressed(compressed_message(encoded(noise(HEIGHT, WIDTH)), image_format))
    assert caught.value.cause == "unknown_encoding"


def test_compressed_images_have_the_same_bounds() -> None:
    for shape, cause in (((1, 1), "too_small"), ((16, 200), "bad_aspect")):
        with pytest.raises(BadImage) as caught:
            frame_from_compressed(compressed_message(encoded(noise(*shape)), "png"))
        assert caught.value.cause == cause


def test_outputs_are_packed_as_their_encoding_says() -> None:
    given = header()
    labels, rgb = noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH, 3)
    depth = np.linspace(-3, 90, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    depth[0, :2] = np.nan, np.inf
    for message, encoding, step, content in (
        (mono8_message(given, labels), "mono8", WIDTH, labels.tobytes()),
        (depth_message(given, depth), "32FC1", 4 * WIDTH, depth.astype("<f4").tobytes()),
        (rgb8_message(given, rgb), "rgb8", 3 * WIDTH, rgb.tobytes()),
        (mono8_message(given, labels[:, ::2]), "mono8", WIDTH // 2, labels[:, ::2].tobytes()),
    ):
        assert message.header is given
        assert (message.encoding, message.step, message.is_bigendian) == (encoding, step, 0)
        assert message.height == HEIGHT
        assert message.data.tobytes() == content
    with pytest.raises(
        ValueError, match=r"32FC1 image is \[48, 64\] uint8; expected \[H, W\] float32"
    ):
        depth_message(given, labels)
    with pytest.raises(ValueError, match=r"rgb8 image is \[48, 64\] uint8; expected \[H, W, 3\]"):
        rgb8_message(given, labels)


def camera_info(**values: object) -> CameraInfo:
    return CameraInfo(
        header=header(),
        width=640,
        height=480,
        distortion_model="plumb_bob",
        d=[0.1, -0.2, 0.001, 0.002, 0.05],
        k=[500.0, 0.0, 310.0, 0.0, 520.0, 250.0, 0.0, 0.0, 1.0],
        r=[0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        p=[490.0, 0.0, 311.0, -49.0, 0.0, 510.0, 251.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        **values,
    )


def bearing(info: CameraInfo, u: float, v: float) -> np.ndarray:
    """The direction that the corner-based image coordinates u, v in 0..1 look at, by K."""
    k = np.reshape(info.k, (3, 3))
    return np.linalg.solve(k, [u * info.width - 0.5, v * info.height - 0.5, 1.0])


@pytest.mark.parametrize(("width", "height"), [(640, 480), (320, 240), (1280, 320), (100, 75)])
def test_a_scaled_camera_looks_the_same_way(width: int, height: int) -> None:
    info = camera_info()
    scaled = scaled_camera_info(info, width, height)
    assert (scaled.width, scaled.height) == (width, height)
    for u, v in ((0, 0), (1, 1), (0.3, 0.8)):
        np.testing.assert_allclose(bearing(scaled, u, v), bearing(info, u, v), atol=1e-12)
    x, y = width / 640, height / 480
    np.testing.assert_allclose(
        scaled.p,
        [490 * x, 0, 311.5 * x - 0.5, -49 * x, 0, 510 * y, 251.5 * y - 0.5, 0, 0, 0, 1, 0],
    )
    assert scaled.header is info.header
    assert (list(scaled.d), list(scaled.r)) == (list(info.d), list(info.r))
    assert scaled.distortion_model == "plumb_bob"


def test_region_and_binning_are_applied_once() -> None:
    roi = RegionOfInterest(x_offset=100, y_offset=40, width=320, height=240, do_rectify=True)
    info = camera_info(roi=roi, binning_x=2, binning_y=2)
    scaled = scaled_camera_info(info, 160, 120)  # the size of the image that comes with it
    np.testing.assert_allclose(
        scaled.k, [250, 0, (310 - 100 + 0.5) / 2 - 0.5, 0, 260, (250 - 40 + 0.5) / 2 - 0.5, 0, 0, 1]
    )
    assert (scaled.binning_x, scaled.roi.width, scaled.roi.x_offset) == (0, 0, 0)
    assert scaled.roi.do_rectify
    assert (info.width, info.binning_x, info.k[2]) == (640, 2, 310.0)


def test_an_uncalibrated_camera_stays_so() -> None:
    info = CameraInfo(width=640, height=480)
    scaled = scaled_camera_info(info, 320, 240)
    assert not np.any(scaled.k)
    assert not np.any(scaled.p)
    assert focal_px(info) is None


def test_the_focal_length_is_that_of_the_image() -> None:
    assert focal_px(camera_info()) == 500
    assert focal_px(camera_info(binning_x=2)) == 250
    for fx in (0.0, -500.0, math.inf, math.nan):
        info = camera_info()
        info.k[0] = fx
        assert focal_px(info) is None


@pytest.mark.parametrize("size", [(0, 10), (10, 0)])
def test_no_scale_is_an_error(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be scaled"):
        scaled_camera_info(camera_info(), *size)
    with pytest.raises(ValueError, match="camera_info of 0x0"):
        scaled_camera_info(CameraInfo(), 10, 10)


def test_labels_are_json_that_a_planner_can_read() -> None:
    labels = load_labels("cityscapes")
    content = json.loads(labels_message(labels).data)
    assert (content["name"], content["unlabelled"]) == ("cityscapes", 255)
    assert content["classes"][0] == {"id": 0, "name": "road", "color": [128, 64, 128]}
    assert [entry["id"] for entry in content["classes"]] == list(range(19))


def test_stamps_are_nanoseconds() -> None:
    assert stamp_ns(header()) == 1_700_000_000_123_456_789
