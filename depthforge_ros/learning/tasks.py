# SPDX-License-Identifier: Apache-2.0
"""What the training loop asks of a task, and the task of the paper: the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from depthforge_ros.learning.batches import Batch
from depthforge_ros.learning.losses import LossSettings, mask_losses
from depthforge_ros.learning.quick_validation import validate_masks
from depthforge_ros.learning.samples import SampleSource
from depthforge_ros.network.depthforge import ADAPTER_PARTS, DepthForge


@dataclass(frozen=True)
class TaskLoss:
    """The loss to minimise, and its parts for the log."""

    total: Tensor
    parts: Mapping[str, Tensor]


class Task(Protocol):
    """An nn.Module whose forward gives the loss of a batch and which holds the network."""

    network: DepthForge

    def __call__(self, batch: Batch) -> TaskLoss:
        """The loss of one batch."""
        ...

    def exported(self) -> tuple[str, ...]:
        """Prefixes of the network's parameters that this task makes."""
        ...

    def validate(self, source: SampleSource, samples: int) -> dict[str, float]:
        """What this task is judged by, on at most so many samples."""
        ...


class MethodTask(nn.Module):
    """Stage method: tokens, refinement and head learn masks on frozen encoders (the paper)."""

    def __init__(self, network: DepthForge, settings: LossSettings, seed: int) -> None:
        super().__init__()
        self.network, self.settings, self.seed = network, settings, seed
        network.requires_grad_(False)
        for part in ADAPTER_PARTS:
            getattr(network, part).requires_grad_(True)

    def exported(self) -> tuple[str, ...]:
        """Prefixes of the network's parameters that this stage makes."""
        return tuple(f"{part}." for part in ADAPTER_PARTS)

    def validate(self, source: SampleSource, samples: int) -> dict[str, float]:
        """mIoU and pixel accuracy."""

        def scores(images: Tensor) -> Tensor:
            return self.network(images, depth=False)[0]

        return validate_masks(scores, self.network, source, samples)

    def forward(self, batch: Batch) -> TaskLoss:
        """The loss of one batch."""
        outputs = self.network.forward_train(batch.images)
        device = batch.images.device
        # A generator a sample: its points are the same in whatever process or batch it lands.
        generators = [
            torch.Generator(device).manual_seed(self.seed * 1_000_000_007 + number)
            for number in batch.numbers
        ]
        losses = mask_losses(outputs, batch.labels, generators, self.settings, mean_over_processes)
        parts = {"classes": losses.classes, "mask": losses.mask, "dice": losses.dice}
        return TaskLoss(losses.total, {name: part.detach() for name, part in parts.items()})


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all training processes; the tensor itself where there is one."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()
