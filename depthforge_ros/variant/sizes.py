# SPDX-License-Identifier: Apache-2.0
"""Sizes of the parts of a network, validated when constructed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from depthforge_ros.frame import DepthKind

PATCH = 16
"""Side of a ViT patch, pixels. Published 14-pixel kernels are resampled to it."""

STEM_GROUPS = 8
"""GroupNorm groups of a convolutional stem."""


@dataclass(frozen=True)
class Source:
    """Address of the published weights of a part.

    sha256: of the file, None if nobody has published it. size_mb: its size, in 10⁶ bytes. name: to
    store the file under, if several are published under one name.
    """

    url: str
    sha256: str | None = None
    size_mb: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith("https://") or not self.file:
            raise ValueError(f"url is {self.url!r}; expected https:// and the name of a file")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 is {self.sha256!r}; expected 64 hexadecimal digits, or none")

    @property
    def file(self) -> str:
        """The name to store the file under."""
        return self.name or self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Adapter:
    """Published weights of everything that is trained on the frozen encoders, and their licence."""

    licence: str
    source: Source


@dataclass(frozen=True)
class VitSize:
    """Sizes of one ViT encoder, and where its published weights are.

    kind: `dinov2` (arXiv 2304.07193; Depth Anything V2's encoder too), or `eva02` (arXiv
    2303.11331). swiglu: DINOv2-g's gated feed-forward in place of the MLP. registers: tokens
    after the class token that belong to no patch (arXiv 2309.16588). stem: channels at 1/2, 1/4
    and 1/8 of the image of a convolutional stem in place of the linear patch embedding, for
    encoders trained without foundation weights (arXiv 2106.14881); empty for the published ones.
    stem_blocks: residual blocks of two convolutions after each of the stem's three steps.

    licence: of the weights. source: None where they are not published; that of a depth encoder
    holds the depth head too.
    """

    kind: str
    width: int
    blocks: int
    heads: int
    licence: str
    stem: tuple[int, ...] = ()
    stem_blocks: tuple[int, ...] = ()
    swiglu: bool = False
    registers: int = 0
    source: Source | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("dinov2", "eva02"):
            raise ValueError(f"encoder kind is {self.kind!r}; expected 'dinov2' or 'eva02'")
        if len(self.stem) not in (0, 3) or any(channels % STEM_GROUPS for channels in self.stem):
            raise ValueError(
                f"stem is {self.stem}; expected nothing, or three multiples of {STEM_GROUPS}"
            )
        if len(self.stem_blocks) != len(self.stem) or any(n < 0 for n in self.stem_blocks):
            raise ValueError(
                f"stem_blocks is {self.stem_blocks} for stem {self.stem}; expected a count, 0 or "
                "more, for every step of the stem"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.kind == "eva02":
            if self.stem or self.swiglu or self.registers:
                raise ValueError(
                    f"stem is {self.stem}, swiglu {self.swiglu}, registers {self.registers}; "
                    "an eva02 encoder has none of them to choose"
                )
            if self.width // self.heads % 4:
                raise ValueError(
                    f"heads are {self.width // self.heads} wide; rotary positions of rows and "
                    "columns want a multiple of 4"
                )

    @property
    def prefix(self) -> int:
        """Return the number of tokens before the patches: class token and registers."""
        return 1 + self.registers


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

    focal_px: focal length in pixels of the network's input at which the output is in metres. An
    image determines the ratio of distance and focal length only (Metric3D, arXiv 2307.10984), and
    a transformer measures apparent size in patches, so the invariant is the focal length in
    patches: a head tuned with focal length f px in patches of p px has focal_px = f / p * PATCH.
    The output of other cameras is multiplied by their focal length over focal_px, and so is the
    limit max_depth_m. None: the output is taken as metres for every camera.
    """

    features: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    kind: DepthKind
    max_depth_m: float | None = None
    focal_px: float | None = None

    def __post_init__(self) -> None:
        if len(self.channels) != 4 or len(self.blocks) != 4:
            raise ValueError(
                f"depth head reads {self.blocks} into {self.channels}; expected 4 and 4"
            )
        if (self.kind is DepthKind.METRIC) != (self.max_depth_m is not None):
            raise ValueError(
                f"depth kind is {self.kind.value} with max_depth_m {self.max_depth_m}; "
                "metric needs max_depth_m, relative must not have it"
            )
        if self.focal_px is not None and (self.kind is DepthKind.RELATIVE or self.focal_px <= 0):
            raise ValueError(
                f"focal_px is {self.focal_px} of a {self.kind.value} head; expected a positive "
                "number, and only where depth is metric"
            )
