# SPDX-License-Identifier: Apache-2.0
"""The self-check: an engine runs only after it agreed with eager fp32 on known images.

Compilers have been silently wrong: sampling, half precision, all but the first image of a batch. So
every image of a batch differs, and each is compared with the reference on that image alone.

- Labels are compared where the reference is decided, that is where its best class leads by MARGIN
  of its score: over the image, and class by class by intersection over union, because a small class
  could vanish from the image unnoticed.
- Depth is compared by its mean, and by a quantile of the relative error in each tenth of the pixels
  in the order of depth, because the nearest obstacles are few pixels.
- Scores are compared by class, which finds a wrong scale, and engines of untrained networks.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
"""Below this share of decided pixels labels are not compared."""
MIN_CLASS_IOU = 0.7
MIN_CLASS_PIXELS = 50
"""Classes with fewer decided pixels in an image are not compared: rounding moves their edges."""
MAX_DEPTH_ERROR = 0.01
DEPTH_BINS = 10
DEPTH_QUANTILE = 0.95
MAX_BIN_ERROR = 0.05
MAX_SCORE_ERROR = 0.15
SCORE_FLOOR = 0.05
"""Added to a class's mean score, so that rounding cannot fail a class that is hardly there: where
it moves the hard mask of one query, a mean score of 0.024 differs by 0.007 (`nano` in bf16)."""
DEPTH_FLOOR = 1e-3
"""Smallest depth, as a share of the mean, that a relative error is computed with."""

IMAGES = ("night", "rain", "snow", "clear")
"""Files of models/self_check: streets in four conditions, the most difficult first."""


@dataclass(frozen=True)
class Verdict:
    """The worst figures of all images, and the faults; without faults the engine passed.

    agreement: share of decided pixels with the same label. class_iou: of the worst class.
    depth_error: mean absolute difference over mean depth. bin_error: the quantile of the relative
    error in the worst depth bin. score_error: as depth_error, of the scores of the worst class.
    """

    agreement: float = 1.0
    class_iou: float = 1.0
    depth_error: float = 0.0
    bin_error: float = 0.0
    score_error: float = 0.0
    faults: tuple[str, ...] = ()

    def __str__(self) -> str:
        figures = (
            f"labels agree on {self.agreement:.2%}, IoU of every class at least "
            f"{self.class_iou:.1%}, depth differs by {self.depth_error:.2%}, in every range by at "
            f"most {self.bin_error:.1%}, scores by {self.score_error:.2%}"
        )
        return "; ".join(self.faults) or figures


def check(
    engine: Engine, reference: Engine, shapes: Iterable[Shape], *, thorough: bool = True
) -> Verdict:
    """Run an engine at every shape and compare each image with the reference's output for it.

    thorough: use all of IMAGES even if a batch is smaller; otherwise one batch of each shape.
    Raises what the engine raises.
    """
    verdicts = [Verdict()]
    for shape in shapes:
        for first in range(0, len(IMAGES) if thorough else 1, shape.batch):
            images = check_images(shape, first).to(engine.device)
            seen = engine(images, depth=True)
            for index in range(shape.batch):
                where = f"{shape}, {IMAGES[(first + index) % len(IMAGES)]}"
                if shape.batch > 1:
                    where += f", image {index + 1} of {shape.batch}"
                expected = reference(images[index : index + 1], depth=True)
                assert seen.depth is not None
                one = CropOutput(seen.scores[index : index + 1], seen.depth[index : index + 1])
                verdicts.append(_compared(one, expected, engine.variant, where))
    return worst(verdicts)


class Recorder:
    """A reference that keeps its first answers. answers: of at most `count` images, in order."""

    def __init__(self, reference: Engine, count: int) -> None:
        self.variant, self.device = reference.variant, reference.device
        self.backend, self.precision = reference.backend, reference.precision
        self.answers: list[CropOutput] = []
        self._reference = reference
        self._count = count

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Return the reference's answer."""
        answer = self._reference(crops, depth=depth)
        if len(self.answers) < self._count:
            self.answers.append(answer)
        return answer


class Recorded:
    """Stands in for a reference with its recorded answers to the first batch of check images.

    expected: scores [B, K, h, w] and depth [B, h, w] of the images of `shape`.
    """

    backend, precision = "recorded", "fp32"

    def __init__(
        self, expected: CropOutput, shape: Shape, variant: Variant, device: torch.device
    ) -> None:
        self.variant, self.device = variant, device
        self._images = check_images(shape)
        self._expected = expected

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Return scores and depth of one image of the batch. Raises ValueError for another."""
        image = crops[0].cpu()
        for index, known in enumerate(self._images):
            if torch.equal(known, image):
                scores = self._expected.scores[index : index + 1].to(self.device).float()
                assert self._expected.depth is not None
                return CropOutput(scores, self._expected.depth[index : index + 1].to(self.device))
        raise ValueError("the image is not of the recorded batch")


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst figures of verdicts, and the faults of the first that has any."""
    return Verdict(
        min(v.agreement for v in verdicts),
        min(v.class_iou for v in verdicts),
        max(v.depth_error for v in verdicts),
        max(v.bin_error for v in verdicts),
        max(v.score_error for v in verdicts),
        next((v.faults for v in verdicts if v.faults), ()),
    )


def check_hash() -> str:
    """Return a hash of this check: what passed another release's is checked again."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def check_images(shape: Shape, first: int = 0) -> Tensor:
    """Return known images of a shape, [B, 3, h, w] uint8, no two of them equal.

    first: index in IMAGES of the first one.
    """
    known = F.interpolate(_shipped_images(), (shape.height, shape.width), mode="bilinear")
    images = [
        known[(first + index) % len(known)].roll(index * shape.width // shape.batch, dims=-1)
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
    """Compare one image: scores [1, K, h, w], depth [1, h, w]."""
    assert seen.depth is not None
    assert expected.depth is not None
    for what, ours, theirs in (
        ("scores", seen.scores, expected.scores),
        ("depth", seen.depth, expected.depth),
    ):
        text = ""
        if ours.shape != theirs.shape:
            text = f"{what} are {tuple(ours.shape)}; expected {tuple(theirs.shape)}"
        elif not bool(ours.isfinite().all()):
            text = f"{what} are not all finite numbers"
        if text:
            return Verdict(0.0, 0.0, 1.0, 1.0, 1.0, (f"{where}: {text}",))
    class_errors = _score_errors(seen.scores, expected.scores)
    agreement, ious = _label_figures(seen.scores, expected.scores)
    mean_error, bin_errors = _depth_errors(seen.depth, expected.depth)
    verdict = Verdict(
        agreement, min(ious.values(), default=1.0), mean_error, max(bin_errors), max(class_errors)
    )
    faults = _faults(verdict, class_errors, ious, bin_errors, expected.depth, variant)
    return replace(verdict, faults=tuple(f"{where}: {fault}" for fault in faults))


def _faults(
    verdict: Verdict,
    class_errors: list[float],
    ious: dict[int, float],
    bin_errors: list[float],
    depth: Tensor,
    variant: Variant,
) -> Iterator[str]:
    """Yield what exceeds its limit."""

    def names(indices: list[int]) -> str:
        if len(indices) == len(class_errors):
            return "all classes"
        return ", ".join(variant.labels.classes[index].name for index in indices)

    if wrong := [index for index, error in enumerate(class_errors) if error > MAX_SCORE_ERROR]:
        yield (
            f"scores of {names(wrong)} differ by up to {verdict.score_error:.1%}; allowed "
            f"{MAX_SCORE_ERROR:.0%}"
        )
    if verdict.agreement < MIN_AGREEMENT:
        yield f"labels agree on {verdict.agreement:.2%}; expected {MIN_AGREEMENT:.0%}"
    if wrong := [index for index, iou in ious.items() if iou < MIN_CLASS_IOU]:
        yield (
            f"IoU of {names(wrong)} is {verdict.class_iou:.1%} or more; expected "
            f"{MIN_CLASS_IOU:.0%}"
        )
    if verdict.depth_error > MAX_DEPTH_ERROR:
        yield f"depth differs by {verdict.depth_error:.2%}; allowed {MAX_DEPTH_ERROR:.0%}"
    for index, error in enumerate(bin_errors):
        if error > MAX_BIN_ERROR:
            ordered = depth.flatten().sort().values.chunk(DEPTH_BINS)[index]
            yield (
                f"depth from {ordered[0].item():.3g} to {ordered[-1].item():.3g} differs by "
                f"{error:.1%} at the {DEPTH_QUANTILE:.0%} quantile; allowed {MAX_BIN_ERROR:.0%}"
            )
            return


def _score_errors(seen: Tensor, expected: Tensor) -> list[float]:
    """Return the mean absolute difference over the mean score for every class: [K]."""
    errors = (seen - expected).abs().mean((0, 2, 3)) / (expected.mean((0, 2, 3)) + SCORE_FLOOR)
    return errors.tolist()


def _label_figures(seen: Tensor, expected: Tensor) -> tuple[float, dict[int, float]]:
    """Return the share of decided pixels with the same label, and IoU by class among them.

    1 and no class if too few pixels are decided.
    """
    top = expected.topk(2, dim=1)
    best, second = top.values.unbind(1)  # [1, h, w] each
    decided = best - second > MARGIN * best
    if decided.float().mean() < MIN_DECIDED:
        return 1.0, {}
    ours, theirs = seen.argmax(1)[decided], top.indices[:, 0][decided]  # [n]
    same = ours == theirs
    count = seen.shape[1]
    expected_px = theirs.bincount(minlength=count)  # [K]
    common = theirs[same].bincount(minlength=count)
    union = expected_px + ours.bincount(minlength=count) - common
    compared = (expected_px >= MIN_CLASS_PIXELS).nonzero()[:, 0].tolist()
    ious = {index: (common[index] / union[index]).item() for index in compared}
    return same.float().mean().item(), ious


def _depth_errors(seen: Tensor, expected: Tensor) -> tuple[float, list[float]]:
    """Return the mean difference over mean depth, and the quantile of the relative error by bin.

    Bins have equal numbers of pixels, in the order of the expected depth.
    """
    ours, theirs = seen.flatten(), expected.flatten()
    mean = theirs.abs().mean().clamp_min(DEPTH_FLOOR)
    difference = (ours - theirs).abs()
    relative = difference / theirs.abs().clamp_min((DEPTH_FLOOR * mean).item())
    bins = relative[theirs.argsort()].chunk(DEPTH_BINS)
    errors = [bin_.kthvalue(max(1, round(DEPTH_QUANTILE * len(bin_)))).values for bin_ in bins]
    return (difference.mean() / mean).item(), torch.stack(errors).tolist()
