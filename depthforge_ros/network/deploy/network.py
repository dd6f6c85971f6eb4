# SPDX-License-Identifier: Apache-2.0
"""A trained network folded for inference: what depends on weights alone is computed once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from depthforge_ros.network.deploy.depth_head import DeployedDepthHead
from depthforge_ros.network.deploy.encoders import Encoder, EncoderTables
from depthforge_ros.network.deploy.layers import Norm, Product
from depthforge_ros.network.deploy.mask_decoder import DeployedMaskDecoder
from depthforge_ros.network.deploy.pixel_decoder import DeployedPixelDecoder, PixelTables
from depthforge_ros.network.deploy.refinement import DeployedRefinement, level_readers
from depthforge_ros.network.deploy.sampling import Sampling
from depthforge_ros.network.deploy.tokens import DeployedTokens
from depthforge_ros.network.depthforge import (
    LEVEL_SCALES,
    SIDE_MULTIPLE,
    DepthForge,
    semantic_scores,
)
from depthforge_ros.network.vit import ConvStem
from depthforge_ros.variant import PATCH


class Folded(nn.Module):
    """A network without what inference need not compute, for every size; `at_size` makes it run.

    dtype: of matrix products and convolutions; None: the type of the network. Residuals, norms and
    sampling places keep the network's. Weights that no fold and no dtype changes are the network's
    own tensors: it must not be trained on meanwhile.
    """

    scores: Callable[[Tensor, Tensor, torch.Size], Tensor] = staticmethod(semantic_scores)

    @torch.no_grad()
    def __init__(
        self,
        network: DepthForge,
        dtype: torch.dtype | None = None,
        sampling: Sampling = Sampling.GRID,
    ) -> None:
        super().__init__()
        self.variant = network.variant
        self.visual = Encoder(network.visual, network.mean, network.std)
        self.depth = (
            None if network.depth is None else Encoder(network.depth, network.mean, network.std)
        )
        self.depth_norm = Norm((network.visual if network.depth is None else network.depth).norm)
        self.tokens = DeployedTokens(network.tokens)
        embed = network.visual.patch_embed
        finer = embed.finer if isinstance(embed, ConvStem) else nn.ModuleList()
        decoder = network.pixel_decoder
        self.levels = level_readers(network.refinement, decoder, finer)
        self.refinement = DeployedRefinement(network.refinement, decoder.lateral_conv.conv)
        self.pixel_decoder = DeployedPixelDecoder(decoder, sampling)
        self.mask_decoder = DeployedMaskDecoder(
            network.mask_decoder, network.tokens.queries(), decoder.mask_feature
        )
        self.depth_head = DeployedDepthHead(network.depth_head)
        if dtype is not None:
            for module in self.modules():
                if isinstance(module, Product):
                    module.cast(dtype)
        self.eval()

    def at_size(self, height: int, width: int) -> Deployed:
        """The network for images of height × width. All of them share the folded weights.

        Raises ValueError where a side is no multiple of 32.
        """
        return Deployed(self, height, width)


class Deployed(nn.Module):
    """A folded network for one size of images: tables of positions, and the way through."""

    @torch.no_grad()
    def __init__(self, folded: Folded, height: int, width: int) -> None:
        super().__init__()
        if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE or min(height, width) <= 0:
            raise ValueError(
                f"image is {height} × {width}; expected positive multiples of {SIDE_MULTIPLE}"
            )
        self.variant = folded.variant
        self.folded = folded
        self.grid = (height // PATCH, width // PATCH)
        self.sizes = tuple(
            (int(self.grid[0] * scale), int(self.grid[1] * scale)) for scale in LEVEL_SCALES
        )
        shapes = self.sizes[:0:-1]  # coarse to fine
        visual = folded.visual.tables(*self.grid)
        pixels = folded.pixel_decoder.tables(shapes)
        self.shapes = shapes
        tensors = {
            "visual_prefix": visual.prefix,
            "visual_patches": visual.patches,
            "pixel_positions": pixels.positions,
            "pixel_centres": pixels.centres,
            "pixel_extents": pixels.extents,
        }
        if folded.depth is not None:
            depth = folded.depth.tables(*self.grid)
            tensors |= {"depth_prefix": depth.prefix, "depth_patches": depth.patches}
        tensors |= {f"rotation{index}": table for index, table in enumerate(visual.rotation)}
        keys = folded.mask_decoder.tables(shapes)
        tensors |= {f"key_positions{index}": table for index, table in enumerate(keys)}
        self.rotations, self.keys = len(visual.rotation), len(keys)
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.eval()

    def forward(self, images: Tensor, depth: bool = True) -> tuple[Tensor, Tensor | None]:
        """Images [B, 3, H, W] RGB 0..255 of the network's size.

        Returns scores [B, K, H, W] and, if requested, depth [B, H, W] in the variant's unit.
        """
        folded = self.folded
        patches, finer, depth_tokens = self.encode(images, depth)
        seen = [*finer, *[None] * (len(patches) - len(finer))]
        levels = [
            reader(own, stem, self.grid, size)
            for reader, own, stem, size in zip(
                folded.levels, patches, seen, self.sizes, strict=True
            )
        ]
        finest = folded.refinement(levels)
        pixels = PixelTables(
            self.shapes, self.pixel_positions, self.pixel_centres, self.pixel_extents
        )
        narrow = [level.narrow for level in reversed(levels[1:])]
        features, memories = folded.pixel_decoder(finest, narrow, pixels)
        keys = [self.get_buffer(f"key_positions{index}") for index in range(self.keys)]
        classes, masks = folded.mask_decoder(features, memories, keys, self.shapes)
        wide = self.pixel_positions.dtype
        scores = folded.scores(classes.to(wide), masks.to(wide), images.shape[2:])
        if not depth:
            return scores, None
        return scores, folded.depth_head(depth_tokens, *self.grid).to(wide)

    def encode(
        self, images: Tensor, depth: bool
    ) -> tuple[list[Tensor], tuple[Tensor, ...], list[Tensor]]:
        """Run the encoders block by block, with the tokens between them.

        Return patches [B, N, C] of every level, what a stem saw at 1/4 and 1/8, and the normalised
        tokens [B, N, C] for the depth head, none if depth was not requested.
        """
        folded, variant = self.folded, self.variant
        rotation = tuple(self.get_buffer(f"rotation{index}") for index in range(self.rotations))
        visual = EncoderTables(self.visual_prefix, self.visual_patches, rotation)
        x, finer = folded.visual.embed(images, visual)  # [B, P + N, C]
        if folded.depth is None:
            levels, depth_tokens = self._encode_once(x, depth)
            return levels, finer, depth_tokens
        in_tokens, d = variant.depth_in_tokens, None
        if depth or in_tokens:
            depth_tables = EncoderTables(self.depth_prefix, self.depth_patches, ())
            d, _ = folded.depth.embed(images, depth_tables)  # [B, P + N, C]
        visual_prefix, depth_prefix = variant.visual.prefix, variant.depth_encoder.prefix
        levels, depth_tokens = [], []
        for index, (visual_block, depth_block) in enumerate(
            zip(folded.visual.blocks, folded.depth.blocks, strict=True)
        ):
            x = visual_block(x, rotation)
            d = None if d is None else depth_block(d, ())
            seen = d[:, depth_prefix:] if d is not None and in_tokens else None  # [B, N, C]
            x = folded.tokens(x, seen, index, visual_prefix)
            if index in variant.levels:
                levels.append(x[:, visual_prefix:])
            if depth and d is not None and index in variant.depth_head.blocks:
                depth_tokens.append(folded.depth_norm(d)[:, depth_prefix:])
        return levels, finer, depth_tokens

    def _encode_once(self, x: Tensor, depth: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Encode x [B, P + N, C] with one encoder; the corrections stay in a side stream."""
        folded, variant = self.folded, self.variant
        prefix = variant.visual.prefix
        levels, depth_tokens = [], []
        side: Tensor | float = 0.0
        for index, block in enumerate(folded.visual.blocks):
            x = block(x, ())
            d = x[:, prefix:]  # [B, N, C]
            seen = d if variant.depth_in_tokens else None
            refined = folded.tokens(d + side, seen, index, 0)  # [B, N, C]
            side = refined - d
            if index in variant.levels:
                levels.append(refined)
            if depth and index in variant.depth_head.blocks:
                depth_tokens.append(folded.depth_norm(x)[:, prefix:])
        return levels, depth_tokens
