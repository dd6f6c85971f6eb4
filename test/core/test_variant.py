# SPDX-License-Identifier: Apache-2.0
"""Variants are data, checked when they are read."""

import dataclasses

import numpy as np
import pytest
import yaml

from depthforge_ros.frame import DepthKind
from depthforge_ros.legend import legend
from depthforge_ros.variant import (
    Source,
    alternative_names,
    load_labels,
    load_variant,
    models_dir,
    variant_differences,
    variant_from_mapping,
    variant_names,
    variant_to_mapping,
)

EVERY = [
    full
    for name in variant_names()
    for full in (name, *(f"{name}+{chosen}" for chosen in alternative_names(name)))
]


@pytest.mark.parametrize("name", EVERY)
def test_every_variant_survives_being_stored(name):
    variant = load_variant(name)
    assert variant.name == name
    assert variant_from_mapping(variant_to_mapping(variant)) == variant
    assert variant.grid * 16 == variant.crop


def test_the_shipped_variants_are_the_documented_ones():
    names = "dav2_l dav2_s dinov2_b dinov2_g dinov2_l dinov2_s eva02_l nano nano_two"
    assert variant_names() == names.split()
    assert alternative_names("dinov2_l") == [
        "crop1024", "indoor", "outdoor", "registers", "rein", "rein_cityscapes",
        "rein_cityscapes_sixteenth", "rein_gta5", "rein_gta5_synthia",
        "rein_urbansyn_gta5_synthia",
    ]  # fmt: skip
    assert alternative_names("eva02_l") == ["crop1024", "indoor", "outdoor", "rein", "rein_gta5"]
    assert alternative_names("dinov2_g") == ["registers", "rein"]
    assert alternative_names("nano") == ["rein"]
    assert load_variant("dinov2_l").depth.licence == "CC-BY-NC-4.0"
    assert load_variant("dinov2_s").depth.licence == "Apache-2.0"
    assert load_variant("nano").depth_head.kind is DepthKind.METRIC


@pytest.mark.parametrize("name", EVERY)
def test_every_part_says_where_its_weights_are(name):
    variant = load_variant(name)
    one = name.startswith("dav2") or name.partition("+")[0] == "nano"
    assert (variant.depth is None) == one
    published = {
        "visual": not name.startswith("nano"),
        "depth": not name.startswith(("nano", "dinov2_g")),
    }
    for part, encoder in variant.encoders.items():
        there = published[part]
        assert (encoder.source is not None) == there
        if there:
            assert encoder.source.file.endswith((".pth", ".pt"))
            assert encoder.source.size_mb > 80
    if variant.depth is not None:
        assert variant.visual.licence == ("MIT" if name.startswith("eva02") else "Apache-2.0")
    free = name.startswith(("nano", "dinov2_s", "dav2_s"))
    assert variant.depth_encoder.licence == ("Apache-2.0" if free else "CC-BY-NC-4.0")


def test_no_two_files_of_weights_are_said_to_be_the_same():
    variants = [load_variant(name) for name in EVERY]
    sources = {size.source for v in variants for size in v.encoders.values()}
    sources.discard(None)
    assert len(sources) == 4 + 4 + 1 + 9  # DINOv2, with registers, EVA02, Depth Anything V2
    assert len({source.url for source in sources}) == len(sources)
    assert len({source.sha256 for source in sources}) == len(sources)
    adapters = {v.adapter.source for v in variants if v.adapter is not None}
    assert len(adapters) == 5 + 1 + 1 + 1
    files = [source.file for source in sources | adapters]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("name", EVERY)
def test_tokens_of_rein_see_no_depth_and_those_of_the_others_do(name):
    variant = load_variant(name)
    assert variant.depth_in_tokens == ("rein" not in name)
    assert (variant.adapter is not None) == ("rein_" in name)
    if variant.adapter is not None:
        assert variant.adapter.licence == "GPL-3.0"
        assert variant.adapter.source.sha256 is None  # none is published
        rein = load_variant(name.partition("+")[0] + "+rein")
        assert variant_differences(rein, variant) == []


def test_alternatives_change_what_they_name_and_nothing_else():
    plain = load_variant("dinov2_s")
    outdoor = load_variant("dinov2_s+outdoor")
    assert outdoor.depth_head.kind is DepthKind.METRIC
    assert outdoor.depth_head.max_depth_m == 80
    assert outdoor.depth.source.file == "depth_anything_v2_metric_vkitti_vits.pth"
    assert outdoor.visual == plain.visual
    assert load_variant("dinov2_l+indoor").depth_head.max_depth_m == 20
    both = load_variant("dinov2_s+registers+outdoor")
    assert both.name == "dinov2_s+registers+outdoor"
    assert both.visual.registers == 4
    assert both.depth_head == outdoor.depth_head
    assert variant_differences(plain, both) == [
        "visual.registers: stored 0, expected 4",
        "depth_head.kind: stored relative, expected metric",
        "depth_head.max_depth_m: stored None, expected 80.0",
        "depth_head.focal_px: stored None, expected 1144.5",
    ]


def test_an_unknown_alternative_lists_the_known_ones():
    with pytest.raises(ValueError, match="'lunar' is unknown; there are: crop1024, indoor, outd"):
        load_variant("dinov2_s+lunar")
    with pytest.raises(ValueError, match="'outdoor' is unknown; there are: rein"):
        load_variant("nano+outdoor")


def test_a_file_of_ones_own_offers_alternatives_too(tmp_path):
    data = yaml.safe_load((models_dir() / "variants" / "nano.yaml").read_text())
    path = tmp_path / "a+b" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(data | {"alternatives": {"coarse": {"stride": 352}}}))
    assert load_variant(path).stride == 235
    assert load_variant(f"{path}+coarse").stride == 352
    assert load_variant(f"{path}+coarse").name == "nano+coarse"
    path.write_text(yaml.safe_dump(data | {"alternatives": ["coarse"]}))
    with pytest.raises(ValueError, match=r"alternatives is \['coarse'\]; expected a mapping"):
        load_variant(path)


@pytest.mark.parametrize(
    ("url", "sha256", "text"),
    [
        ("http://example.org/w.pth", None, "expected https://"),
        ("https://example.org/", None, "and the name of a file"),
        ("https://example.org/w.pth", "abc", "sha256 is 'abc'; expected 64 hexadecimal"),
    ],
)
def test_a_source_is_an_address_and_a_digest(url, sha256, text):
    with pytest.raises(ValueError, match=text):
        Source(url, sha256)


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


ENCODER = {"kind": "dinov2", "width": 192, "blocks": 12, "heads": 3, "licence": "Apache-2.0"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"crop": 500}, "crop 500 is not a multiple"),
        ({"stride": 0}, r"stride 0 is not within 1\.\.crop"),
        ({"tokens": "many"}, "tokens is 'many'; expected int"),
        ({"tokens": True}, "tokens is True; expected int"),
        ({"levels": [3, 5, 7, 12]}, "reads blocks .* of 12"),
        ({"levels": [3, 7, 5, 11]}, "expected four, rising"),
        ({"mean": [1.0, 2.0]}, "mean has 2 entries; expected 3"),
        ({"std": [0, 1, 1]}, "std is"),
        ({"labels": "moon"}, "label set 'moon' is unknown; known: cityscapes"),
        ({"flavour": 1}, r"unknown keys \['flavour'\]"),
        ({"visual": {"kind": "dinov2"}}, "missing .*blocks"),
        ({"visual": 3}, "visual is 3; expected a mapping with kind, width"),
        ({"visual": ENCODER | {"kind": "sam"}}, "kind is 'sam'; expected 'dinov2' or 'eva02'"),
        ({"visual": ENCODER | {"kind": "eva02", "registers": 4}}, "registers 4; an eva02 encoder"),
        ({"visual": ENCODER | {"kind": "eva02", "heads": 32}}, "heads are 6 wide; rotary"),
        ({"depth": ENCODER | {"kind": "eva02"}}, "encoder that gives depth is of kind 'eva02'"),
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
    data = yaml.safe_load((models_dir() / "variants" / "nano_two.yaml").read_text())
    data["depth"]["blocks"] = 10
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match="192 wide with 12 blocks, depth encoder 192 with 10"):
        load_variant(path)


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match="'dinov9' is unknown; known: dav2_l, dav2_s, dinov2_b, "):
        load_variant("dinov9")


def test_differences_name_the_field_and_both_values():
    nano = load_variant("nano")
    other = dataclasses.replace(
        nano, tokens=32, decoder=dataclasses.replace(nano.decoder, width=128), name="other"
    )
    assert variant_differences(nano, nano) == []
    assert variant_differences(nano, other) == [
        "tokens: stored 64, expected 32",
        "decoder.width: stored 64, expected 128",
    ]


def test_classes_are_painted_by_name_and_the_others_stay() -> None:
    labels = load_labels("cityscapes")
    painted = labels.painted({"person": (1, 2, 3)})
    person = labels.id_of("person")
    assert [label.name for label in painted.classes] == [label.name for label in labels.classes]
    changed = np.flatnonzero((painted.palette() != labels.palette()).any(axis=1))
    assert changed.tolist() == [person]
    assert painted.palette()[person].tolist() == [1, 2, 3]
    assert labels.painted({}) == labels
    with pytest.raises(
        ValueError, match="a colour is given for dragon; expected some of road, side"
    ):
        labels.painted({"dragon": (1, 2, 3)})
    with pytest.raises(ValueError, match=r"color of 'road' is .*; expected three numbers 0\.\.255"):
        labels.painted({"road": (1, 2, 300)})


def test_a_legend_shows_every_colour_beside_its_name() -> None:
    labels = load_labels("cityscapes")
    drawn = legend(labels, 320)  # two columns
    assert drawn.shape == (10 * 26, 320, 3)
    for index, entry in enumerate(labels.classes):
        row, column = divmod(index, 2)
        swatch = drawn[row * 26 + 6 : row * 26 + 20, column * 160 + 8 : column * 160 + 28]
        assert (swatch == entry.color).all()
        name = drawn[row * 26 : row * 26 + 26, column * 160 + 34 : column * 160 + 160]
        assert (name == 255).any()
