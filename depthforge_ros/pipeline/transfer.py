# SPDX-License-Identifier: Apache-2.0
"""Copies between the host and the device, and the waits for them, counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Transfer:
    """Copies to and from one device. uploads, downloads, waits: how many there have been.

    A wait is the host waiting for the device; on a CPU nothing is copied, and what would be is
    counted.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.uploads = self.downloads = self.waits = 0

    def buffer(self, count: int) -> Tensor:
        """Return host memory [count] uint8 from which copies to the device are asynchronous."""
        return torch.empty(count, dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def upload(self, host: Tensor) -> Tensor:
        """Return a tensor on the device. Its copy is asynchronous: torch keeps pinned memory."""
        self.uploads += 1
        if self.device.type == "cuda":
            return host.pin_memory().to(self.device, non_blocking=True)
        return host.to(self.device)

    def fill(self, images: Tensor, host: Tensor) -> None:
        """Copy host memory from `buffer` into a tensor on the device, without waiting."""
        self.uploads += 1
        images.copy_(host, non_blocking=True)

    def download(self, images: Sequence[Tensor]) -> list[np.ndarray]:
        """Return tensors as arrays, after one wait for the device."""
        if not images:
            return []
        self.downloads += len(images)
        self.waits += 1
        if self.device.type != "cuda":
            return [image.cpu().numpy() for image in images]
        copies = [torch.empty(i.shape, dtype=i.dtype, pin_memory=True) for i in images]
        for copy, image in zip(copies, images, strict=True):
            copy.copy_(image, non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()
        return [copy.numpy() for copy in copies]
