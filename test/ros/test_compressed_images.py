# SPDX-License-Identifier: Apache-2.0
"""JPEG and PNG images as image_transport and webcams send them, whole, damaged and cut off."""

from __future__ import annotations

import struct
import tracemalloc

import cv2
import numpy as np
import pytest
from image_messages import (
    HEIGHT,
    WIDTH,
    compressed_message,
    encoded,
    image_message,
    noise,
    smooth,
)

from depthforge_ros.ros.images import (
    BadImage,
    ImageReader,
    frame_from_compressed,
    frame_from_image,
)


def test_a_huge_header_allocates_nothing() -> None:
    width, height = 10_000, 10_000
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIB", 13, b"IHDR", width, height, 8) + b"IEND"
    message = image_message(noise(HEIGHT, WIDTH * 3), "rgb8")
    message.width, message.height, message.step = width, height, width * 3
    tracemalloc.start()
    try:
        with pytest.raises(BadImage, match="10000x10000"):
            frame_from_image(message)
        with pytest.raises(BadImage, match="10000x10000"):
            frame_from_compressed(compressed_message(png, "png"))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


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
    for bits in (12, 16):  # an image_transport that was given 12 bits compresses 12 bits
        deep = (grey.astype(np.uint16) << (bits - 8)) + 7
        frame = frame_from_compressed(compressed_message(encoded(deep), "mono16; png compressed "))
        assert (frame.rgb == grey[..., None]).all()
    color = noise(HEIGHT, WIDTH, 3).astype(np.uint16) * 257
    message = compressed_message(encoded(color[..., ::-1]), "rgb16; png compressed bgr16")
    assert (frame_from_compressed(message).rgb == color // 257).all()
    mosaic = compressed_message(encoded(deep), "bayer_rggb16; png compressed ")
    raw = frame_from_image(image_message(grey, "bayer_rggb8")).rgb
    assert (frame_from_compressed(mosaic).rgb == raw).all()


def test_a_given_encoding_overrides_what_image_transport_was_told() -> None:
    mosaic, rgb = noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH, 3)
    bayer = frame_from_image(image_message(mosaic, "bayer_gbrg8")).rgb
    grey = compressed_message(encoded(mosaic), "mono8; png compressed ")
    assert (ImageReader()(grey, "bayer_gbrg8").rgb == bayer).all()
    swapped = compressed_message(encoded(rgb), "rgb8; png compressed bgr8")
    assert (ImageReader()(swapped, "bgr8").rgb == rgb).all()


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
        "half a jpeg with an end marker": (jpeg[: len(jpeg) // 2] + b"\xff\xd9", "jpeg"),
        "jpeg without its middle": (jpeg[: len(jpeg) // 3] + jpeg[len(jpeg) // 2 :], "jpeg"),
        "jpeg with a sector of zeros": (
            jpeg[: len(jpeg) // 3] + bytes(512) + jpeg[len(jpeg) // 3 + 512 :],
            "jpeg",
        ),
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
        "half a jpeg with an end marker",
        "jpeg without its middle",
        "jpeg with a sector of zeros",
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
    progressive = encoded(smooth(), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    for content in (encoded(smooth(), ".jpg"), progressive, encoded(smooth())):
        image_format = "png" if content[1:4] == b"PNG" else "jpeg"
        whole = frame_from_compressed(compressed_message(content, image_format)).rgb
        served = 0
        for end in range(len(content)):
            try:
                seen = frame_from_compressed(compressed_message(content[:end], image_format)).rgb
            except BadImage:
                continue
            served += 1
            assert (seen == whole).all()
        # Only the end marker may be missing, and the filling bits before it; a progressive file
        # without one may lack a scan.
        assert (1 <= served <= 3) if content is not progressive else not served


def test_bytes_that_webcams_add_to_a_jpeg_are_no_fault() -> None:
    jpeg = encoded(noise(HEIGHT, WIDTH, 3), ".jpg")
    whole = frame_from_compressed(compressed_message(jpeg, "jpeg")).rgb
    tables = jpeg.index(b"\xff\xc4")
    for padded in (
        jpeg + bytes(1000),  # after the end
        jpeg[:-2] + b"\x5a" + jpeg[-2:],  # extraneous bytes before the end marker
        jpeg[:-2] + bytes(1000) + jpeg[-2:],
        jpeg[:-2] + bytes(range(1, 41)) + jpeg[-2:],
        jpeg[:tables] + b"\xff\xff\xff" + jpeg[tables:],  # fill bytes before a marker
        jpeg[:tables] + bytes(3) + jpeg[tables:],
    ):
        assert (frame_from_compressed(compressed_message(padded, "jpeg")).rgb == whole).all()


def test_a_jpeg_without_huffman_tables_has_the_usual_ones() -> None:
    """Motion JPEG leaves out the tables of ITU-T T.81, annex K."""
    jpeg = encoded(smooth()[..., ::-1], ".jpg")
    whole = frame_from_compressed(compressed_message(jpeg, "jpeg")).rgb
    while (at := jpeg.find(b"\xff\xc4")) >= 0:
        (length,) = struct.unpack_from(">H", jpeg, at + 2)
        jpeg = jpeg[:at] + jpeg[at + 2 + length :]
    assert (frame_from_compressed(compressed_message(jpeg, "jpeg")).rgb == whole).all()


@pytest.mark.parametrize(
    "image_format", ["h264", "", "16UC1; compressedDepth png", "bayer_xyzw8; png compressed "]
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
