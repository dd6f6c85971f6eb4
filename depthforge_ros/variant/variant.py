# SPDX-License-Identifier: Apache-2.0
"""The variant: shape and meaning of a network."""

from __future__ import annotations

from dataclasses import dataclass

from depthforge_ros.variant.labels import LabelSet
from depthforge_ros.variant.sizes import PATCH, Adapter, DecoderSize, DepthHeadSize, VitSize


@dataclass(frozen=True)
class Variant:
    """Everything that defines a network's shape and meaning, and nothing about execution.

    depth: the depth encoder; None: one encoder, `visual`, serves masks and depth (then its `source`
    also holds the depth head). levels: visual blocks (from 0) that feed the decoder, fine to
    coarse. crop, stride: pixels of the sliding window. mean, std: of RGB 0..255. tokens: learnable
    tokens a layer = queries. depth_in_tokens: whether the tokens see depth features (DepthForge) or
    only visual ones (Rein, arXiv 2312.04265). adapter: the published adapter, None if it is trained
    by the user.
    """

    name: str
    visual: VitSize
    depth: VitSize | None
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
    depth_in_tokens: bool = True
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        if self.crop % PATCH:
            raise ValueError(f"crop {self.crop} is not a multiple of the patch size {PATCH}")
        if not 0 < self.stride <= self.crop:
            raise ValueError(f"stride {self.stride} is not within 1..crop ({self.crop})")
        depth = self.depth_encoder
        if (self.visual.width, self.visual.blocks) != (depth.width, depth.blocks):
            raise ValueError(
                f"visual encoder is {self.visual.width} wide with {self.visual.blocks} blocks, "
                f"depth encoder {depth.width} with {depth.blocks}; tokens compare their "
                "features block by block, so both must be equal"
            )
        if depth.kind != "dinov2":
            raise ValueError(
                f"the encoder that gives depth is of kind {depth.kind!r}; allowed: 'dinov2', which "
                "is Depth Anything V2's"
            )
        for name, blocks in (("levels", self.levels), ("depth_head", self.depth_head.blocks)):
            if len(blocks) != 4 or list(blocks) != sorted(set(blocks)):
                raise ValueError(f"{name} reads blocks {blocks}; expected four, rising")
            if not 0 <= blocks[0] <= blocks[-1] < self.visual.blocks:
                raise ValueError(f"{name} reads blocks {blocks} of {self.visual.blocks}")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; expected positive numbers")

    @property
    def depth_encoder(self) -> VitSize:
        """The encoder whose features the depth head reads."""
        return self.visual if self.depth is None else self.depth

    @property
    def encoders(self) -> dict[str, VitSize]:
        """The encoders by the name of their part of the network: `visual`, and `depth` if any."""
        return {"visual": self.visual} | ({} if self.depth is None else {"depth": self.depth})

    @property
    def grid(self) -> int:
        """Return the patches along one side of the crop, which is the position table's side."""
        return self.crop // PATCH
