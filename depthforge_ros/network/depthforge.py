# SPDX-License-Identifier: Apache-2.0
"""DepthForge (arXiv 2504.12753), whole. Read this file first; each part has a file of its own.

Two frozen vision transformers read the same image: one gives visual features, one gives depth
features. After every block, depth-aware tokens correct the visual features. A refinement
decoder and a Mask2Former head turn them into masks; Depth Anything V2's own head turns the depth
features, already computed, into depth.

A variant with one encoder (`depth: null`) uses it for both. Its blocks then never read the
corrections: these accumulate in a side stream c, the levels are d + c, and the depth head reads the
untouched features d.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthforge_ros.network.depth_head import DepthHead
from depthforge_ros.network.depth_tokens import DepthTokens
from depthforge_ros.network.eva import EvaTransformer
from depthforge_ros.network.mask_decoder import MaskDecoder, MaskOutputs
from depthforge_ros.network.pixel_decoder import PixelDecoder
from depthforge_ros.network.refinement import RefinementDecoder
from depthforge_ros.network.vit import VisionTransformer
from depthforge_ros.variant import PATCH, Variant

LEVEL_SCALES = (4.0, 2.0, 1.0, 0.5)
SIDE_MULTIPLE = 2 * PATCH
"""Sides of images are multiples of this, so that the coarsest map has whole positions."""

FROZEN_PARTS = ("visual", "depth", "depth_head")
"""Parts that are not trained with the method, of a variant with two encoders."""
ADAPTER_PARTS = ("tokens", "refinement", "pixel_decoder", "mask_decoder")


def frozen_parts(variant: Variant) -> tuple[str, ...]:
    """Return the parts of the variant's network that are not trained with the method."""
    return (*variant.encoders, "depth_head")


@dataclass(frozen=True)
class Features:
    """What the two encoders and the tokens hand to the heads.

    levels: four maps [B, C, h, w] at 1/4, 1/8, 1/16 and 1/32 of the image. depth_tokens: [B, N, C]
    each, normalised, for the depth head; empty if depth is not requested.
    """

    levels: list[Tensor]
    depth_tokens: list[Tensor]


class DepthForge(nn.Module):
    """The network of one variant. Images are RGB 0..255; normalisation is inside."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        width = variant.visual.width
        decoder = variant.decoder
        self.register_buffer("mean", torch.empty(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.empty(3, 1, 1), persistent=False)
        self.visual = (
            EvaTransformer(variant.visual, variant.grid)
            if variant.visual.kind == "eva02"
            else VisionTransformer(variant.visual, variant.grid, finer=True)
        )
        self.depth = (
            None if variant.depth is None else VisionTransformer(variant.depth, variant.grid)
        )
        self.depth_head = DepthHead(width, variant.depth_head)
        self.tokens = DepthTokens(
            variant.visual.blocks, variant.tokens, variant.token_rank, width, decoder.width
        )
        self.refinement = RefinementDecoder(width)
        self.pixel_decoder = PixelDecoder(width, decoder)
        self.mask_decoder = MaskDecoder(len(variant.labels), decoder)
        self.set_constants()

    def set_constants(self) -> None:
        """Fill what no checkpoint holds; to be called again after `to_empty`."""
        for encoder in self.encoders():
            encoder.set_constants()
        for buffer, values in ((self.mean, self.variant.mean), (self.std, self.variant.std)):
            buffer.copy_(torch.tensor(values, device=buffer.device).view(3, 1, 1))

    def encoders(self) -> tuple[EvaTransformer | VisionTransformer, ...]:
        """The visual encoder, and the depth encoder if the variant has one."""
        return (self.visual,) if self.depth is None else (self.visual, self.depth)

    def at_size(self, height: int, width: int) -> DepthForge:
        """This network for images of height × width alone, with its position tables made.

        It shares every weight but those tables, gives the same numbers, and resamples nothing when
        it runs. For inference, compilation and export; not for training, nor to be saved. Raises
        ValueError where a side is no multiple of 32.
        """
        if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE or min(height, width) <= 0:
            raise ValueError(
                f"image is {height} × {width}; expected positive multiples of {SIDE_MULTIPLE}"
            )
        shared = {id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())}
        network = copy.deepcopy(self, shared)
        for encoder in network.encoders():
            encoder.set_grid(height // PATCH, width // PATCH)
        return network

    def forward(self, images: Tensor, depth: bool = True) -> tuple[Tensor, Tensor | None]:
        """Images [B, 3, H, W] RGB 0..255, H and W multiples of 32.

        Returns scores [B, K, H, W] and, if requested, depth [B, H, W] in the variant's unit.
        """
        features = self.encode(images, depth)
        outputs = self.decode(features.levels)
        scores = semantic_scores(
            outputs.class_logits[-1], outputs.mask_logits[-1], images.shape[2:]
        )
        if not depth:
            return scores, None
        rows, columns = images.shape[2] // PATCH, images.shape[3] // PATCH
        return scores, self.depth_head(features.depth_tokens, rows, columns)

    def forward_train(self, images: Tensor) -> MaskOutputs:
        """Images [B, 3, H, W] RGB 0..255 -> classes and masks of every decoder layer."""
        return self.decode(self.encode(images, depth=False).levels)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB 0..255 of any type -> zero mean, unit deviation, as the encoders were trained."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def encode(self, images: Tensor, depth: bool) -> Features:
        """Run the encoders block by block, with the tokens between them.

        A separate depth encoder runs only if the tokens see it or `depth` is requested.
        """
        images = self.normalise(images)
        if self.depth is None:
            return self._encode_once(images, depth)
        rows, columns = images.shape[2] // PATCH, images.shape[3] // PATCH
        x, finer = self.visual.embed(images)  # [B, P + N, C]
        in_tokens = self.variant.depth_in_tokens
        d = self.depth.embed(images)[0] if depth or in_tokens else None  # [B, P + N, C]
        rotation = self.visual.rotation(rows, columns)
        visual_prefix, depth_prefix = self.variant.visual.prefix, self.variant.depth_encoder.prefix
        levels, depth_tokens = [], []
        for index, (visual_block, depth_block) in enumerate(
            zip(self.visual.blocks, self.depth.blocks, strict=True)
        ):
            x = visual_block(x, *rotation)
            d = None if d is None else depth_block(d)
            seen = d[:, depth_prefix:] if d is not None and in_tokens else None  # [B, N, C]
            x = self.tokens(x, seen, index, visual_prefix)
            if index in self.variant.levels:
                levels.append(as_map(x[:, visual_prefix:], rows, columns))
            if depth and d is not None and index in self.variant.depth_head.blocks:
                depth_tokens.append(self.depth.norm(d)[:, depth_prefix:])
        return Features(pyramid(levels, finer), depth_tokens)

    def _encode_once(self, images: Tensor, depth: bool) -> Features:
        """Encode with one encoder: level i is d_i + c_i, c_i = tokens(d_i + c_{i-1}, d_i) - d_i."""
        rows, columns = images.shape[2] // PATCH, images.shape[3] // PATCH
        x, finer = self.visual.embed(images)  # [B, P + N, C]
        prefix = self.variant.visual.prefix
        levels, depth_tokens = [], []
        side: Tensor | float = 0.0
        for index, block in enumerate(self.visual.blocks):
            x = block(x)
            d = x[:, prefix:]  # [B, N, C]
            seen = d if self.variant.depth_in_tokens else None
            refined = self.tokens(d + side, seen, index, prefix=0)  # [B, N, C]
            side = refined - d
            if index in self.variant.levels:
                levels.append(as_map(refined, rows, columns))
            if depth and index in self.variant.depth_head.blocks:
                depth_tokens.append(self.visual.norm(x)[:, prefix:])
        return Features(pyramid(levels, finer), depth_tokens)

    def decode(self, levels: list[Tensor]) -> MaskOutputs:
        """Four maps -> classes and masks of every decoder layer."""
        corrected = [self.refinement(levels), *levels[1:]]
        mask_features, memories = self.pixel_decoder(corrected)
        return self.mask_decoder(self.tokens.queries(), mask_features, memories)


def as_map(patches: Tensor, rows: int, columns: int) -> Tensor:
    """Patches [B, rows·columns, C] -> [B, C, rows, columns]."""
    return patches.transpose(1, 2).unflatten(2, (rows, columns))


def pyramid(levels: list[Tensor], finer: tuple[Tensor, ...]) -> list[Tensor]:
    """Four maps [B, C, h, w] of one size -> ×4, ×2, ×1 and ×0.5 of it.

    finer: what a convolutional stem saw at the finest sizes, added there.
    """
    levels = [
        level
        if scale == 1.0
        else F.interpolate(level, scale_factor=scale, mode="bilinear", align_corners=False)
        for level, scale in zip(levels, LEVEL_SCALES, strict=True)
    ]
    for index, seen in enumerate(finer):
        levels[index] = levels[index] + seen
    return levels


def semantic_scores(class_logits: Tensor, mask_logits: Tensor, size: torch.Size) -> Tensor:
    """Σ_q softmax(class)[:-1]·sigmoid(mask enlarged to size): [B, K, H, W] (arXiv 2112.01527).

    class_logits: [B, Q, K + 1]. mask_logits: [B, Q, h, w].
    """
    masks = F.interpolate(mask_logits, size, mode="bilinear", align_corners=False).sigmoid()
    classes = class_logits.softmax(-1)[..., :-1]  # [B, Q, K]
    return torch.einsum("bqk,bqhw->bkhw", classes, masks)
