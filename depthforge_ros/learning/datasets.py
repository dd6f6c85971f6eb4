# SPDX-License-Identifier: Apache-2.0
"""The public data sets in the folder layouts they are published in.

Each function lists the files of one data set; images are read when a sample is requested.
`condition` is "clear" for data sets taken in fair daylight, "mixed" if the files do not say. Use
`folder` for images of your own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from depthforge_ros.frame import UNLABELLED
from depthforge_ros.learning import label_ids
from depthforge_ros.learning.label_ids import ClassMerge, MapillaryMapping
from depthforge_ros.learning.samples import (
    REFUSED,
    Sample,
    SampleSource,
    UnreadableImageError,
    label_table,
    read_ids,
    read_ids_16bit,
    read_labels,
    read_rgb,
)
from depthforge_ros.variant import LabelSet, load_labels

ACDC_CONDITIONS = ("fog", "night", "rain", "snow")


class DatasetLayoutError(ValueError):
    """The data set is missing or only partly unpacked; the message shows the expected tree."""


@dataclass(frozen=True)
class Entry:
    """Files of one sample. label: None if the ground truth is not published."""

    image: Path
    label: Path | None
    condition: str
    name: str


@dataclass(frozen=True)
class FolderDataset:
    """Image and label files. table: [256] from label id to trainId.

    merge: coarser classes to score in, if the data set does not distinguish all trainIds. read:
    reads a label file as ids [H, W].
    """

    domain: str
    entries: tuple[Entry, ...]
    table: np.ndarray = field(repr=False)
    merge: ClassMerge | None = field(default=None, repr=False)
    read: Callable[[Path], np.ndarray] = read_ids

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`. Raise UnreadableImageError, or ValueError for an unknown id."""
        entry = self.entries[index]
        rgb = read_rgb(entry.image)
        if entry.label is None:
            labels = np.full(rgb.shape[:2], UNLABELLED, np.uint8)
        else:
            labels = read_labels(entry.label, self.table, self.read)
        if rgb.shape[:2] != labels.shape:
            raise UnreadableImageError(
                f"{entry.image}: image is {list(rgb.shape[:2])}, its label {list(labels.shape)}"
            )
        return Sample(rgb, labels, None, self.domain, entry.condition, entry.name)


def with_label_set(source: SampleSource, labels: LabelSet, has_own_ids: bool) -> SampleSource:
    """Return the data set with the ids of the label set instead of Cityscapes' 19 trainIds.

    has_own_ids: its files hold the set's ids already. Otherwise classes are mapped by name; one
    that the set lacks becomes unlabelled. Raise ValueError for sets that cannot be mapped.
    """
    names = [label.name for label in load_labels("cityscapes").classes]
    set_names = [label.name for label in labels.classes]
    if set_names == names or (set_names[: len(names)] == names and not has_own_ids):
        return source
    if not isinstance(source, FolderDataset) or source.merge is not None:
        raise ValueError(
            f"{source.domain} has the classes of cityscapes only; label set {labels.name!r} has "
            "others"
        )
    if has_own_ids:
        table = label_table({index: index for index in range(len(labels))}, known=len(labels))
    else:
        own = [labels.id_of(name) for name in names]
        to_own = np.full(256, UNLABELLED, np.int16)
        to_own[: len(names)] = [UNLABELLED if index is None else index for index in own]
        table = np.where(source.table == REFUSED, REFUSED, to_own[source.table])
    return replace(source, table=table)


def check_labels(source: FolderDataset) -> None:
    """Read every label image.

    Raise ValueError with a line for each that is unreadable, holds an id that is no class, or has
    another size than its image.
    """
    faults = []
    for entry in tqdm(source.entries, desc=f"labels of {source.domain}", disable=None):
        if entry.label is None:
            continue
        try:
            shape = read_labels(entry.label, source.table, source.read).shape
            with Image.open(entry.image) as image:
                size = image.size[::-1]
            if shape != size:
                faults.append(f"{entry.label}: size is {list(shape)}, its image's {list(size)}")
        except (ValueError, UnreadableImageError, OSError) as error:
            faults.append(str(error))
    if faults:
        head = f"{len(faults)} of {len(source)} labels of {source.domain} are invalid:"
        raise ValueError("\n  ".join([head, *faults]))


def cityscapes(root: Path, split: str) -> FolderDataset:
    """Cityscapes (Cordts et al., CVPR 2016), fine annotations. split: train or val."""
    tree = f"""
        leftImg8bit/{split}/CITY/CITY_000000_000019_leftImg8bit.png
        gtFine/{split}/CITY/CITY_000000_000019_gtFine_labelIds.png"""
    images, suffix = root / "leftImg8bit" / split, "_leftImg8bit.png"

    def label(image: Path) -> Path:
        stem = image.name.removesuffix(suffix)
        folder = root / "gtFine" / split / image.parent.name
        return folder / f"{stem}_gtFine_labelIds.png"

    entries = _pairs("cityscapes", root, tree, images, f"*/*{suffix}", label, "clear")
    return FolderDataset("cityscapes", entries, label_ids.CITYSCAPES)


def gta5(root: Path) -> FolderDataset:
    """GTA5 (Richter et al., ECCV 2016), all of it; a few of its labels have another size."""
    tree = """
        images/00001.png
        labels/00001.png"""
    entries = _pairs(
        "gta5", root, tree, root / "images", "*.png", lambda p: root / "labels" / p.name, "mixed"
    )
    return FolderDataset("gta5", entries, label_ids.GTA5)


def bdd100k(root: Path, split: str) -> FolderDataset:
    """BDD100K (Yu et al., CVPR 2020), the 10k semantic subset. split: train or val."""
    tree = f"""
        images/10k/{split}/NAME.jpg
        labels/sem_seg/masks/{split}/NAME.png"""
    masks = root / "labels" / "sem_seg" / "masks" / split
    images = root / "images" / "10k" / split
    entries = _pairs(
        "bdd100k", root, tree, images, "*.jpg", lambda p: masks / f"{p.stem}.png", "mixed"
    )
    return FolderDataset("bdd100k", entries, label_ids.TRAIN_IDS)


def synthia(root: Path) -> FolderDataset:
    """SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016), all of it."""
    tree = """
        RGB/0000000.png
        GT/LABELS/0000000.png            (16 bit, the class in the first channel)"""
    labels = root / "GT" / "LABELS"
    entries = _pairs(
        "synthia", root, tree, root / "RGB", "*.png", lambda p: labels / p.name, "mixed"
    )
    return FolderDataset("synthia", entries, label_ids.SYNTHIA, read=read_ids_16bit)


def urbansyn(root: Path) -> FolderDataset:
    """UrbanSyn (Gomez et al., 2023), all of it."""
    tree = """
        rgb/rgb_0001.png
        ss/ss_0001.png"""

    def label(image: Path) -> Path:
        return root / "ss" / image.name.replace("rgb_", "ss_", 1)

    entries = _pairs("urbansyn", root, tree, root / "rgb", "*.png", label, "clear")
    return FolderDataset("urbansyn", entries, label_ids.URBANSYN)


def mapillary(
    root: Path, split: str, mapping: MapillaryMapping = MapillaryMapping.PAPER
) -> FolderDataset:
    """Mapillary Vistas (Neuhold et al., ICCV 2017). split: training, validation.

    mapping: which label ids become which trainIds. The v1.2 labels are read from either archive.
    """
    if mapping is MapillaryMapping.V2:
        tree = f"""
        {split}/images/NAME.jpg
        {split}/v2.0/labels/NAME.png
        config_v2.0.json"""
        labels = root / split / "v2.0" / "labels"
    else:
        tree = f"""
        {split}/images/NAME.jpg
        {split}/labels/NAME.png          (archive v1.2), or
        {split}/v1.2/labels/NAME.png     (archive v2.0)"""
        labels = root / split / "labels"
        if not labels.is_dir():
            labels = root / split / "v1.2" / "labels"
    images = root / split / "images"
    entries = _pairs(
        "mapillary", root, tree, images, "*.jpg", lambda p: labels / f"{p.stem}.png", "mixed"
    )
    if mapping is MapillaryMapping.V2:
        table = label_ids.mapillary_v2(_label_names(root / "config_v2.0.json", tree))
    else:
        table = label_ids.MAPILLARY[mapping]
    return FolderDataset("mapillary", entries, table)


def _label_names(config: Path, tree: str) -> list[str]:
    """Return the names of Mapillary's labels in id order. Raise DatasetLayoutError."""
    try:
        labels = json.loads(config.read_text("utf-8"))["labels"]
        return [str(label["name"]) for label in labels]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetLayoutError(
            f"mapillary: {config} does not list the labels ({error!r}); expected:{tree}"
        ) from error


def acdc(root: Path, split: str, conditions: tuple[str, ...] = ACDC_CONDITIONS) -> FolderDataset:
    """ACDC (Sakaridis et al., ICCV 2021) by condition: fog, night, rain, snow.

    split: train, val or test; the ground truth of test is not published. Raise ValueError for an
    unknown condition.
    """
    unknown = set(conditions) - set(ACDC_CONDITIONS)
    if unknown or not conditions:
        raise ValueError(f"ACDC conditions are {conditions}; allowed: {ACDC_CONDITIONS}")
    suffix = "_rgb_anon.png"
    entries: tuple[Entry, ...] = ()
    for condition in conditions:
        tree = f"""
        rgb_anon/{condition}/{split}/SEQUENCE/SEQUENCE_frame_000247_rgb_anon.png
        gt/{condition}/{split}/SEQUENCE/SEQUENCE_frame_000247_gt_labelTrainIds.png"""
        labels = root / "gt" / condition / split

        def label(image: Path, labels: Path = labels) -> Path | None:
            if split == "test":
                return None
            stem = image.name.removesuffix(suffix)
            return labels / image.parent.name / f"{stem}_gt_labelTrainIds.png"

        images = root / "rgb_anon" / condition / split
        entries += _pairs("acdc", root, tree, images, f"*/*{suffix}", label, condition)
    return FolderDataset("acdc", entries, label_ids.TRAIN_IDS)


def camvid(root: Path, sequences: tuple[str, ...] = ()) -> FolderDataset:
    """CamVid (Brostow et al., 2009) in the 11-class relabelling, scored in those 11 classes.

    sequences: file-name prefixes to take ("0006R0"), all where empty. Neighbouring frames of a
    sequence look alike, so hold out whole sequences.
    """
    tree = """
        images/0006R0_f00930.jpg
        labels/0006R0_f00930.png"""
    entries = _pairs(
        "camvid",
        root,
        tree,
        root / "images",
        "*.jpg",
        lambda path: root / "labels" / f"{path.stem}.png",
        "clear",
    )
    known = sorted({entry.name.split("_")[0] for entry in entries})
    for sequence in sequences:
        if not any(entry.name.startswith(sequence) for entry in entries):
            raise ValueError(f"{root} has no sequence {sequence!r}; it has {', '.join(known)}")
    if sequences:
        entries = tuple(entry for entry in entries if entry.name.startswith(sequences))
    return FolderDataset("camvid", entries, label_ids.CAMVID, label_ids.CAMVID_CLASSES)


def folder(root: Path, split: str, conditions: tuple[str, ...] = ()) -> FolderDataset:
    """Images of one's own with labels in trainIds. split: the name of a folder.

    conditions: which of the folders below the split, all where empty. Raise ValueError where
    there is none of that name.
    """
    tree = f"""
        images/{split}/CONDITION/NAME.jpg        (or .png; CONDITION is any word, say night)
        labels/{split}/CONDITION/NAME.png        (8 bit, class ids from 0, 255 unlabelled)"""
    images, labels = root / "images" / split, root / "labels" / split

    def label(image: Path) -> Path:
        return labels / image.relative_to(images).with_suffix(".png")

    entries = _pairs("folder", root, tree, images, ("*/*.jpg", "*/*.png"), label, None)
    known = sorted({entry.condition for entry in entries})
    for condition in conditions:
        if condition not in known:
            raise ValueError(f"{images} has no folder {condition!r}; it has {', '.join(known)}")
    if conditions:
        entries = tuple(entry for entry in entries if entry.condition in conditions)
    return FolderDataset("folder", entries, label_ids.TRAIN_IDS)


def _pairs(
    domain: str,
    root: Path,
    tree: str,
    images: Path,
    patterns: str | tuple[str, ...],
    label_of: Callable[[Path], Path | None],
    condition: str | None,
) -> tuple[Entry, ...]:
    """Return every image that matches, and its label. condition: None: name of its folder.

    Raise DatasetLayoutError if an image lacks its label.
    """
    expected = f"expected below {root}:{tree}"
    if not images.is_dir():
        raise DatasetLayoutError(f"{domain}: no folder {images}; {expected}")
    globs = (patterns,) if isinstance(patterns, str) else patterns
    paths = sorted(path for pattern in globs for path in images.glob(pattern))
    if not paths:
        raise DatasetLayoutError(
            f"{domain}: nothing matches {' or '.join(globs)} in {images}; {expected}"
        )
    labels = [label_of(path) for path in paths]
    missing = [label for label in labels if label is not None and not label.is_file()]
    if missing:
        raise DatasetLayoutError(
            f"{domain}: {len(missing)} of {len(paths)} images have no label, the first is "
            f"{missing[0]}; {expected}"
        )
    return tuple(
        Entry(
            path,
            label,
            condition or path.parent.name,
            path.relative_to(images).with_suffix("").as_posix(),
        )
        for path, label in zip(paths, labels, strict=True)
    )
