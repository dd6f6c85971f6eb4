# SPDX-License-Identifier: Apache-2.0
"""The one notation of sizes, and that nothing in the package reads or writes another."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

from depthforge_ros.image_size import parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("1920x1080", (1920, 1080)), (" 480X640 ", (480, 640)), ("1x1", (1, 1))]
)
def test_the_width_is_first(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text, "--size") == size


@pytest.mark.parametrize(
    "text", ["1080", "1920*1080", "1920x", "-1x5", "1920x1080x3", "", "0x5", "100000x5", "1.5x2"]
)
def test_the_error_names_the_option_the_value_and_the_order(text: str) -> None:
    reason = f"--crop is {text!r}; expected WIDTHxHEIGHT in pixels, width first, such as 1920x1080"
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        parse_size(text, "--crop")


def test_no_other_notation_is_left() -> None:
    """One pattern for two numbers with an x between them, and no text that has the height first."""
    parsers, height_first = [], []
    for path in sorted((ROOT / "depthforge_ros").rglob("*.py")):
        text = path.read_text("utf-8")
        if re.search(r'\)x\(|split\("x"\)', text):
            parsers.append(path.name)
        if re.search(r"HEIGHTxWIDTH|HxW|\{(\w+\.)?height\}x\{", text):
            height_first.append(path.name)
    assert parsers == ["image_size.py"]
    assert height_first == []
