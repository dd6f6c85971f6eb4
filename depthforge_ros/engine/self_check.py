# SPDX-License-Identifier: Apache-2.0
"""No engine sees a camera's image before it has agreed with eager fp32 on known streets.

Compilers have been silently wrong: sampling, half precision, all but the first image of a batch. So
every image of a batch is another, and each is compared with the network alone on that image.

Labels count where the reference is decided: where its best class leads by MARGIN of its score.
Elsewhere two roundings of the same numbers may differ, and a network without training is decided
the same everywhere or nowhere. What labels cannot show, scores do: every class's map is compared,
so neither a wrong scale nor one wrong class that never wins goes unseen.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from depthforge_ros.engine.engine import CropOutput, Engine, Shape
from depthforge_ros.resources import shipped_folder
from depthforge_ros.variant import Variant

MIN_AGREEMENT = 0.99
MARGIN = 0.05
MIN_DECIDED = 0.01
"""Below this share of decided pixels, labels say nothing."""
MAX_DEPTH_ERROR = 0.01
MAX_SCORE_ERROR = 0.15
SCORE_FLOOR = 0.01
"""Added to a class's mean score: a class that is nowhere must not fail for a rounding."""
DEPTH_FLOOR = 1e-3

IMAGES = ("night", "rain", "snow", "clear")
"""Files of models/self_check: streets, one for each condition."""


@dataclass(frozen=True)
class Verdict:
    """The worst figures of all images, and what is wrong with them; no faults: passed.

    agreement: share of decided pixels with the same label. depth_error: mean absolute difference
    over mean depth. score_error: the same for the scores of the worst class.
    """

    agreement: float
    depth_error: float
    score_error: float
    faults: tuple[str, ...]

    def __str__(self) -> str:
        figures = (
            f"labels agree on {self.agreement:.2%}, depth differs by {self.depth_error:.2%}, "
            f"scores by {self.score_error:.2%}"
        )
        return "; ".join(self.faults) or figures


def check(engine: Engine, reference: Engine, shapes: Iterable[Shape]) -> Verdict:
    """Run an engine at every shape and compare each image with the reference's answer to it.

    Raises what the engine raises.
    """
    verdicts = [Verdict(1.0, 0.0, 0.0, ())]
    for shape in shapes:
        images = check_images(shape).to(engine.device)
        seen = engine(images, depth=True)
        for index in range(shape.batch):
            where = f"{shape}, image {index + 1} of {shape.batch}"
            expected = reference(images[index : index + 1], depth=True)
            assert seen.depth is not None
            assert expected.depth is not None
            one = CropOutput(seen.scores[index : index + 1], seen.depth[index : index + 1])
            verdicts.append(_compared(one, expected, engine.variant, where))
    return Verdict(
        min(v.agreement for v in verdicts),
        max(v.depth_error for v in verdicts),
        max(v.score_error for v in verdicts),
        next((v.faults for v in verdicts if v.faults), ()),
    )


def check_images(shape: Shape) -> Tensor:
    """Return known images of a shape, [B, 3, h, w] uint8, no two of them equal."""
    streets = F.interpolate(_shipped_images(), (shape.height, shape.width), mode="bilinear")
    images = [
        streets[index % len(streets)].roll(index * shape.width // shape.batch, dims=-1)
        for index in range(shape.batch)
    ]
    return torch.stack(images).round().to(torch.uint8)


@functools.cache
def _shipped_images() -> Tensor:
    """Return the shipped images [4, 3, 360, 480] float32, 0..255. Raises OSError."""
    return torch.stack([_read(self_check_folder() / f"{name}.png") for name in IMAGES]).float()


def self_check_folder() -> Path:
    """Return the folder of the images."""
    return shipped_folder("models") / "self_check"


def _read(path: Path) -> Tensor:
    """Return an image file as RGB [3, H, W] uint8."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise OSError(f"{path} is missing or not an image")
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)


def _compared(seen: CropOutput, expected: CropOutput, variant: Variant, where: str) -> Verdict:
    """The figures of one image: scores [1, K, h, w], depth [1, h, w]."""
    assert seen.depth is not None
    assert expected.depth is not None
    for what, ours, theirs in (
        ("scores", seen.scores, expected.scores),
        ("depth", seen.depth, expected.depth),
    ):
        if ours.shape != theirs.shape:
            text = f"{what} are {tuple(ours.shape)}; expected {tuple(theirs.shape)}"
            return Verdict(0.0, 1.0, 1.0, (f"{where}: {text}",))
        if not bool(ours.isfinite().all()):
            return Verdict(0.0, 1.0, 1.0, (f"{where}: {what} are not all numbers",))
    faults = []
    errors = (seen.scores - expected.scores).abs().mean((0, 2, 3))
    errors = errors / (expected.scores.mean((0, 2, 3)) + SCORE_FLOOR)  # [K]
    score_error = errors.max().item()
    wrong = (errors > MAX_SCORE_ERROR).nonzero()[:, 0].tolist()
    if wrong:
        classes = "all classes"
        if len(wrong) < len(errors):
            classes = ", ".join(variant.labels.classes[index].name for index in wrong)
        faults.append(
            f"scores of {classes} differ by up to {score_error:.1%}; allowed {MAX_SCORE_ERROR:.0%}"
        )
    agreement = _agreement(seen.scores, expected.scores)
    if agreement < MIN_AGREEMENT:
        faults.append(f"labels agree on {agreement:.2%}; expected {MIN_AGREEMENT:.0%}")
    size = expected.depth.abs().mean().clamp_min(DEPTH_FLOOR)
    depth_error = ((seen.depth - expected.depth).abs().mean() / size).item()
    if depth_error > MAX_DEPTH_ERROR:
        faults.append(f"depth differs by {depth_error:.2%}; allowed {MAX_DEPTH_ERROR:.0%}")
    return Verdict(agreement, depth_error, score_error, tuple(f"{where}: {f}" for f in faults))


def _agreement(seen: Tensor, expected: Tensor) -> float:
    """Share of decided pixels with the same best class; 1 where too few are decided."""
    best, second = expected.topk(2, dim=1).values.unbind(1)  # [1, h, w] each
    decided = best - second > MARGIN * best
    if decided.float().mean() < MIN_DECIDED:
        return 1.0
    same = seen.argmax(1) == expected.argmax(1)
    return same[decided].float().mean().item()
