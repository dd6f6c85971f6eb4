# SPDX-License-Identifier: Apache-2.0
"""A frame as one program of tensor operations: bytes in, bytes out, static shapes, no wait.

It holds the resize, the network, the enlargement, the argmax and the depth image, so that a CUDA
graph can hold all of them. Whole frames only: windows are merged by the pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from depthforge_ros.engine import Operation
from depthforge_ros.frame import Frame
from depthforge_ros.pipeline.depth import finish_depth
from depthforge_ros.pipeline.labels import label_every_pixel, neighbours
from depthforge_ros.pipeline.windows import resize_uint8
from depthforge_ros.variant import Variant

ALIGNMENT_BYTES = 16
MIN_LABELS_EQUAL = 0.999
MAX_DEPTH_DIFFERENCE = 0.01


@dataclass(frozen=True)
class FrameShape:
    """What a program is made for.

    batch, height, width: of the frames. inferred, size: (height, width) of the network's input and
    of the masks. antialias: when frames are shrunk. depth: whether depth is computed.
    """

    batch: int
    height: int
    width: int
    inferred: tuple[int, int]
    size: tuple[int, int]
    antialias: bool
    depth: bool

    @property
    def network(self) -> torch.Size:
        """Return the sizes of the network's input, [B, 3, h, w]."""
        return torch.Size((self.batch, 3, *self.inferred))

    @property
    def _numbers_bytes(self) -> int:
        """Bytes of the threshold and of metres per unit of every frame, aligned."""
        return -(-4 * (1 + self.batch) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    @property
    def input_bytes(self) -> int:
        """Return the bytes of the input."""
        return self._numbers_bytes + self.batch * self.height * self.width * 3

    def pack(
        self, frames: Sequence[Frame], threshold: float, metres: Sequence[float], into: np.ndarray
    ) -> None:
        """Write the input of the program into `into` [input_bytes] uint8."""
        numbers = np.array([threshold, *metres], np.float32).view(np.uint8)
        into[: len(numbers)] = numbers
        images = into[self._numbers_bytes :].reshape(self.batch, self.height, self.width, 3)
        for image, frame in zip(images, frames, strict=True):
            image[...] = frame.rgb

    def unpack(self, output: np.ndarray) -> list[list[np.ndarray]]:
        """Return labels, confidence and, if computed, depth of every frame: [H, W] each."""
        pixels = self.batch * self.size[0] * self.size[1]
        shape = self.batch, *self.size
        split = 4 * pixels if self.depth else 0
        labels, confidence = output[split:].reshape(2, *shape)
        images = [labels, confidence]
        if self.depth:
            images.append(output[:split].view(np.float32).reshape(shape))
        return [list(maps) for maps in zip(*images, strict=True)]


class FrameProgram:
    """Computes frames of one shape with an operation of the network.

    operation: images [B, 3, h, w] uint8 -> scores [B, K, h, w] and, if the shape has it, depth
    [B, h, w]. The program owns the tables that it reads: a captured graph has their addresses.
    """

    def __init__(
        self, operation: Operation, variant: Variant, shape: FrameShape, device: torch.device
    ) -> None:
        self._operation = operation
        self._variant = variant
        self.shape = shape
        (height, width), (fine_height, fine_width) = shape.inferred, shape.size
        make_neighbours = neighbours.__wrapped__  # not of the cache, which may drop them
        self._rows = make_neighbours(height, fine_height, device)
        self._columns = make_neighbours(width, fine_width, device)

    def __call__(self, packed: Tensor) -> tuple[Tensor]:
        """Return the bytes that FrameShape.unpack reads for those that FrameShape.pack wrote.

        packed: [input_bytes] uint8 on the device. Returns one tensor [bytes] uint8 on the device.
        """
        shape = self.shape
        start = shape._numbers_bytes
        numbers = packed[: 4 * (1 + shape.batch)].view(torch.float32)  # [1 + B]
        rgb = packed[start:].view(shape.batch, shape.height, shape.width, 3)
        images = resize_uint8(rgb.permute(0, 3, 1, 2), *shape.inferred, shape.antialias)
        scores, *depths = self._operation(images)
        pairs = [
            label_every_pixel(one.float(), self._rows, self._columns, numbers[0]) for one in scores
        ]
        labels, confidence = (torch.stack(maps) for maps in zip(*pairs, strict=True))  # [B, H, W]
        output = [labels.flatten(), confidence.flatten()]
        if shape.depth:
            metres = numbers[1:, None, None]  # [B, 1, 1]
            depth = finish_depth(depths[0].float(), shape.size, labels, self._variant, metres)
            output.insert(0, depth.flatten().view(torch.uint8))
        return (torch.cat(output),)

    def fault(self, seen: np.ndarray, expected: np.ndarray) -> str:
        """Return how two outputs of the same frames differ too much; empty if they do not."""
        for ours, theirs in zip(self.shape.unpack(seen), self.shape.unpack(expected), strict=True):
            equal = float((ours[0] == theirs[0]).mean())
            if equal < MIN_LABELS_EQUAL:
                return f"labels agree on {equal:.2%}; expected {MIN_LABELS_EQUAL:.1%}"
            if self.shape.depth:
                close = np.isclose(ours[2], theirs[2], MAX_DEPTH_DIFFERENCE, equal_nan=True)
                if close.mean() < MIN_LABELS_EQUAL:
                    return (
                        f"depth agrees within {MAX_DEPTH_DIFFERENCE:.0%} on {close.mean():.2%} of "
                        f"the pixels; expected {MIN_LABELS_EQUAL:.1%}"
                    )
        return ""
