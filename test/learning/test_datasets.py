# SPDX-License-Identifier: Apache-2.0
"""Every data set from a tiny tree in its published layout, with real PNG and JPEG files."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from depthforge_ros.learning import datasets, label_ids
from depthforge_ros.learning.config import DatasetKind, DatasetSettings
from depthforge_ros.learning.label_ids import MapillaryMapping
from depthforge_ros.learning.samples import Skipped, UnreadableImageError, readable_samples

HEIGHT, WIDTH = 24, 32


def write_image(path: Path, value: int = 100, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), value, np.uint8)
    image[..., 0] = 10  # blue in OpenCV's order: a swap of channels would show
    assert cv2.imwrite(str(path), image)


def write_ids(path: Path, ids: list[int], palette: bool = False) -> None:
    """A label image whose columns cycle through ids, as grey levels or as palette indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = np.resize(np.array(ids, np.uint8), WIDTH)
    image = Image.fromarray(np.tile(columns, (HEIGHT, 1)))
    if palette:
        image = image.convert("P")
        # Ids 0 and 1 share a colour, so only the indices can tell them apart.
        image.putpalette(
            [0, 0, 0, 0, 0, 0] + [channel for i in range(2, 256) for channel in [i] * 3]
        )
        image.putdata(np.tile(columns, (HEIGHT, 1)).ravel().tolist())
    image.save(path)


def columns(sample, count: int) -> list[int]:
    assert sample.labels.shape == (HEIGHT, WIDTH)
    assert sample.labels.dtype == np.uint8
    assert (sample.labels == sample.labels[0]).all()
    return sample.labels[0, :count].tolist()


def test_cityscapes(tmp_path):
    for city, number in (("aachen", 19), ("bochum", 4)):
        stem = f"{city}_000000_{number:06d}"
        write_image(tmp_path / f"leftImg8bit/train/{city}/{stem}_leftImg8bit.png")
        write_ids(tmp_path / f"gtFine/train/{city}/{stem}_gtFine_labelIds.png", [7, 8, 33, 0, 29])
    source = datasets.cityscapes(tmp_path, "train")
    assert len(source) == 2
    sample = source[1]
    assert columns(sample, 5) == [0, 1, 18, 255, 255]
    assert (sample.domain, sample.condition) == ("cityscapes", "clear")
    assert sample.name == "bochum/bochum_000000_000004_leftImg8bit"
    assert sample.rgb[0, 0].tolist() == [100, 100, 10]
    assert sample.depth_m is None


def test_every_cityscapes_id_goes_where_the_label_definition_says():
    # trainIds of ids 0..33, from the table of the data set's own label definition.
    void = 255
    train_ids = [void] * 7 + [0, 1, void, void, 2, 3, 4, void, void, void, 5, void]
    train_ids += [*range(6, 16), void, void, 16, 17, 18]
    assert label_ids.CITYSCAPES[:34].tolist() == train_ids


def test_gta5_reads_palette_indices_and_names_labels_of_another_size(tmp_path):
    for number in (1, 2):
        write_image(tmp_path / f"images/{number:05d}.png")
        write_ids(tmp_path / f"labels/{number:05d}.png", [0, 1, 7, 34, 26], palette=True)
    write_image(tmp_path / "images/00002.png", size=(HEIGHT, WIDTH - 1))
    source = datasets.gta5(tmp_path)
    assert columns(source[0], 5) == [255, 255, 0, 255, 13]
    with pytest.raises(UnreadableImageError, match=r"00002.png: image is \[24, 31\].*\[24, 32\]"):
        source[1]


def test_bdd100k(tmp_path):
    write_image(tmp_path / "images/10k/val/7d06fefd-f7be05a6.jpg")
    write_ids(tmp_path / "labels/sem_seg/masks/val/7d06fefd-f7be05a6.png", [0, 18, 255])
    (sample,) = readable_samples(datasets.bdd100k(tmp_path, "val"), Skipped())
    assert columns(sample, 3) == [0, 18, 255]
    assert (sample.domain, sample.name) == ("bdd100k", "7d06fefd-f7be05a6")


@pytest.mark.parametrize("labels", ["labels", "v1.2/labels"])
def test_mapillary_in_both_archives(tmp_path, labels):
    write_image(tmp_path / "validation/images/abc_-1.jpg")
    write_ids(tmp_path / f"validation/{labels}/abc_-1.png", [13, 24, 65, 22, 52, 8], palette=True)
    (sample,) = readable_samples(datasets.mapillary(tmp_path, "validation"), Skipped())
    assert columns(sample, 6) == [0, 0, 255, 12, 18, 0]
    other = datasets.mapillary(tmp_path, "validation", MapillaryMapping.ROBUSTNET)
    assert columns(other[0], 6) == [0, 0, 255, 12, 18, 255]


def test_the_two_mapillary_mappings_differ_in_ten_unlabelled_ids_and_the_manhole() -> None:
    paper = label_ids.MAPILLARY[MapillaryMapping.PAPER]
    robustnet = label_ids.MAPILLARY[MapillaryMapping.ROBUSTNET]
    road, sidewalk, pole, sign, void = 0, 1, 5, 7, 255
    expected = dict.fromkeys((7, 8, 10, 14, 23), road) | {9: sidewalk, 11: sidewalk, 44: pole}
    expected |= {46: sign, 49: sign}
    different = {i: int(paper[i]) for i in np.flatnonzero(paper != robustnet).tolist()}
    assert different == expected | {41: void}
    assert all(robustnet[label_id] == void for label_id in expected)
    assert robustnet[41] == road


def test_mapillary_v2_goes_by_the_names_in_its_configuration(tmp_path: Path) -> None:
    names = {
        "animal--bird": 255, "construction--barrier--curb": 1, "construction--flat--road": 0,
        "construction--flat--driveway": 255, "marking--discrete--arrow--left": 0,
        "human--person--person-group": 11, "object--traffic-light--cyclists": 6,
        "object--traffic-sign--temporary-front": 7, "object--sign--store": 255,
        "object--vehicle--bicycle": 18, "object--support--pole-group": 5,
    }  # fmt: skip
    write_image(tmp_path / "validation/images/a.jpg")
    write_ids(tmp_path / "validation/v2.0/labels/a.png", [*range(len(names))], palette=True)
    with pytest.raises(datasets.DatasetLayoutError, match=r"config_v2\.0\.json does not list"):
        datasets.mapillary(tmp_path, "validation", MapillaryMapping.V2)
    config = {"labels": [{"name": name, "readable": name} for name in names]}
    (tmp_path / "config_v2.0.json").write_text(json.dumps(config))
    (sample,) = readable_samples(
        datasets.mapillary(tmp_path, "validation", MapillaryMapping.V2), Skipped()
    )
    assert columns(sample, len(names)) == list(names.values())


def test_synthia_reads_the_first_of_sixteen_bit_channels(tmp_path: Path) -> None:
    write_image(tmp_path / "RGB/0000000.png")
    ids = np.resize(np.array([3, 1, 22, 21, 0, 17], np.uint16), WIDTH)
    label = np.zeros((HEIGHT, WIDTH, 3), np.uint16)
    label[..., 2] = ids  # red, in OpenCV's order
    label[..., 1] = 777  # the instance
    path = tmp_path / "GT/LABELS/0000000.png"
    path.parent.mkdir(parents=True)
    assert cv2.imwrite(str(path), label)
    source = datasets.synthia(tmp_path)
    assert columns(source[0], 6) == [0, 10, 255, 3, 255, 12]
    write_ids(path, [3])
    with pytest.raises(ValueError, match=r"0000000\.png: label image is uint8.*expected 16-bit"):
        source[0]


def test_urbansyn_has_train_ids_and_nineteen_for_the_rest(tmp_path: Path) -> None:
    write_image(tmp_path / "rgb/rgb_0001.png")
    write_ids(tmp_path / "ss/ss_0001.png", [0, 18, 19])
    assert columns(datasets.urbansyn(tmp_path)[0], 3) == [0, 18, 255]


def test_mapping_is_mapillarys_alone() -> None:
    with pytest.raises(ValueError, match="mapping is for mapillary; this data set is gta5"):
        DatasetSettings(DatasetKind.GTA5, mapping=MapillaryMapping.PAPER)


def test_acdc_keeps_the_condition(tmp_path):
    for condition in ("fog", "night"):
        stem = "GOPR0475/GOPR0475_frame_000247"
        write_image(tmp_path / f"rgb_anon/{condition}/val/{stem}_rgb_anon.png")
        write_ids(tmp_path / f"gt/{condition}/val/{stem}_gt_labelTrainIds.png", [10, 255])
    samples = list(readable_samples(datasets.acdc(tmp_path, "val", ("night", "fog")), Skipped()))
    assert [sample.condition for sample in samples] == ["night", "fog"]
    assert columns(samples[0], 2) == [10, 255]
    with pytest.raises(ValueError, match=r"'hail'.*'fog', 'night', 'rain', 'snow'"):
        datasets.acdc(tmp_path, "val", ("hail",))


def test_camvid_by_sequence(tmp_path):
    for name in ("0006R0_f00930", "0006R0_f00960", "0016E5_00390"):
        write_image(tmp_path / f"images/{name}.jpg")
        write_ids(tmp_path / f"labels/{name}.png", list(range(12)))
    assert len(datasets.camvid(tmp_path)) == 3
    source = datasets.camvid(tmp_path, ("0006R0",))
    assert [entry.name for entry in source.entries] == ["0006R0_f00930", "0006R0_f00960"]
    # sky building pole road pavement tree sign fence car pedestrian bicyclist unlabelled
    assert columns(source[0], 12) == [10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 12, 255]
    with pytest.raises(ValueError, match="no sequence '0001TP'; it has 0006R0, 0016E5"):
        datasets.camvid(tmp_path, ("0001TP",))


def test_own_images_by_condition(tmp_path):
    for name in ("night/a.jpg", "snow/b.png", "snow/deeper/c.png"):
        write_image(tmp_path / f"images/train/{name}")
    write_ids(tmp_path / "labels/train/night/a.png", [0, 18, 255])
    write_ids(tmp_path / "labels/train/snow/b.png", [10])
    source = datasets.folder(tmp_path, "train")
    assert [(e.name, e.condition) for e in source.entries] == [
        ("night/a", "night"),
        ("snow/b", "snow"),
    ]
    assert columns(source[0], 3) == [0, 18, 255]
    assert len(datasets.folder(tmp_path, "train", ("snow",))) == 1
    with pytest.raises(ValueError, match="no folder 'fog'; it has night, snow"):
        datasets.folder(tmp_path, "train", ("fog",))


def test_camvid_merge_undoes_its_label_ids():
    """A label id of CamVid, taken to trainIds and merged, is that label id again."""
    merge = label_ids.CAMVID_CLASSES
    assert merge.table[label_ids.CAMVID[:12]].tolist() == [*range(11), 255]
    assert merge.names[merge.table[14]] == "car"  # truck
    assert merge.names[merge.table[6]] == "sign"  # traffic light
    assert (merge.table[:19] != 255).all()
    assert merge.table[255] == 255


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("all", r"no folder .*leftImg8bit/val; expected below .*gtFine/val/CITY"),
        ("images", r"nothing matches .*leftImg8bit.png.*expected below"),
        ("label", r"1 of 2 images have no label, the first is .*b_000000_000001_gtFine_labelIds"),
    ],
)
def test_half_unpacked_shows_the_expected_tree(tmp_path, missing, message):
    if missing == "images":
        (tmp_path / "leftImg8bit/val").mkdir(parents=True)
    if missing == "label":
        for number in (0, 1):
            stem = f"b_000000_{number:06d}"
            write_image(tmp_path / f"leftImg8bit/val/b/{stem}_leftImg8bit.png")
        write_ids(tmp_path / "gtFine/val/b/b_000000_000000_gtFine_labelIds.png", [7])
    with pytest.raises(datasets.DatasetLayoutError, match=f"(?s){message}"):
        datasets.cityscapes(tmp_path, "val")


def test_label_id_out_of_range_is_refused_with_file_and_value(tmp_path):
    write_image(tmp_path / "images/10k/train/a.jpg")
    write_ids(tmp_path / "labels/sem_seg/masks/train/a.png", [0, 19, 77])
    source = datasets.bdd100k(tmp_path, "train")
    with pytest.raises(ValueError, match=r"a\.png: label ids \[19, 77\].*allowed: 0\.\.18 and 255"):
        list(readable_samples(source, Skipped()))


@pytest.mark.parametrize("broken", ["image", "empty image", "label"])
def test_unreadable_files_are_named_skipped_and_counted(tmp_path, broken):
    for name in "abc":
        write_image(tmp_path / f"images/10k/train/{name}.jpg")
        write_ids(tmp_path / f"labels/sem_seg/masks/train/{name}.png", [3])
    image = tmp_path / "images/10k/train/b.jpg"
    label = tmp_path / "labels/sem_seg/masks/train/b.png"
    if broken == "image":
        image.write_bytes(b"not a picture")
    elif broken == "empty image":
        image.write_bytes(b"")
    else:
        label.write_bytes(label.read_bytes()[:48])
    skipped = Skipped()
    samples = list(readable_samples(datasets.bdd100k(tmp_path, "train"), skipped))
    assert [sample.name for sample in samples] == ["a", "c"]
    assert len(skipped) == 1
    assert str(label if broken == "label" else image) in skipped.summary()
    assert "skipped 1 " in skipped.summary()
