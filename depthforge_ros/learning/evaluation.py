# SPDX-License-Identifier: Apache-2.0
"""What a pipeline scores on labelled images, by data set, condition and class."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from depthforge_ros.frame import Frame, Prediction
from depthforge_ros.learning.config import DatasetKind, DatasetSettings, open_dataset
from depthforge_ros.learning.label_ids import ClassMerge
from depthforge_ros.learning.metrics import Calibration, Confusion, DepthErrors, DepthScores
from depthforge_ros.learning.samples import Sample, SampleSource, Skipped, UnreadableImageError
from depthforge_ros.learning.street_cache import HeldOutStreets
from depthforge_ros.pipeline import Pipeline
from depthforge_ros.street import CONDITIONS


@dataclass(frozen=True)
class Reliability:
    """Equally wide bins of confidence: share of the pixels, mean confidence and accuracy of each,
    NaN where a bin is empty.
    """

    share: tuple[float, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class Scores:
    """Of a set of images. iou: of every class, NaN where it does not occur. depth: None where no
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
    """Of one data set, whole and by condition. classes: what its IoUs are of.

    same_content: the conditions show the same scenes, so that their differences are theirs alone.
    skipped: the images that could not be read.
    """

    name: str
    classes: tuple[str, ...]
    scores: Scores
    conditions: dict[str, Scores]
    same_content: bool
    skipped: tuple[str, ...]


@dataclass
class Tally:
    """Accumulates images of one kind."""

    classes: int
    images: int = 0
    confusion: Confusion = field(init=False)
    calibration: Calibration = field(default_factory=Calibration)
    depth: DepthErrors = field(default_factory=DepthErrors)

    def __post_init__(self) -> None:
        self.confusion = Confusion(self.classes)

    def add(self, sample: Sample, prediction: Prediction, merge: ClassMerge | None) -> None:
        """Add one image and what was seen in it; merge: the coarser classes to score in."""
        truth, predicted = sample.labels, prediction.labels
        if merge is not None:
            truth, predicted = merge.table[truth], merge.table[predicted]
        self.images += 1
        self.confusion.add(truth, predicted)
        self.calibration.add(truth, predicted, prediction.confidence)
        if sample.depth_m is not None and prediction.depth is not None:
            self.depth.add(sample.depth_m, prediction.depth, prediction.depth_kind)

    def scores(self) -> Scores:
        """What has been added so far."""
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


def source_of(settings: DatasetSettings) -> SampleSource:
    """The data set as it is evaluated: each held-out street under every condition."""
    if settings.kind is DatasetKind.STREET_HELD_OUT:
        return HeldOutStreets(settings.frames, settings.only or CONDITIONS, every_condition=True)
    return open_dataset(settings)


def name_of(settings: DatasetSettings) -> str:
    """How a report calls the data set."""
    return " ".join(filter(None, [settings.kind.value, settings.split, ",".join(settings.only)]))


def evaluate(
    pipeline: Pipeline, settings: DatasetSettings, limit: int | None = None
) -> DatasetScores:
    """Run the pipeline over a data set as the node would, frame by frame, with its own focal
    length. limit: at most so many images, evenly spread (of held-out streets: so many worlds).

    Raises ValueError where a label is none of the variant's classes.
    """
    source, name = source_of(settings), name_of(settings)
    merge: ClassMerge | None = getattr(source, "merge", None)
    labels = pipeline.engine.variant.labels
    classes = tuple(label.name for label in labels.classes) if merge is None else merge.names
    whole = Tally(len(classes))
    conditions: dict[str, Tally] = {}
    skipped = Skipped()
    for index in tqdm(_positions(source, limit), desc=name, unit="image"):
        try:
            sample = source[index]
        except UnreadableImageError as error:
            skipped.add(error)
            continue
        frame = Frame(sample.rgb, focal_px=sample.focal_px)
        prediction = pipeline(frame, depth=sample.depth_m is not None)
        one = conditions.setdefault(sample.condition, Tally(len(classes)))
        for tally in (whole, one):
            tally.add(sample, prediction, merge)
    if not whole.images:
        raise ValueError(f"{name} has no readable image; {skipped.summary()}")
    return DatasetScores(
        name,
        classes,
        whole.scores(),
        {condition: tally.scores() for condition, tally in conditions.items()},
        same_content=isinstance(source, HeldOutStreets),
        skipped=tuple(skipped.names),
    )


def _positions(source: SampleSource, limit: int | None) -> list[int]:
    """Which images to take: all, or `limit` evenly spread; all conditions of a street together."""
    if limit is None:
        return list(range(len(source)))
    together = len(source.conditions) if isinstance(source, HeldOutStreets) else 1
    units = len(source) // together
    chosen = np.linspace(0, units - 1, min(limit, units)).round().astype(int).tolist()
    return [unit * together + offset for unit in chosen for offset in range(together)]
