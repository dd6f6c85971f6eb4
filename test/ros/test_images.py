# SPDX-License-Identifier: Apache-2.0
"""Every encoding against a conversion written here in numpy, and every way to be no image."""

from __future__ import annotations

import array
from collections.abc import Callable

import numpy as np
import pytest
from image_messages import HEIGHT, WIDTH, header, image_message, noise, smooth
from sensor_msgs.msg import Image

from depthforge_ros.ros import images
from depthforge_ros.ros.images import (
    INPUT_ENCODINGS,
    MAX_PIXELS,
    BadImage,
    ImageReader,
    frame_from_image,
    stamp_ns,
)

BAYER = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}


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


INTERLEAVED = {"rgb": "rgb", "bgr": "bgr", "rgba": "rgbx", "bgra": "bgrx", "mono": "m"}
INTERLEAVED |= {"8UC1": "m", "8UC3": "bgr", "8UC4": "bgrx"}
INTERLEAVED |= {"16UC1": "m", "16UC3": "bgr", "16UC4": "bgrx"}


def packed(encoding: str) -> tuple[list[np.ndarray], np.ndarray, float]:
    """Rows [rows, bytes] of each plane in an encoding, the image they mean, and a tolerance.

    The tolerance is that of rounding: 8 bits of 16 and the order of channels are exact.
    """
    rgb, grey, extra = noise(HEIGHT, WIDTH, 3), noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH, 1)
    name = encoding if encoding[0].isdigit() else encoding.rstrip("0123456789")
    if name in INTERLEAVED:
        values = dict(zip("rgb", np.moveaxis(rgb, -1, 0), strict=True), m=grey, x=extra[..., 0])
        pixels = np.stack([values[letter] for letter in INTERLEAVED[name]], -1)  # [H, W, channels]
        if "16" in encoding:  # little endian: the high byte last, anything in the low one
            pixels = np.stack([np.broadcast_to(extra, pixels.shape), pixels], -1)
        expected = np.stack([grey] * 3, -1) if INTERLEAVED[name] == "m" else rgb
        return [pixels.reshape(HEIGHT, -1)], expected, 0
    y = noise(HEIGHT, WIDTH) // 2 + 60
    if encoding in ("nv24", "nv42"):  # a chroma sample for every pixel
        u, v = noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH)[::-1]
        pairs = np.stack([u, v] if encoding == "nv24" else [v, u], -1)
        return [y, pairs.reshape(HEIGHT, -1)], rgb_of_yuv(y, u, v), 1
    # Chroma is subsampled: the same value for all pixels that share it, however it is sited.
    u, v = noise(HEIGHT // 2, WIDTH // 2), noise(HEIGHT // 2, WIDTH // 2)[::-1]
    expected = rgb_of_yuv(y, *(c.repeat(2, 0).repeat(2, 1) for c in (u, v)))
    if encoding in ("nv12", "nv21"):
        pairs = np.stack([u, v] if encoding == "nv12" else [v, u], -1)
        return [y, pairs.reshape(HEIGHT // 2, WIDTH)], expected, 2
    if encoding in ("i420", "yuv420", "yv12"):
        return [y, v, u] if encoding == "yv12" else [y, u, v], expected, 2
    u, v = u.repeat(2, 0), v.repeat(2, 0)
    even, odd = y[:, ::2], y[:, 1::2]
    order = (u, even, v, odd) if encoding in ("yuv422", "uyvy") else (even, u, odd, v)
    return [np.stack(order, -1).reshape(HEIGHT, -1)], expected, 2


def planes_message(planes: list[np.ndarray], encoding: str, padding: int) -> Image:
    """A message of planes whose rows are padded in proportion to their length."""
    message = image_message(planes[0], encoding, padding=padding)
    for plane in planes[1:]:
        rubbish = np.full((len(plane), padding * plane.shape[1] // planes[0].shape[1]), 0xAB)
        message.data.frombytes(np.hstack([plane, rubbish]).astype(np.uint8).tobytes())
    return message


@pytest.mark.parametrize("padding", [0, 24])
@pytest.mark.parametrize("encoding", [e for e in INPUT_ENCODINGS if not e.startswith("bayer")])
def test_encodings(
    encoding: str, padding: int, record_property: Callable[[str, object], None]
) -> None:
    planes, expected, tolerance = packed(encoding)
    frame = frame_from_image(planes_message(planes, encoding, padding))
    assert frame.rgb.shape == (HEIGHT, WIDTH, 3)
    error = np.abs(frame.rgb.astype(float) - expected).max()
    record_property("largest error", f"{error:.2f}")
    assert error <= tolerance
    assert (frame.stamp_ns, frame.frame_id) == (1_700_000_000_123_456_789, "front_optical")
    # The last row of a message may lack its padding.
    cut = planes_message(planes, encoding, padding)
    last = padding * planes[-1].shape[1] // planes[0].shape[1]
    del cut.data[len(cut.data) - last :]
    assert (frame_from_image(cut).rgb == frame.rgb).all()


@pytest.mark.parametrize("padding", [0, 24])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", BAYER)
def test_bayer(pattern: str, bits: int, padding: int) -> None:
    rgb = smooth()
    mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
    for index, letter in enumerate(pattern):
        y, x = divmod(index, 2)
        mosaic[y::2, x::2] = rgb[y::2, x::2, "rgb".index(letter)]
    rows = mosaic if bits == 8 else (mosaic.astype("<u2") * 257).view(np.uint8)
    seen = frame_from_image(image_message(rows, f"bayer_{pattern}{bits}", padding=padding)).rgb
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
            patch.setattr(images, "_BRIDGE", None)
            assert (frame_from_image(message).rgb == with_bridge).all()


def test_unpadded_rgb8_is_not_copied() -> None:
    message = image_message(noise(HEIGHT, WIDTH * 3), "rgb8")
    frame = frame_from_image(message)
    assert np.shares_memory(frame.rgb, np.frombuffer(message.data, np.uint8))


def test_big_endian_mono16_keeps_the_high_byte() -> None:
    rows = noise(HEIGHT, WIDTH * 2)
    message = image_message(rows, "mono16", is_bigendian=True)
    assert (frame_from_image(message).rgb == rows[:, 0::2, None]).all()


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "rgb16", "bayer_grbg16"])
def test_samples_of_fewer_bits_are_scaled_by_what_the_camera_sends(
    encoding: str, bits: int
) -> None:
    eight = noise(HEIGHT, WIDTH * (3 if encoding == "rgb16" else 1))
    eight[0, 0] = 255
    low = noise(*eight.shape).astype(np.uint16) & (2 ** (bits - 8) - 1)
    samples = (eight.astype(np.uint16) << (bits - 8)) | low
    name = encoding.replace("16", "8", 1) if encoding != "16UC1" else "mono8"
    expected = frame_from_image(image_message(eight, name)).rgb
    message = image_message(samples.astype("<u2").view(np.uint8), encoding)
    reader = ImageReader()
    assert (reader(message).rgb == expected).all()
    assert reader.sample_bits == bits
    swapped = image_message(samples.astype(">u2").view(np.uint8), encoding, is_bigendian=True)
    assert (ImageReader()(swapped, sample_bits=bits).rgb == expected).all()


def test_the_scale_of_samples_only_grows_until_the_camera_starts_anew() -> None:
    def grey_of(value: int) -> int:
        rows = np.full((HEIGHT, WIDTH), value, "<u2").view(np.uint8)
        return int(reader(image_message(rows, "mono16")).rgb[0, 0, 0])

    reader = ImageReader()
    assert [grey_of(v) for v in (512, 1023, 2048, 512, 16_000, 512)] == [128, 255, 128, 32, 250, 8]
    reader.restart()
    assert grey_of(512) == 128


def test_samples_beyond_the_given_bits_are_white() -> None:
    rows = np.full((HEIGHT, WIDTH), 5000, "<u2").view(np.uint8)
    assert (ImageReader()(image_message(rows, "mono16"), sample_bits=10).rgb == 255).all()


def test_a_given_encoding_overrides_the_messages() -> None:
    reader = ImageReader()
    planes, expected, tolerance = packed("yuyv")
    mislabelled = image_message(planes[0], "8UC2")
    assert np.abs(reader(mislabelled, "yuyv").rgb.astype(float) - expected).max() <= tolerance
    rgb = noise(HEIGHT, WIDTH, 3)
    assert (reader(image_message(rgb.reshape(HEIGHT, -1), "bgr8"), "rgb8").rgb == rgb).all()
    mosaic = noise(HEIGHT, WIDTH)
    bayer = frame_from_image(image_message(mosaic, "bayer_gbrg8")).rgb
    assert (reader(image_message(mosaic, "mono8"), "bayer_gbrg8").rgb == bayer).all()
    with pytest.raises(BadImage, match="encoding is 'rgb24'; expected one of rgb8, bgr8"):
        reader(mislabelled, "rgb24")


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
            changed(encoding="32FC3"),
            "unknown_encoding",
            "encoding is '32FC3'; expected one of rgb8,",
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
        (changed(encoding="i420", step=65), "wrong_step", "step is 65; expected an even one"),
        (changed(encoding="nv24"), "short_data", "has 9216 bytes; expected 27648"),
        (changed(width=12_000, height=9_000), "too_large", f"expected at most {MAX_PIXELS} pixels"),
        (changed(width=2**32 - 1, height=2**32 - 1), "too_large", "4294967295x4294967295"),
    ],
)
def test_bad_images_are_refused(message: Image, cause: str, text: str) -> None:
    with pytest.raises(BadImage, match=text) as caught:
        frame_from_image(message)
    assert caught.value.cause == cause


def test_stamps_are_nanoseconds() -> None:
    assert stamp_ns(header()) == 1_700_000_000_123_456_789
