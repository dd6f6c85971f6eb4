# SPDX-License-Identifier: Apache-2.0
"""`depthforge transport`: write a Fast DDS profile with room for the images of your cameras.

The shipped profile (config/fastdds.xml) is the template; only its two sizes change.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from depthforge_ros.image_size import parse_size
from depthforge_ros.resources import shipped_folder

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Environment variables that name the profile, for Fast DDS 2 and 3."""

DEFAULT_PROFILES = ("DEFAULT_FASTRTPS_PROFILES.xml", "DEFAULT_FASTDDS_PROFILES.xml")
"""Files in the working folder that Fast DDS reads by itself."""

NO_PROFILE = "SKIP_DEFAULT_XML"
"""Environment variable that makes Fast DDS read none of them."""

MIB = 1 << 20
RGB8_BYTES = 3
IMAGES_HELD = 8
"""rgb8 images per camera: a driver's history of five and those being read. The node's images of two
frames, 12 bytes a pixel in all, need no more; points, 20 bytes a pixel, are not counted.
"""

MIN_SEGMENT = 64 * MIB
MIN_MESSAGE = 32 * MIB
GRAIN = 16 * MIB
MAX_SEGMENT = (1 << 32) - GRAIN
"""Fast DDS stores the size in 32 bits."""

MAX_CAMERAS = 64


def segment_bytes(width: int, height: int, cameras: int) -> int:
    """Return the shared memory in bytes of one process that sends the images of these cameras.

    Raise ValueError for more than Fast DDS can allocate.
    """
    if not 1 <= cameras <= MAX_CAMERAS:
        raise ValueError(f"the number of cameras is {cameras}; expected 1..{MAX_CAMERAS}")
    needed = _rounded(width * height * RGB8_BYTES * IMAGES_HELD * cameras)
    if needed > MAX_SEGMENT:
        raise ValueError(
            f"{cameras} cameras of {width}x{height} need {needed // MIB} MiB in one process, and "
            f"Fast DDS has at most {MAX_SEGMENT // MIB}; start several nodes"
        )
    return max(MIN_SEGMENT, needed)


def message_bytes(width: int, height: int) -> int:
    """Return the largest size in bytes of a message in one piece: an image and its header."""
    return max(MIN_MESSAGE, _rounded(width * height * RGB8_BYTES + 4096))


def profile(width: int, height: int, cameras: int) -> str:
    """Return the shipped profile with room for these cameras, as XML. Raise ValueError."""
    text = (shipped_folder("config") / "fastdds.xml").read_text("utf-8")
    segment, message = segment_bytes(width, height, cameras), message_bytes(width, height)
    held = f"{cameras} x {width}x{height} rgb8, {IMAGES_HELD} images each"
    for name, size, comment in (
        ("segment_size", segment, f"{segment // MIB} MiB: {held}."),
        ("maxMessageSize", message, f"{message // MIB} MiB: one image in one piece."),
    ):
        pattern = rf"<!--[^-]*-->(\s*)<{name}>\d+</{name}>"
        written = rf"<!-- {comment} -->\g<1><{name}>{size}</{name}>"
        text, count = re.subn(pattern, written, text)
        if count != 1:
            raise ValueError(f"config/fastdds.xml has {count} commented {name}; expected 1")
    return text


def use_shipped_profile() -> None:
    """Make Fast DDS use config/fastdds.xml in this process, unless the user chose a profile.

    Call it before rclpy.init. Without a profile, images above half a megabyte get lost. One is
    chosen by PROFILE_VARIABLES or DEFAULT_PROFILES, and none by NO_PROFILE.
    """
    chosen = any(name in os.environ for name in (*PROFILE_VARIABLES, NO_PROFILE))
    if chosen or any(Path(name).is_file() for name in DEFAULT_PROFILES):
        return
    shipped = str(shipped_folder("config") / "fastdds.xml")
    os.environ.update(dict.fromkeys(PROFILE_VARIABLES, shipped))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge transport`."""
    parser.add_argument("--size", default="1920x1080", metavar="WxH", help="of the largest images")
    parser.add_argument("--cameras", type=int, default=1, metavar="N", help="in one process")
    parser.add_argument("--out", type=Path, help="file to write, which must not exist (stdout)")


def run(args: argparse.Namespace) -> int:
    """Write the profile; 0. Raise ValueError, or FileExistsError for `--out`."""
    text = profile(*parse_size(args.size, "--size"), args.cameras)
    if args.out is None:
        print(text, end="")
        return 0
    with args.out.open("x", encoding="utf-8") as file:
        file.write(text)
    for name in PROFILE_VARIABLES:
        print(f"export {name}={args.out.resolve()}")
    return 0


def _rounded(size: int) -> int:
    return -(-size // GRAIN) * GRAIN
