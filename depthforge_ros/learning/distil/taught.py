# SPDX-License-Identifier: Apache-2.0
"""A data set with a teacher's depth and labels beside its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from depthforge_ros.learning.samples import Sample, SampleSource


@dataclass(frozen=True)
class Taught:
    """A data set with the teacher's depth and labels, where `folder` has them.

    NAME.npz holds depth_m [H, W] float16, labels [H, W] uint8 and focal_px.
    """

    source: SampleSource
    folder: Path

    @property
    def domain(self) -> str:
        """Of the data set."""
        return self.source.domain

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        sample = self.source[index]
        path = self.folder / f"{sample.name}.npz"
        if not path.is_file():
            return sample
        with np.load(path) as taught:
            depth_m = taught["depth_m"].astype(np.float32)
            return replace(
                sample, labels=taught["labels"], depth_m=depth_m, focal_px=float(taught["focal_px"])
            )
