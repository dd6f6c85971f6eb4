# SPDX-License-Identifier: Apache-2.0
"""Training batches from a mixture of data sets; the number of a sample determines it.

Sample n of a run is drawn and augmented from the seed (seed, n). So the order does not depend on
workers or processes, and a restarted run continues with the very samples it would have seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from depthforge_ros.learning.augment import AugmentSettings, augment
from depthforge_ros.learning.mix import mixes
from depthforge_ros.learning.samples import Sample, SampleSource, UnreadableImageError
from depthforge_ros.learning.street_cache import StreetCache

REFRESH_S = 60.0
MAX_UNREADABLE = 20


@dataclass(frozen=True)
class Batch:
    """images [B, 3, S, S] uint8 RGB; labels [B, S, S] uint8; depth_m [B, S, S] float32, NaN where
    unknown; focal_px [B] float32, NaN where unknown; numbers: of the samples in the run [B];
    skipped: unreadable images met on the way.
    """

    images: Tensor
    labels: Tensor
    depth_m: Tensor
    focal_px: Tensor
    numbers: tuple[int, ...]
    names: tuple[str, ...]
    skipped: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on the device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which a GPU copies asynchronously; what
        DataLoader calls with `pin_memory`.
        """
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            images=change(self.images),
            labels=change(self.labels),
            depth_m=change(self.depth_m),
            focal_px=change(self.focal_px),
        )


@dataclass(frozen=True)
class Share:
    """The batches that a process makes: first, first + every, first + 2·every, … below end."""

    batch: int
    first: int
    every: int
    end: int


class BatchStream(IterableDataset[Batch]):
    """Yields the batches of one process in order; DataLoader workers take turns."""

    def __init__(
        self,
        sources: Sequence[SampleSource],
        weights: Sequence[float],
        settings: AugmentSettings,
        share: Share,
        seed: int,
    ) -> None:
        super().__init__()
        self.sources = tuple(sources)
        self.weights = np.array(weights, np.float64) / sum(weights)
        self.settings, self.share, self.seed = settings, share, seed
        self._looked_s = time.monotonic()

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        share = self.share
        for index in range(share.first + worker * share.every, share.end, workers * share.every):
            if time.monotonic() - self._looked_s > REFRESH_S:
                self._refresh()
            yield self._batch(range(index * share.batch, (index + 1) * share.batch))

    def _refresh(self) -> None:
        for source in self.sources:
            if isinstance(source, StreetCache):
                source.refresh()
        self._looked_s = time.monotonic()

    def _batch(self, numbers: Sequence[int]) -> Batch:
        skipped: list[str] = []
        samples = [self.sample(number, skipped) for number in numbers]
        unknown = np.full((self.settings.crop, self.settings.crop), np.nan, np.float32)
        depths = [unknown if s.depth_m is None else s.depth_m for s in samples]
        focals = [np.nan if s.focal_px is None else s.focal_px for s in samples]
        return Batch(
            torch.from_numpy(np.stack([s.rgb.transpose(2, 0, 1) for s in samples])),
            torch.from_numpy(np.stack([s.labels for s in samples])),
            torch.from_numpy(np.stack(depths)),
            torch.tensor(focals, dtype=torch.float32),
            tuple(numbers),
            tuple(f"{s.domain}/{s.name}" for s in samples),
            tuple(skipped),
        )

    def sample(self, number: int, skipped: list[str]) -> Sample:
        """Return sample `number` of the run; name unreadable images in `skipped`, replace them."""
        rng = np.random.default_rng((self.seed, number))
        sample = self._drawn(rng, skipped)
        # Nothing is drawn where nothing is asked for: runs started without it see the same samples.
        if self.settings.mix > 0 and mixes(sample) and rng.random() < self.settings.mix:
            other = self._drawn(rng, skipped)
            if mixes(other):
                return augment(sample, rng, self.settings, other)
        return augment(sample, rng, self.settings)

    def _drawn(self, rng: np.random.Generator, skipped: list[str]) -> Sample:
        """Return a random sample as it is stored."""
        for _ in range(MAX_UNREADABLE):
            source = self.sources[int(rng.choice(len(self.sources), p=self.weights))]
            try:
                return source[int(rng.integers(len(source)))]
            except UnreadableImageError as error:
                skipped.append(str(error))
        raise ValueError(f"{MAX_UNREADABLE} unreadable images in a row, the last: {skipped[-1]}")


def load_batches(stream: BatchStream, workers: int) -> Iterator[Batch]:
    """Return batches in the stream's order, made ahead of time by worker processes."""
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)
