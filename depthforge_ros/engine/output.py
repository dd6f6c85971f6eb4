# SPDX-License-Identifier: Apache-2.0
"""What every engine gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class CropOutput:
    """What an engine returns for a batch of crops.

    scores: [B, K, h, w] float, Σ over queries of class probability times mask probability, K the
    classes of the variant's labels. depth: [B, h, w] float in the variant's depth unit, or None
    where it was not asked for.
    """

    scores: Tensor
    depth: Tensor | None
