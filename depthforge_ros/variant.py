# SPDX-License-Identifier: Apache-2.0
"""A variant: every size, constant and licence of one network, read from models/variants/*.yaml.

One frozen object keeps crop, mean, std, labels and licences together, so that a checkpoint, an
engine and a node can never disagree about them. No torch here: the command line lists variants
without loading it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depthforge_ros import strict
from depthforge_ros.frame import UNLABELLED, DepthKind
from depthforge_ros.resources import shipped_folder

PATCH = 16
"""Side of a ViT patch, pixels. Published 14-pixel kernels are resampled to it."""

STEM_GROUPS = 8
"""GroupNorm groups of a convolutional stem."""


@dataclass(frozen=True)
class LabelClass:
    """One class: its name and the colour people know it by, [r, g, b] 0..255."""

    name: str
    color: tuple[int, int, int]

    def __post_init__(self) -> None:
        if len(self.color) != 3 or not all(0 <= channel <= 255 for channel in self.color):
            raise ValueError(f"color of {self.name!r} is {self.color}; wanted three numbers 0..255")


@dataclass(frozen=True)
class LabelSet:
    """The classes of a network in trainId order; the position is the id."""

    name: str
    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        names = [label.name for label in self.classes]
        if not 1 <= len(names) <= UNLABELLED:
            raise ValueError(f"label set {self.name!r} has {len(names)} classes; wanted 1..255")
        if len(set(names)) != len(names):
            raise ValueError(f"label set {self.name!r} names a class twice: {names}")

    def __len__(self) -> int:
        return len(self.classes)

    def palette(self) -> np.ndarray:
        """Colour of every possible mask value: [256, 3] uint8, black where there is no class."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = [label.color for label in self.classes]
        return table

    def id_of(self, name: str) -> int | None:
        """The trainId of the class of that name, None where the set has no such class."""
        return next((i for i, label in enumerate(self.classes) if label.name == name), None)


@dataclass(frozen=True)
class VitSize:
    """Sizes of one ViT encoder. kind: `dinov2` (plain MLP, LayerScale).

    stem: channels at 1/2, 1/4 and 1/8 of the image of a convolutional stem in place of the linear
    patch embedding, for encoders trained without foundation weights (arXiv 2106.14881); empty for
    the published ones.
    """

    kind: str
    width: int
    blocks: int
    heads: int
    licence: str
    stem: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind != "dinov2":
            raise ValueError(f"encoder kind is {self.kind!r}; this release builds 'dinov2'")
        if len(self.stem) not in (0, 3) or any(channels % STEM_GROUPS for channels in self.stem):
            raise ValueError(
                f"stem is {self.stem}; wanted nothing, or three multiples of {STEM_GROUPS}"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


@dataclass(frozen=True)
class DecoderSize:
    """Sizes of the Mask2Former head: pixel decoder (encoder_*) and mask decoder (decoder_*)."""

    width: int
    groups: int
    encoder_layers: int
    encoder_ffn: int
    decoder_layers: int
    decoder_ffn: int
    heads: int = 8
    points: int = 4

    def __post_init__(self) -> None:
        for name in ("groups", "heads"):
            if self.width % getattr(self, name):
                raise ValueError(
                    f"decoder width {self.width} is not a multiple of {name} {getattr(self, name)}"
                )


@dataclass(frozen=True)
class DepthHeadSize:
    """Sizes of Depth Anything V2's DPT head, the encoder blocks it reads and the unit it gives.

    focal_px: focal length, at the size of inference, of the one camera in whose metres the head
    answers; an image tells the ratio of distance and focal length, not the distance (Metric3D,
    arXiv 2307.10984), so the metres of other cameras follow by proportion. None: the head was
    trained on one camera and answers in its metres whatever the lens.
    """

    features: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    kind: DepthKind
    max_depth_m: float | None = None
    focal_px: float | None = None

    def __post_init__(self) -> None:
        if len(self.channels) != 4 or len(self.blocks) != 4:
            raise ValueError(f"depth head reads {self.blocks} into {self.channels}; wanted 4 and 4")
        if (self.kind is DepthKind.METRIC) != (self.max_depth_m is not None):
            raise ValueError(
                f"depth kind is {self.kind.value} with max_depth_m {self.max_depth_m}; "
                "metric needs max_depth_m, relative must not have it"
            )
        if self.focal_px is not None and (self.kind is DepthKind.RELATIVE or self.focal_px <= 0):
            raise ValueError(
                f"focal_px is {self.focal_px} of a {self.kind.value} head; wanted a positive "
                "number, and only where depth is metric"
            )


@dataclass(frozen=True)
class Variant:
    """Everything that fixes a network's shape and meaning, and nothing that runs it.

    levels: visual blocks (from 0) that feed the decoder, fine to coarse. crop, stride: pixels of
    the sliding window. mean, std: of RGB 0..255. tokens: learnable tokens a layer = queries.
    """

    name: str
    visual: VitSize
    depth: VitSize
    levels: tuple[int, ...]
    tokens: int
    token_rank: int
    decoder: DecoderSize
    depth_head: DepthHeadSize
    crop: int
    stride: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    labels: LabelSet

    def __post_init__(self) -> None:
        if self.crop % PATCH:
            raise ValueError(f"crop {self.crop} is not a multiple of the patch size {PATCH}")
        if not 0 < self.stride <= self.crop:
            raise ValueError(f"stride {self.stride} is not within 1..crop ({self.crop})")
        if (self.visual.width, self.visual.blocks) != (self.depth.width, self.depth.blocks):
            raise ValueError(
                f"visual encoder is {self.visual.width} wide with {self.visual.blocks} blocks, "
                f"depth encoder {self.depth.width} with {self.depth.blocks}; tokens compare their "
                "features block by block, so both must be equal"
            )
        for name, blocks in (("levels", self.levels), ("depth_head", self.depth_head.blocks)):
            if len(blocks) != 4 or list(blocks) != sorted(set(blocks)):
                raise ValueError(f"{name} reads blocks {blocks}; wanted four, rising")
            if not 0 <= blocks[0] <= blocks[-1] < self.visual.blocks:
                raise ValueError(f"{name} reads blocks {blocks} of {self.visual.blocks}")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; wanted positive numbers")

    @property
    def grid(self) -> int:
        """Patches along one side of the crop: the side of the position table."""
        return self.crop // PATCH


def models_dir() -> Path:
    """The folder `models/`. Raises FileNotFoundError where the installation is broken."""
    return shipped_folder("models")


def variant_names() -> list[str]:
    """Names of the variants that ship with the package, sorted."""
    return sorted(path.stem for path in (models_dir() / "variants").glob("*.yaml"))


def load_labels(name: str) -> LabelSet:
    """The label set models/labels/NAME.yaml. Raises ValueError naming what is wrong with it."""
    path = models_dir() / "labels" / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise ValueError(f"label set {name!r} is unknown; known: {', '.join(known)}")
    return strict.read_yaml(path, LabelSet, {})


def load_variant(name_or_path: str | Path) -> Variant:
    """A shipped variant by name, or one of your own by the path of its yaml file.

    Raises ValueError naming the file, the key and what was wanted.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = models_dir() / "variants" / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ValueError(
            f"variant {str(name_or_path)!r} is unknown; known: {', '.join(variant_names())}, "
            "or the path of a .yaml file"
        )
    return strict.read_yaml(path, Variant, {LabelSet: load_labels})


def variant_from_mapping(data: Any) -> Variant:
    """A variant from what `variant_to_mapping` gave (or yaml holds). Raises ValueError."""
    return strict.build(Variant, data, "variant", {LabelSet: load_labels})


def variant_to_mapping(variant: Variant) -> dict[str, Any]:
    """Plain dicts, lists, numbers and strings with every field, to be stored beside weights."""
    return strict.plain(variant)


def variant_differences(stored: Variant, wanted: Variant) -> list[str]:
    """Every size that differs, as `field: stored S, wanted W`; names and licences may differ."""
    differences = []

    def compare(where: str, a: Any, b: Any) -> None:
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            for key in a:
                if key not in ("name", "licence"):
                    compare(f"{where}.{key}" if where else key, a[key], b[key])
        elif isinstance(a, list) and isinstance(b, list) and a and isinstance(a[0], dict):
            if [entry["name"] for entry in a] != [entry["name"] for entry in b]:
                differences.append(
                    f"{where}: stored {len(a)}, wanted {len(b)}, or in another order"
                )
        elif a != b:
            differences.append(f"{where}: stored {a}, wanted {b}")

    compare("", strict.plain(stored), strict.plain(wanted))
    return differences
