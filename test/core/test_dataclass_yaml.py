# SPDX-License-Identifier: Apache-2.0
"""Plain data into frozen dataclasses: what is accepted, and that every refusal names the key."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest

from depthforge_ros import dataclass_yaml


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Part:
    count: int
    share: float = 0.5


@dataclass(frozen=True)
class Whole:
    name: str
    colour: Colour
    parts: tuple[Part, ...]
    size: tuple[int, int] = (4, 3)
    limit: float | None = None
    loud: bool = False
    folder: Path = Path("runs")
    first: Part = field(default_factory=lambda: Part(1))


GOOD = {"name": "a", "colour": "blue", "parts": [{"count": 2}, {"count": 0, "share": 1}]}


def test_builds_and_goes_back():
    whole = dataclass_yaml.build(
        Whole, GOOD | {"limit": 3, "loud": True, "folder": "x/y"}, "whole", {}
    )
    assert whole == Whole(
        "a", Colour.BLUE, (Part(2), Part(0, 1.0)), limit=3.0, loud=True, folder=Path("x/y")
    )
    assert isinstance(whole.limit, float)
    assert dataclass_yaml.build(Whole, dataclass_yaml.plain(whole), "whole", {}) == whole


def test_a_type_may_be_given_by_name():
    found = {Part: lambda name: Part(len(name))}
    assert dataclass_yaml.build(Whole, GOOD | {"first": "three"}, "whole", found).first == Part(5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nme": 1}, r"whole: unknown keys \['nme'\], missing \[\]"),
        ({"colour": "green"}, r"whole\.colour is 'green'; expected one of \['red', 'blue'\]"),
        ({"parts": [{"count": -1}]}, r"whole\.parts\[0\]\.count is -1; expected a number of at"),
        ({"parts": [{"count": True}]}, r"whole\.parts\[0\]\.count is True; expected int"),
        ({"parts": [{}]}, r"whole\.parts\[0\]: unknown keys \[\], missing \['count'\]"),
        ({"parts": {"count": 1}}, r"whole\.parts is .*; expected a list"),
        ({"size": [1, 2, 3]}, r"whole\.size has 3 entries; expected 2"),
        ({"limit": float("nan")}, r"whole\.limit is nan; expected a finite number"),
        ({"limit": "3"}, r"whole\.limit is '3'; expected float"),
        ({"loud": 1}, r"whole\.loud is 1; expected bool"),
        ({"first": [1]}, r"whole\.first is \[1\]; expected a mapping with count, share"),
        ({"name": None}, r"whole\.name is None; expected str"),
    ],
)
def test_refusals_name_the_key_and_what_was_wanted(change, message):
    with pytest.raises(ValueError, match=message):
        dataclass_yaml.build(Whole, GOOD | change, "whole", {})


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1")
    with pytest.raises(ValueError, match=r"broken\.yaml"):
        dataclass_yaml.read_yaml(path, Part, {})
