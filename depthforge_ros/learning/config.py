# SPDX-License-Identifier: Apache-2.0
"""The configuration of one training run: config/train/*.yaml, read strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from depthforge_ros import dataclass_yaml
from depthforge_ros.learning import datasets
from depthforge_ros.learning.augment import AugmentSettings
from depthforge_ros.learning.distil.taught import Taught
from depthforge_ros.learning.label_ids import MapillaryMapping
from depthforge_ros.learning.losses import LossSettings
from depthforge_ros.learning.samples import SampleSource
from depthforge_ros.learning.street_cache import HeldOutStreets, RenderSettings, StreetCache
from depthforge_ros.street import CONDITIONS
from depthforge_ros.variant import LabelSet, Variant, load_variant


class Stage(Enum):
    """What is trained."""

    METHOD = "method"
    """Tokens, refinement and head on frozen encoders: the paper."""
    VISUAL = "visual"
    """The visual encoder itself, on dense labels, where no foundation weights exist."""
    DEPTH = "depth"
    """The depth encoder and its head, on metric depth."""
    JOINT = "joint"
    """Everything of a variant with one encoder, on masks and metric depth."""


class Ablation(Enum):
    """Parts of the method that a network is trained with, to compare them."""

    NONE = "none"
    """Neither tokens in the encoder nor the refinement decoder: a Mask2Former head on frozen
    features. The tokens still make the head's queries."""
    REIN = "rein"
    """Tokens that see visual features only, no refinement decoder (Rein, arXiv 2312.04265)."""
    DEPTH = "depth"
    """Depth-aware tokens and the refinement decoder: DepthForge."""


class Schedule(Enum):
    """How the learning rate changes over a run; see `loop.learning_rate`."""

    ONE_CYCLE = "one_cycle"
    WARMUP_POLY = "warmup_poly"


class Decay(Enum):
    """Which parameters have weight decay."""

    MATRICES = "matrices"
    """Weights of two dimensions and more, without tokens and embeddings."""
    PAPER = "paper"
    """All but norms, tokens, their scale and the level embedding, as DepthForge's authors train:
    biases and the level encoding decay too."""


class DatasetKind(Enum):
    """A data set by name; see learning/datasets.py for the layouts."""

    CITYSCAPES = "cityscapes"
    GTA5 = "gta5"
    BDD100K = "bdd100k"
    MAPILLARY = "mapillary"
    SYNTHIA = "synthia"
    URBANSYN = "urbansyn"
    ACDC = "acdc"
    CAMVID = "camvid"
    FOLDER = "folder"
    """Images of one's own with labels in trainIds."""
    STREET = "street"
    """Rendered street worlds in `root` (training)."""
    STREET_HELD_OUT = "street_held_out"
    """Street worlds whose seeds are never trained on, rendered when asked for (validation)."""


class Origin(Enum):
    """Where the images of a data set come from. Means are taken within one origin only."""

    REAL = "real"
    """Photographs."""
    ALTERED = "altered"
    """Photographs changed by a program: darkened, relit, with fog added."""
    RENDERED = "rendered"
    """Computer graphics."""


RENDERED_KINDS = {
    DatasetKind.GTA5,
    DatasetKind.SYNTHIA,
    DatasetKind.URBANSYN,
    DatasetKind.STREET,
    DatasetKind.STREET_HELD_OUT,
}

SPLITS = {
    DatasetKind.CITYSCAPES: ("train", "val"),
    DatasetKind.BDD100K: ("train", "val"),
    DatasetKind.MAPILLARY: ("training", "validation"),
    DatasetKind.ACDC: ("train", "val", "test"),
    DatasetKind.FOLDER: ("train", "val"),
}
"""Splits by the names their folders have, for training and for validation; the others have none."""

SELECTABLE = {
    DatasetKind.ACDC: "conditions",
    DatasetKind.CAMVID: "sequences",
    DatasetKind.FOLDER: "conditions",
    DatasetKind.STREET: "conditions",
    DatasetKind.STREET_HELD_OUT: "conditions",
}
"""What `only` names."""


@dataclass(frozen=True)
class DatasetSettings:
    """One data set of a mixture.

    root: its folder. split: if it has splits. only: conditions or CamVid's sequences, empty: all.
    mapping: of Mapillary's label ids, `paper` if not given. weight: share of the samples drawn
    from it, relative to the others. origin: of the images where the kind does not settle it (own
    folders, changed photographs). frames: number of held-out streets. taught: folder of depth and
    finer labels from a teacher (learning/distil/teacher.py). render: streets to render into `root`
    while training runs.
    """

    kind: DatasetKind
    root: Path = Path()
    split: str = ""
    only: tuple[str, ...] = ()
    mapping: MapillaryMapping | None = None
    weight: float = 1.0
    origin: Origin | None = None
    frames: int = 36
    taught: Path | None = None
    render: RenderSettings | None = None

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"weight of {self.kind.value} is {self.weight}; expected more than 0")
        if self.render is not None and self.kind is not DatasetKind.STREET:
            raise ValueError(f"render is for street; this data set is {self.kind.value}")
        if self.split not in SPLITS.get(self.kind, ("",)):
            allowed = " or ".join(SPLITS.get(self.kind, ("none",)))
            raise ValueError(f"split of {self.kind.value} is {self.split!r}; expected {allowed}")
        if self.mapping is not None and self.kind is not DatasetKind.MAPILLARY:
            raise ValueError(f"mapping is for mapillary; this data set is {self.kind.value}")
        if self.kind in RENDERED_KINDS and self.origin not in (None, Origin.RENDERED):
            raise ValueError(
                f"origin of {self.kind.value} is {self.origin.value!r}; expected 'rendered'"
            )
        if self.only and self.kind not in SELECTABLE:
            raise ValueError(f"only is {list(self.only)}, but {self.kind.value} has no parts")

    def image_origin(self) -> Origin:
        """Return `origin`, or the one of the kind; own folders count as real."""
        kind = Origin.RENDERED if self.kind in RENDERED_KINDS else Origin.REAL
        return self.origin or kind


@dataclass(frozen=True)
class TrainConfig:
    """One run. Paths are relative to the working directory.

    variant: name or yaml file. output: folder of checkpoints and logs. steps: optimiser steps.
    batch: samples a process and micro-step. accumulate: micro-steps a step. lr: peak of the
    schedule, warmup its rising share, start_factor and end_factor its ends as shares of lr.
    clip_norm: of the gradient. ema: decay of the
    averaged weights, None without. weights: frozen parts (method), or a start for the encoder
    (visual, depth: a file with `visual.*` serves the depth encoder too). ablation: what the method
    does without. save_every, log_every, validate_every: steps. validate_samples: of every
    validation set. tensorboard: curves for it too, beside log.jsonl.
    """

    stage: Stage
    variant: str
    output: Path
    train: tuple[DatasetSettings, ...]
    validate: tuple[DatasetSettings, ...]
    augment: AugmentSettings
    steps: int
    batch: int
    accumulate: int = 1
    lr: float = 1e-4
    schedule: Schedule = Schedule.ONE_CYCLE
    warmup: float = 0.05
    start_factor: float = 0.04
    end_factor: float = 1e-4
    weight_decay: float = 0.05
    decay: Decay = Decay.MATRICES
    clip_norm: float | None = None
    ema: float | None = None
    weights: tuple[Path, ...] = ()
    ablation: Ablation = Ablation.DEPTH
    losses: LossSettings = field(default_factory=LossSettings)
    seed: int = 0
    workers: int = 1
    threads: int | None = None
    autocast: bool = True
    save_every: int = 500
    log_every: int = 20
    validate_every: int = 2000
    validate_samples: int = 100
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "save_every", "log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not self.train:
            raise ValueError("train is empty; expected at least one data set")
        for name in ("start_factor", "end_factor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0..1")
        if not 0.0 < self.warmup < 1.0:
            raise ValueError(f"warmup is {self.warmup}; expected between 0 and 1")
        if self.ema is not None and not 0.0 < self.ema < 1.0:
            raise ValueError(f"ema is {self.ema}; expected between 0 and 1, or null")
        if self.ablation is not Ablation.DEPTH and self.stage is not Stage.METHOD:
            raise ValueError(f"ablation is for stage method; this is stage {self.stage.value}")
        if self.stage is Stage.DEPTH:
            flat = [d.kind.value for d in self.train if d.kind is not DatasetKind.STREET]
            if flat:
                raise ValueError(f"stage depth needs metric depth, which {flat} do not have")

    def load_variant(self) -> Variant:
        """Return the variant, with Rein's tokens if the ablation says so. Raise ValueError."""
        variant = load_variant(self.variant)
        if self.ablation is Ablation.REIN and variant.depth_in_tokens:
            return load_variant(f"{self.variant}+rein")
        return variant


def read_config(path: Path) -> TrainConfig:
    """A configuration from yaml. Raise ValueError naming file, key and what was expected."""
    if not path.is_file():
        raise ValueError(f"no configuration at {path}")
    return dataclass_yaml.read_yaml(path, TrainConfig, {})


def open_dataset(settings: DatasetSettings, labels: LabelSet | None = None) -> SampleSource:
    """Return the data set, with the ids of the label set (None: Cityscapes' trainIds).

    Raise DatasetLayoutError if its files are missing, ValueError if it cannot have the label set.
    """
    source: SampleSource = open_untaught(settings)
    if labels is not None:
        source = datasets.with_label_set(source, labels, settings.kind is DatasetKind.FOLDER)
    return source if settings.taught is None else Taught(source, settings.taught)


def open_untaught(settings: DatasetSettings) -> SampleSource:
    """The data set as its files are. Raise DatasetLayoutError if they are missing."""
    root, split, only = settings.root, settings.split, settings.only
    match settings.kind:
        case DatasetKind.CITYSCAPES:
            return datasets.cityscapes(root, split)
        case DatasetKind.GTA5:
            return datasets.gta5(root)
        case DatasetKind.BDD100K:
            return datasets.bdd100k(root, split)
        case DatasetKind.MAPILLARY:
            return datasets.mapillary(root, split, settings.mapping or MapillaryMapping.PAPER)
        case DatasetKind.SYNTHIA:
            return datasets.synthia(root)
        case DatasetKind.URBANSYN:
            return datasets.urbansyn(root)
        case DatasetKind.ACDC:
            return datasets.acdc(root, split, only or datasets.ACDC_CONDITIONS)
        case DatasetKind.CAMVID:
            return datasets.camvid(root, only)
        case DatasetKind.FOLDER:
            return datasets.folder(root, split, only)
        case DatasetKind.STREET:
            return StreetCache(root, only or CONDITIONS)
        case DatasetKind.STREET_HELD_OUT:
            return HeldOutStreets(settings.frames, only or CONDITIONS)
