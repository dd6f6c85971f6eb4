# SPDX-License-Identifier: Apache-2.0
"""From a trained network to one that infers: the same numbers by fewer operations."""

from __future__ import annotations

import torch

from depthforge_ros.network.deploy.cpu import tune
from depthforge_ros.network.deploy.network import Deployed, Folded
from depthforge_ros.network.deploy.openvino_graph import rewrite_for_openvino
from depthforge_ros.network.deploy.sampling import Sampling
from depthforge_ros.network.depthforge import DepthForge

__all__ = ["Deployed", "Folded", "Sampling", "deploy", "rewrite_for_openvino", "tune"]


def deploy(
    network: DepthForge,
    height: int,
    width: int,
    *,
    dtype: torch.dtype | None = None,
    sampling: Sampling = Sampling.GRID,
) -> Deployed:
    """The network for inference on images of height × width; called like the network itself.

    dtype: of matrix products and convolutions, None: the network's. sampling: how deformable
    attention looks up its samples. For several sizes make one `Folded` and take its `at_size`,
    which shares the folded weights. Raises ValueError where a side is no multiple of 32.
    """
    return Folded(network, dtype, sampling).at_size(height, width)
