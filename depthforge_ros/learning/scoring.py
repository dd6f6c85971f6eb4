# SPDX-License-Identifier: Apache-2.0
"""Scores of a pipeline on labelled images, by data set, condition and class."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from depthforge_ros.frame import Frame, Prediction
from depthforge_ros.learning.config import DatasetKind, DatasetSettings, Origin, open_dataset
from depthforge_ros.learning.datasets import with_label_set
from depthforge_ros.learning.label_ids import ClassMerge, MapillaryMapping
from depthforge_ros.learning.metrics import Calibration, Confusion, DepthErrors, DepthScores
from depthforge_ros.learning.samples import Sample, SampleSource, Skipped, UnreadableImageError
from depthforge_ros.learning.street_cache import HeldOutStreets
from depthforge_ros.pipeline import Mode, Pipeline, PipelineSettings
from depthforge_ros.street import CONDITIONS
from depthforge_ros.variant import LabelSet


class Protocol(Enum):
    """How images are prepared and figures averaged."""

    FRAME = "frame"
    """As the node runs: whole frames at the pipeline's settings."""
    PAPER = "paper"
    """As DepthForge's authors test: windows of the training crop on images of a size fixed for each
    data set; ACDC's figure is the mean over its conditions."""


@dataclass(frozen=True)
class Reliability:
    """Bins of confidence of equal width: share of the pixels, mean confidence and accuracy of each,
    NaN for empty bins.
    """

    share: tuple[float, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class Scores:
    """Scores of a set of images. iou: of every class, NaN if it does not occur. depth: None if no
    image has true depth, or the pipeline gave none.
    """

    images: int
    pixels: int
    miou: float
    pixel_accuracy: float
    iou: tuple[float, ...]
    calibration_error: float
    reliability: Reliability
    depth: DepthScores | None


@dataclass(frozen=True)
class DatasetScores:
    """Scores of one data set, over all images and by condition.

    origin: of its images. classes: of the IoUs.
    same_content: the conditions show the same scenes, so that content does not explain their
    differences. skipped: the images that could not be read. mean_of_conditions: whether the mIoU to
    quote is the mean over the conditions instead of that over all pixels.
    """

    name: str
    origin: Origin
    classes: tuple[str, ...]
    scores: Scores
    conditions: dict[str, Scores]
    same_content: bool
    skipped: tuple[str, ...]
    mean_of_conditions: bool = False

    @property
    def miou(self) -> float:
        """The mIoU to quote."""
        if not self.mean_of_conditions:
            return self.scores.miou
        return sum(scores.miou for scores in self.conditions.values()) / len(self.conditions)


@dataclass
class Tally:
    """Accumulates the scores of images."""

    classes: int
    images: int = 0
    confusion: Confusion = field(init=False)
    calibration: Calibration = field(default_factory=Calibration)
    depth: DepthErrors = field(default_factory=DepthErrors)

    def __post_init__(self) -> None:
        self.confusion = Confusion(self.classes)

    def add(self, sample: Sample, prediction: Prediction, merge: ClassMerge | None) -> None:
        """Add one image and its prediction. merge: the coarser classes to score in."""
        truth, predicted = sample.labels, prediction.labels
        if merge is not None:
            truth, predicted = merge.table[truth], merge.table[predicted]
        self.images += 1
        self.confusion.add(truth, predicted)
        self.calibration.add(truth, predicted, prediction.confidence)
        if sample.depth_m is not None and prediction.depth is not None:
            self.depth.add(sample.depth_m, prediction.depth, prediction.depth_kind)

    def scores(self) -> Scores:
        """Return the scores of the images added so far."""
        pixels, confidence, accuracy = self.calibration.bins()
        share = pixels / max(pixels.sum(), 1)
        return Scores(
            images=self.images,
            pixels=int(self.confusion.counts.sum()),
            miou=self.confusion.mean_iou(),
            pixel_accuracy=self.confusion.pixel_accuracy(),
            iou=tuple(self.confusion.iou().tolist()),
            calibration_error=self.calibration.error(),
            reliability=Reliability(*(tuple(v.tolist()) for v in (share, confidence, accuracy))),
            depth=self.depth.scores(),
        )


def source_of(settings: DatasetSettings, labels: LabelSet | None = None) -> SampleSource:
    """Return the data set to evaluate on: each held-out street under every condition.

    labels: whose ids the samples have; None: Cityscapes'.
    """
    if settings.kind is not DatasetKind.STREET_HELD_OUT:
        return open_dataset(settings, labels)
    source: SampleSource = HeldOutStreets(
        settings.frames, settings.only or CONDITIONS, every_condition=True
    )
    return source if labels is None else with_label_set(source, labels, has_own_ids=False)


def name_of(settings: DatasetSettings) -> str:
    """Return the name of the data set in reports, with its folder unless that has the same name."""
    mapping = ""
    if settings.kind is DatasetKind.MAPILLARY:
        mapping = f"mapping {(settings.mapping or MapillaryMapping.PAPER).value}"
    folder = settings.root.name
    if settings.kind.value in (folder, DatasetKind.STREET_HELD_OUT.value):
        folder = ""
    parts = [settings.kind.value, folder, settings.split, ",".join(settings.only), mapping]
    return " ".join(filter(None, parts))


def score_dataset(
    pipeline: Pipeline,
    settings: DatasetSettings,
    limit: int | None = None,
    protocol: Protocol = Protocol.FRAME,
    predictions: Path | None = None,
) -> DatasetScores:
    """Run the pipeline over a data set, frame by frame, with its focal length, and score it.

    limit: at most so many images, evenly spread (of held-out streets: so many worlds).
    predictions: folder for a mask of trainIds of every image. Raise ValueError if a label is none
    of the variant's classes, or the protocol does not cover the data set or the variant.
    """
    view = VIEWS[protocol](pipeline, settings)
    labels = pipeline.engine.variant.labels
    source, name = source_of(settings, labels), name_of(settings)
    merge: ClassMerge | None = getattr(source, "merge", None)
    classes = tuple(label.name for label in labels.classes) if merge is None else merge.names
    total = Tally(len(classes))
    conditions: dict[str, Tally] = {}
    skipped = Skipped()
    for index in tqdm(_positions(source, limit), desc=name, unit="image"):
        try:
            sample = source[index]
        except UnreadableImageError as error:
            skipped.add(error)
            continue
        sample, inference = view(sample)
        frame = Frame(sample.rgb, focal_px=sample.focal_px)
        depth = sample.depth_m is not None
        prediction = pipeline.batch([frame], [depth], inference)[0]
        if predictions is not None:
            write_mask(prediction.labels, predictions / mask_path(settings.kind, sample))
        one = conditions.setdefault(sample.condition, Tally(len(classes)))
        for tally in (total, one):
            tally.add(sample, prediction, merge)
    if not total.images:
        raise ValueError(f"{name} has no readable image; {skipped.summary()}")
    return DatasetScores(
        name,
        settings.image_origin(),
        classes,
        total.scores(),
        {condition: tally.scores() for condition, tally in conditions.items()},
        same_content=isinstance(source, HeldOutStreets),
        skipped=tuple(skipped.names),
        mean_of_conditions=protocol is Protocol.PAPER and settings.kind is DatasetKind.ACDC,
    )


View = Callable[[Sample], tuple[Sample, PipelineSettings]]
"""Prepares a sample: the image to predict with its labels, and the settings of inference."""


def frame_view(pipeline: Pipeline, _: DatasetSettings) -> View:
    """Return the view of protocol `frame`: the image as it is, the pipeline's settings."""
    return lambda sample: (sample, pipeline.settings)


PAPER_SIZES = {
    512: {
        DatasetKind.CITYSCAPES: (512, 1024),
        DatasetKind.BDD100K: (720, 1280),
        DatasetKind.ACDC: (540, 960),
        DatasetKind.MAPILLARY: (512, 1024),
    },
    1024: {DatasetKind.CITYSCAPES: (1024, 2048), DatasetKind.ACDC: (1080, 1920)},
}
"""By side of the windows: height and width that images are resized into, keeping their ratio
(configs/_base_/datasets of DepthForge at b7181fa)."""


def paper_view(pipeline: Pipeline, settings: DatasetSettings) -> View:
    """Return the view of protocol `paper`: windows on an image resized without antialiasing.

    Raise ValueError if the authors have no such test for the data set or the variant.
    """
    variant = pipeline.engine.variant
    sizes = PAPER_SIZES.get(variant.crop, {})
    if settings.kind not in sizes:
        known = "; ".join(
            f"{crop}: {', '.join(kind.value for kind in kinds)}"
            for crop, kinds in PAPER_SIZES.items()
        )
        raise ValueError(
            f"protocol paper has no test of {settings.kind.value} with windows of {variant.crop} "
            f"px (variant {variant.name!r}); it has {known}"
        )
    short, long = sizes[settings.kind]
    inference = replace(pipeline.settings, mode=Mode.SLIDE, antialias=False)

    def view(sample: Sample) -> tuple[Sample, PipelineSettings]:
        if settings.kind is DatasetKind.MAPILLARY:
            sample = halved(sample)
        sides = sorted(sample.labels.shape)
        scale = min(short / sides[0], long / sides[1])
        return sample, replace(inference, short_side_px=math.floor(sides[0] * scale + 0.5))

    return view


def halved(sample: Sample) -> Sample:
    """Return the sample at half its size, as the authors store Mapillary's validation images.

    Pillow's bicubic filter and JPEG of quality 75 for the image, nearest neighbour for the labels
    (tools/convert_datasets/mapillary_resize.py of DepthForge and Rein).
    """
    height, width = (side // 2 for side in sample.labels.shape)
    stored = io.BytesIO()
    small = Image.fromarray(sample.rgb).resize((width, height), Image.Resampling.BICUBIC)
    small.save(stored, "JPEG")
    with Image.open(stored) as decoded:
        rgb = np.asarray(decoded.convert("RGB"))
    labels = Image.fromarray(sample.labels).resize((width, height), Image.Resampling.NEAREST)
    return replace(sample, rgb=rgb, labels=np.asarray(labels))


VIEWS = {Protocol.FRAME: frame_view, Protocol.PAPER: paper_view}


def mask_path(kind: DatasetKind, sample: Sample) -> Path:
    """Return the file of a predicted mask: that of the image, without folders for ACDC's server."""
    name = Path(f"{sample.name}.png")
    return Path(name.name) if kind is DatasetKind.ACDC else Path(sample.domain) / name


def write_mask(labels: np.ndarray, path: Path) -> None:
    """Write trainIds [H, W] uint8 as an 8-bit PNG. Raise OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    Image.fromarray(labels).save(partial, "PNG")
    partial.replace(path)


def _positions(source: SampleSource, limit: int | None) -> list[int]:
    """Return the images to take: all, or `limit` evenly spread; a street with all conditions."""
    if limit is None:
        return list(range(len(source)))
    together = len(source.conditions) if isinstance(source, HeldOutStreets) else 1
    units = len(source) // together
    chosen = np.linspace(0, units - 1, min(limit, units)).round().astype(int).tolist()
    return [unit * together + offset for unit in chosen for offset in range(together)]
