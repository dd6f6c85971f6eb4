# SPDX-License-Identifier: Apache-2.0
"""Variants are data, checked when they are read."""

import dataclasses

import numpy as np
import pytest
import yaml

from depthforge_ros.frame import DepthKind
from depthforge_ros.variant import (
    load_labels,
    load_variant,
    models_dir,
    variant_differences,
    variant_from_mapping,
    variant_names,
    variant_to_mapping,
)


@pytest.mark.parametrize("name", variant_names())
def test_every_variant_survives_being_stored(name):
    variant = load_variant(name)
    assert variant.name == name
    assert variant_from_mapping(variant_to_mapping(variant)) == variant
    assert variant.grid * 16 == variant.crop


def test_the_shipped_variants_are_the_documented_ones():
    assert variant_names() == ["dinov2_b", "dinov2_l", "dinov2_s", "nano"]
    assert load_variant("dinov2_l").depth.licence == "CC-BY-NC-4.0"
    assert load_variant("dinov2_s").depth.licence == "Apache-2.0"
    assert load_variant("nano").depth_head.kind is DepthKind.METRIC


def test_cityscapes_ids_and_colours():
    labels = load_labels("cityscapes")
    assert len(labels) == 19
    assert labels.id_of("road") == 0
    assert labels.id_of("sky") == 10
    assert labels.id_of("bicycle") == 18
    assert labels.id_of("unicorn") is None
    palette = labels.palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    assert palette[0].tolist() == [128, 64, 128]
    assert palette[255].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"crop": 500}, "crop 500 is not a multiple"),
        ({"stride": 0}, r"stride 0 is not within 1\.\.crop"),
        ({"tokens": "many"}, "tokens is 'many'; wanted int"),
        ({"tokens": True}, "tokens is True; wanted int"),
        ({"levels": [3, 5, 7, 12]}, "reads blocks .* of 12"),
        ({"levels": [3, 7, 5, 11]}, "wanted four, rising"),
        ({"mean": [1.0, 2.0]}, "mean has 2 entries; wanted 3"),
        ({"std": [0, 1, 1]}, "std is"),
        ({"labels": "moon"}, "label set 'moon' is unknown; known: cityscapes"),
        ({"flavour": 1}, r"unknown keys \['flavour'\]"),
        ({"visual": {"kind": "dinov2"}}, "missing .*blocks"),
        ({"visual": 3}, "visual is 3; wanted a mapping with kind, width"),
    ],
)
def test_wrong_variants_are_refused_by_file_key_and_value(tmp_path, change, text):
    data = yaml.safe_load((models_dir() / "variants" / "nano.yaml").read_text()) | change
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match=text) as caught:
        load_variant(path)
    assert str(path) in str(caught.value)


def test_unequal_encoders_are_refused_with_both_sizes(tmp_path):
    data = yaml.safe_load((models_dir() / "variants" / "nano.yaml").read_text())
    data["depth"]["blocks"] = 10
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match="192 wide with 12 blocks, depth encoder 192 with 10"):
        load_variant(path)


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match="'dinov9' is unknown; known: dinov2_b, dinov2_l"):
        load_variant("dinov9")


def test_differences_name_the_field_and_both_values():
    nano = load_variant("nano")
    other = dataclasses.replace(
        nano, tokens=32, decoder=dataclasses.replace(nano.decoder, width=128), name="other"
    )
    assert variant_differences(nano, nano) == []
    assert variant_differences(nano, other) == [
        "tokens: stored 64, wanted 32",
        "decoder.width: stored 64, wanted 128",
    ]
