# SPDX-License-Identifier: Apache-2.0
"""Street worlds rendered once and kept on disk, because training sees each frame many times.

A drive is a folder `SEED_CONDITION/` with rgb.npy [F, H, W, 3] uint8, labels.npy [F, H, W] uint8,
depth_m.npy [F, H, W] float16 and focal_px.npy [F] float32. It appears whole or not at all, so one
process may render while others train, and a killed renderer goes on where it was.

    python -m depthforge_ros.learning.street_cache FOLDER --drives 600
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from depthforge_ros.learning.samples import Sample
from depthforge_ros.street import CONDITIONS, HELD_OUT_SEEDS, TRAIN_SEEDS, StreetDrive

SEED_DIGITS = 8


@dataclass(frozen=True)
class RenderSettings:
    """What to render: `drives` of `frames` each, pixels, frames a second.

    Drive i has the training seed first_seed + i and condition i modulo six; seeds that no other
    folder has are other streets. A low rate makes the frames of a drive differ. heavy: most
    vehicles are lorries, buses and trams; varied: some of tram tracks, overhead wires, yellow
    markings, shop displays and other street lamps. Each combination needs a folder of its own,
    because a drive's folder does not say so.
    """

    drives: int
    frames: int = 6
    width: int = 512
    height: int = 384
    rate_hz: float = 0.25
    heavy: bool = False
    varied: bool = False
    first_seed: int = 0

    def __post_init__(self) -> None:
        last = self.first_seed + self.drives - 1
        if not TRAIN_SEEDS[0] <= self.first_seed <= last <= TRAIN_SEEDS[-1]:
            raise ValueError(
                f"drives is {self.drives}, first_seed {self.first_seed}; expected training seeds "
                f"within {TRAIN_SEEDS[0]}..{TRAIN_SEEDS[-1]}"
            )


def render_drive(folder: Path, seed: int, condition: str, settings: RenderSettings) -> bool:
    """Render one drive below `folder`; False where it was there already."""
    target = folder / f"{seed:0{SEED_DIGITS}d}_{condition}"
    if target.is_dir():
        return False
    drive = StreetDrive(
        seed,
        condition,
        settings.width,
        settings.height,
        settings.frames,
        settings.rate_hz,
        settings.heavy,
        settings.varied,
    )
    frames = list(drive)
    partial = folder / f".{target.name}.{os.getpid()}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    try:
        np.save(partial / "rgb.npy", np.stack([frame.rgb for frame in frames]))
        np.save(partial / "labels.npy", np.stack([frame.labels for frame in frames]))
        depth = np.stack([frame.depth_m for frame in frames])
        np.save(partial / "depth_m.npy", depth.astype(np.float16))
        focal_px = np.array([frame.intrinsics[0, 0] for frame in frames], np.float32)
        np.save(partial / "focal_px.npy", focal_px)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another renderer was faster
                raise
            return False
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def render(folder: Path, settings: RenderSettings) -> int:
    """Render every drive that is not there yet; how many were rendered."""
    jobs = [
        (TRAIN_SEEDS[settings.first_seed + index], CONDITIONS[index % len(CONDITIONS)])
        for index in range(settings.drives)
    ]
    bar = tqdm(jobs, desc="rendering streets", unit="drive")
    return sum(render_drive(folder, seed, condition, settings) for seed, condition in bar)


class StreetCache:
    """Rendered drives as a data set that may grow while it is used: `refresh` looks again.

    conditions: those whose drives count. Raise ValueError if one is unknown.
    """

    domain = "street"

    def __init__(self, folder: Path, conditions: tuple[str, ...] = CONDITIONS) -> None:
        _check_conditions(conditions)
        self.folder, self.conditions = folder, conditions
        self._drives: list[Path] = []
        self._starts = np.zeros(1, np.int64)  # first frame of every drive, and the total
        self.refresh()

    def refresh(self) -> None:
        """Add the drives that were finished since. Existing positions keep their frames only in a
        cache that is no longer written to.
        """
        drives = sorted(
            path
            for path in self.folder.glob("[0-9]*_*")
            if path.is_dir() and path.name.partition("_")[2] in self.conditions
        )
        if len(drives) == len(self._drives):
            return
        counts = [len(np.load(drive / "labels.npy", mmap_mode="r")) for drive in drives]
        self._drives, self._starts = drives, np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} is not in a cache of {len(self)}")
        position = int(np.searchsorted(self._starts, index, side="right")) - 1
        drive, frame = self._drives[position], index - int(self._starts[position])
        rgb, labels, depth, focal_px = (
            np.array(np.load(drive / f"{name}.npy", mmap_mode="r")[frame])
            for name in ("rgb", "labels", "depth_m", "focal_px")
        )
        seed, condition = drive.name.split("_")
        depth_m, name = depth.astype(np.float32), f"{seed}/{frame}"
        return Sample(rgb, labels, depth_m, self.domain, condition, name, float(focal_px))


def _check_conditions(conditions: tuple[str, ...]) -> None:
    if not conditions or set(conditions) - set(CONDITIONS):
        raise ValueError(f"street conditions are {conditions}; allowed: {CONDITIONS}")


@dataclass(frozen=True)
class HeldOutStreets:
    """Street worlds that are never trained on, rendered when asked for.

    seeds: how many worlds, one frame each, every condition in turn. every_condition: each of them
    under all of `conditions`; geometry, labels and depth of a seed do not depend on the condition,
    so what then differs between conditions is light and weather alone.
    """

    seeds: int
    conditions: tuple[str, ...] = CONDITIONS
    every_condition: bool = False
    width: int = 512
    height: int = 384
    domain: str = "street"

    def __post_init__(self) -> None:
        most = len(HELD_OUT_SEEDS)
        if not 1 <= self.seeds <= most:
            raise ValueError(f"held-out streets are {self.seeds}; expected 1..{most}, one a seed")
        _check_conditions(self.conditions)

    def __len__(self) -> int:
        return self.seeds * (len(self.conditions) if self.every_condition else 1)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} is not among {len(self)}")
        count = len(self.conditions)
        seed = HELD_OUT_SEEDS[index // count if self.every_condition else index]
        condition = self.conditions[index % count]
        frame = StreetDrive(seed, condition, self.width, self.height, frames=1)[0]
        return Sample(
            frame.rgb,
            frame.labels,
            frame.depth_m,
            self.domain,
            condition,
            f"{seed:08d}/0",
            float(frame.intrinsics[0, 0]),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Render from the command line."""
    parser = argparse.ArgumentParser(description=render.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--drives", type=int, required=True)
    parser.add_argument("--frames", type=int, default=RenderSettings.frames)
    parser.add_argument("--width", type=int, default=RenderSettings.width)
    parser.add_argument("--height", type=int, default=RenderSettings.height)
    parser.add_argument("--rate-hz", type=float, default=RenderSettings.rate_hz)
    parser.add_argument("--heavy", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--first-seed", type=int, default=RenderSettings.first_seed)
    parser.add_argument("--varied", action=argparse.BooleanOptionalAction, default=False)
    args = vars(parser.parse_args(argv))
    render(args.pop("folder"), RenderSettings(**args))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
