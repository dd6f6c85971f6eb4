# SPDX-License-Identifier: Apache-2.0
"""Training our own small encoders, for a variant that has no foundation weights behind it.

First the visual encoder learns dense labels through a light head that is thrown away; then the
depth encoder, which may start as a copy of it, learns metric depth together with the depth head
that is kept. After that both are frozen and the method is trained on top, as it is on foundation
models.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthforge_ros.frame import UNLABELLED
from depthforge_ros.learning.batches import Batch
from depthforge_ros.learning.quick_validation import validate_depth, validate_masks
from depthforge_ros.learning.samples import SampleSource
from depthforge_ros.learning.tasks import TaskLoss
from depthforge_ros.network.depthforge import DepthForge, pyramid
from depthforge_ros.network.vit import VisionTransformer
from depthforge_ros.variant import PATCH

HEAD_WIDTH = 96
LOSS_STRIDE = 2
FAR_WEIGHT = 0.2
EDGE_WEIGHT = 0.5
MIN_DEPTH_M = 0.5
MAX_RATIO = 4.0
DEPTH_WEIGHT = 1.0
MIN_SCORE = 1e-3


class DenseHead(nn.Module):
    """Four maps of the visual encoder -> class logits at 1/4 of the image; only for training."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(width, HEAD_WIDTH, 1) for _ in range(4))
        self.norm = nn.GroupNorm(8, HEAD_WIDTH)
        self.mix = nn.Conv2d(HEAD_WIDTH, HEAD_WIDTH, 3, padding=1, groups=HEAD_WIDTH)
        self.classify = nn.Conv2d(HEAD_WIDTH, classes, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Maps [B, C, h_i, w_i], fine to coarse -> logits [B, K, h_0, w_0]."""
        size = levels[0].shape[2:]
        x = sum(
            F.interpolate(lateral(level), size, mode="bilinear", align_corners=False)
            for lateral, level in zip(self.laterals, levels, strict=True)
        )  # [B, HEAD_WIDTH, h_0, w_0]
        x = F.gelu(self.norm(x))
        return self.classify(x + self.mix(x))


class VisualTask(nn.Module):
    """Stage visual: class-weighted cross-entropy plus soft dice on dense labels."""

    def __init__(self, network: DepthForge) -> None:
        super().__init__()
        self.network = network
        classes = len(network.variant.labels)
        self.head = DenseHead(network.variant.visual.width, classes)
        self.register_buffer("class_weights", torch.ones(classes))
        network.requires_grad_(False)
        network.visual.requires_grad_(True)
        network.visual.norm.requires_grad_(False)  # the method reads the blocks before this norm
        initialise(network.visual)

    def exported(self) -> tuple[str, ...]:
        """Prefixes of the network's parameters that this stage makes."""
        return ("visual.",)

    def validate(self, source: SampleSource, samples: int) -> dict[str, float]:
        """mIoU and pixel accuracy of the light head."""
        return validate_masks(self.logits, self.network, source, samples)

    def weigh_classes(self, labels: Iterable[np.ndarray]) -> None:
        """Set class weights 1 / ln(1.1 + share of pixels) (ENet, arXiv 1606.02147)."""
        self.class_weights.copy_(enet_weights(labels, len(self.class_weights)))

    def logits(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] RGB 0..255 -> class logits [B, K, H / 4, W / 4]."""
        network = self.network
        rows, columns = images.shape[2] // PATCH, images.shape[3] // PATCH
        x, finer = network.visual.embed(network.normalise(images))  # [B, 1 + N, C]
        levels = []
        for index, block in enumerate(network.visual.blocks):
            x = block(x)
            if index in network.variant.levels:
                levels.append(x[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)))
        return self.head(pyramid(levels, finer))

    def forward(self, batch: Batch) -> TaskLoss:
        """The loss of one batch."""
        logits = self.logits(batch.images).float()
        labels = batch.labels[:, ::LOSS_STRIDE, ::LOSS_STRIDE].long()
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
        entropy, dice = dense_losses(logits, labels, self.class_weights)
        return TaskLoss(entropy + dice, {"entropy": entropy.detach(), "dice": dice.detach()})


class JointTask(nn.Module):
    """Stage joint: one encoder, both heads and the tokens learn masks and depth on the same batch.

    For a variant with one encoder, from a network that is trained already: the masks are those of
    the last decoder layer, scored like inference, which needs no matching.
    """

    def __init__(self, network: DepthForge) -> None:
        super().__init__()
        self.network = network
        if network.depth is not None or network.variant.depth_head.max_depth_m is None:
            raise ValueError(
                f"variant {network.variant.name!r} does not fit stage joint, which trains one "
                "encoder (depth: null) with a metric depth head"
            )
        classes = len(network.variant.labels)
        self.register_buffer("class_weights", torch.ones(classes))
        network.requires_grad_(True)

    def exported(self) -> tuple[str, ...]:
        """Prefixes of the network's parameters that this stage makes: all."""
        return ("",)

    def validate(self, source: SampleSource, samples: int) -> dict[str, float]:
        """mIoU and pixel accuracy, and AbsRel, RMSE and δ < 1.25 where the truth has depth."""

        def scores(images: Tensor) -> Tensor:
            return self.network(images, depth=False)[0]

        def depth(images: Tensor) -> Tensor:
            metres = self.network(images, depth=True)[1]
            assert metres is not None
            return metres

        masks = validate_masks(scores, self.network, source, samples)
        return masks | validate_depth(depth, self.network, source, samples)

    def weigh_classes(self, labels: Iterable[np.ndarray]) -> None:
        """Set class weights 1 / ln(1.1 + share of pixels) (ENet, arXiv 1606.02147)."""
        self.class_weights.copy_(enet_weights(labels, len(self.class_weights)))

    def forward(self, batch: Batch) -> TaskLoss:
        """The loss of one batch."""
        network = self.network
        features = network.encode(batch.images, depth=True)
        outputs = network.decode(features.levels)
        classes = outputs.class_logits[-1].float().softmax(-1)[..., :-1]  # [B, Q, K]
        labels = batch.labels[:, ::LOSS_STRIDE, ::LOSS_STRIDE].long()  # [B, h, w]
        masks = F.interpolate(
            outputs.mask_logits[-1].float(), labels.shape[1:], mode="bilinear", align_corners=False
        ).sigmoid()  # [B, Q, h, w]
        scores = torch.einsum("bqk,bqhw->bkhw", classes, masks).float() + MIN_SCORE
        logits = scores.log() - scores.sum(1, keepdim=True).log()  # normalised over the classes
        entropy, dice = dense_losses(logits, labels, self.class_weights)
        rows, columns = batch.images.shape[2] // PATCH, batch.images.shape[3] // PATCH
        depth_m = network.depth_head(features.depth_tokens, rows, columns).float()
        head = network.variant.depth_head
        truth_m = batch.depth_m
        if head.focal_px is not None:
            truth_m = truth_m * (head.focal_px / batch.focal_px)[:, None, None]
        stride = LOSS_STRIDE
        error, edges = depth_losses(
            depth_m[:, ::stride, ::stride], truth_m[:, ::stride, ::stride], head.max_depth_m
        )
        total = entropy + dice + DEPTH_WEIGHT * (error + EDGE_WEIGHT * edges)
        parts = {"entropy": entropy, "dice": dice, "error": error, "edges": edges}
        return TaskLoss(total, {name: part.detach() for name, part in parts.items()})


def enet_weights(labels: Iterable[np.ndarray], classes: int) -> Tensor:
    """Class weights 1 / ln(1.1 + share of pixels) of mean 1, [K] (ENet, arXiv 1606.02147)."""
    counts = np.zeros(classes)
    for image in labels:
        counts += np.bincount(image[image != UNLABELLED], minlength=classes)
    weights = 1 / np.log(1.1 + counts / max(counts.sum(), 1))
    return torch.from_numpy(weights / weights.mean())


def dense_losses(logits: Tensor, labels: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Class-weighted cross-entropy and soft dice of logits [B, K, h, w], labels [B, h, w] int64."""
    entropy = F.cross_entropy(
        logits, labels, class_weights, ignore_index=UNLABELLED, reduction="sum"
    )
    known = labels != UNLABELLED
    weight = class_weights[labels.clamp_max(len(class_weights) - 1)][known].sum()
    return entropy / weight.clamp_min(1.0), soft_dice(logits, labels)


def initialise(encoder: VisionTransformer) -> None:
    """Start the blocks as vision transformers are started: σ = 0.02, no biases."""
    for module in encoder.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


def soft_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean over the classes in the batch of (2·Σ p·y + 1) / (Σ p + Σ y + 1).

    logits: [B, K, h, w]. labels: [B, h, w] int64, 255 unlabelled.
    """
    known = labels != UNLABELLED
    probability = logits.softmax(1) * known[:, None]  # [B, K, h, w]
    index = labels.where(known, 0)[:, None]  # [B, 1, h, w]
    hits = probability.gather(1, index)[:, 0] * known  # [B, h, w]
    K = logits.shape[1]
    flat = index.flatten()
    overlap = hits.new_zeros(K).index_add(0, flat, hits.flatten())  # [K]
    counts = hits.new_zeros(K).index_add(0, flat, known.flatten().to(hits.dtype))  # [K]
    dice = (2 * overlap + 1) / (probability.sum((0, 2, 3)) + counts + 1)
    present = counts > 0
    return 1 - (dice * present).sum() / present.sum().clamp_min(1)


class DepthTask(nn.Module):
    """Stage depth: log and relative depth and edges, on metric depth."""

    def __init__(self, network: DepthForge) -> None:
        super().__init__()
        self.network = network
        if network.variant.depth_head.max_depth_m is None:
            raise ValueError(
                f"variant {network.variant.name!r} has a relative depth head; stage depth trains "
                "metric ones"
            )
        network.requires_grad_(False)
        network.depth.requires_grad_(True)
        network.depth_head.requires_grad_(True)
        initialise(network.depth)

    def exported(self) -> tuple[str, ...]:
        """Prefixes of the network's parameters that this stage makes."""
        return ("depth.", "depth_head.")

    def validate(self, source: SampleSource, samples: int) -> dict[str, float]:
        """AbsRel, RMSE, δ < 1.25."""
        return validate_depth(self.depth, self.network, source, samples)

    def depth(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] RGB 0..255 -> metres [B, H, W]."""
        network = self.network
        rows, columns = images.shape[2] // PATCH, images.shape[3] // PATCH
        x, _ = network.depth.embed(network.normalise(images))  # [B, 1 + N, C]
        tokens = []
        for index, block in enumerate(network.depth.blocks):
            x = block(x)
            if index in network.variant.depth_head.blocks:
                tokens.append(network.depth.norm(x)[:, 1:])
        return network.depth_head(tokens, rows, columns)

    def forward(self, batch: Batch) -> TaskLoss:
        """The loss of one batch."""
        head = self.network.variant.depth_head
        truth_m = batch.depth_m  # [B, H, W]
        if head.focal_px is not None:  # in metres of the one camera whose answers the head gives
            truth_m = truth_m * (head.focal_px / batch.focal_px)[:, None, None]
        error, edges = depth_losses(self.depth(batch.images).float(), truth_m, head.max_depth_m)
        loss = error + EDGE_WEIGHT * edges
        return TaskLoss(loss, {"error": error.detach(), "edges": edges.detach()})


def depth_losses(depth_m: Tensor, truth_m: Tensor, limit_m: float) -> tuple[Tensor, Tensor]:
    """The mean of |log d/d*| and |d/d* - 1|, and for the differences of log d/d* between neighbours
    the mean of their sizes.

    The second error is AbsRel, by which depth is judged; the first also teaches what is far too
    near, and alone what is more than four times too far.

    depth_m, truth_m: [B, H, W]. Truth beyond the limit, +Inf too, counts as the limit with weight
    0.2: it must be far, but how far cannot be said. NaN truth weighs nothing.
    """
    known = ~truth_m.isnan()
    truth = truth_m.nan_to_num(limit_m, posinf=limit_m).clamp(MIN_DEPTH_M, limit_m)
    weight = known * torch.where(truth < limit_m, 1.0, FAR_WEIGHT)
    difference = depth_m.clamp_min(1e-3).log() - truth.log()  # [B, H, W]
    relative = difference.exp().clamp_max(MAX_RATIO) - 1
    error = (difference.abs() + relative.abs()) / 2
    error = (weight * error).sum() / weight.sum().clamp_min(1.0)
    edges = error.new_zeros(())
    for axis in (1, 2):
        both = (weight == 1.0).narrow(axis, 1, weight.shape[axis] - 1) & (weight == 1.0).narrow(
            axis, 0, weight.shape[axis] - 1
        )
        steps = difference.diff(dim=axis).abs() * both
        edges = edges + steps.sum() / both.sum().clamp_min(1)
    return error, edges
