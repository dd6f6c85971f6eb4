# SPDX-License-Identifier: Apache-2.0
"""A network as one graph without Python: what compilers of other runtimes take."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from depthforge_ros.network.deploy import Deployed, Folded
from depthforge_ros.network.depthforge import DepthForge

TRACED_BATCH = 2
"""Batch a graph for any batch is traced with: torch.export takes 1 for a constant."""


class ImagesOnly(nn.Module):
    """A network whose only input is images, as runtimes without Python call it."""

    def __init__(self, network: DepthForge | Deployed, *, depth: bool) -> None:
        super().__init__()
        self.network = network
        self.depth = depth

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [B, 3, H, W] -> scores [B, K, H, W] and, if requested, depth [B, H, W]."""
        scores, depth_map = self.network(images, depth=self.depth)
        return (scores,) if depth_map is None else (scores, depth_map)


def export_network(
    network: DepthForge | Folded,
    height: int,
    width: int,
    batch: int | None = 1,
    *,
    depth: bool = True,
    images_type: torch.dtype = torch.uint8,
) -> ExportedProgram:
    """The graph of a network for images of one size.

    batch: images at once; None: any number. The program takes images [B, 3, height, width] RGB
    0..255 of images_type and gives scores [B, K, height, width] and, with `depth`, depth
    [B, height, width]. Position tables are constants in it: nothing is resampled by bicubic
    interpolation, and no shape depends on data. Works on the meta device, for a graph without
    weights. Raises ValueError where a side is no multiple of 32, or the batch no positive number.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch}; expected at least 1, or None for any")
    module = ImagesOnly(network.at_size(height, width), depth=depth).eval()
    images = torch.zeros(
        TRACED_BATCH if batch is None else batch,
        3,
        height,
        width,
        dtype=images_type,
        device=next(network.buffers()).device,
    )
    shapes = ({0: Dim("batch")},) if batch is None else None
    with torch.no_grad():
        return export(module, (images,), dynamic_shapes=shapes, strict=False)
