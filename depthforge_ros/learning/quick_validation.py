# SPDX-License-Identifier: Apache-2.0
"""Quick measurements during training. The figures to quote come from `depthforge evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from depthforge_ros.frame import DepthKind, Frame
from depthforge_ros.learning.metrics import Confusion, DepthErrors
from depthforge_ros.learning.samples import Sample, SampleSource, UnreadableImageError
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.pipeline import PipelineSettings
from depthforge_ros.pipeline.depth import finish_depth, metres_per_unit
from depthforge_ros.pipeline.settings import inference_size
from depthforge_ros.pipeline.windows import resize_rgb


def spread(source: SampleSource, count: int) -> Iterator[Sample]:
    """Yield at most `count` readable samples, evenly spread over the source."""
    for index in np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int):
        try:
            yield source[int(index)]
        except UnreadableImageError:
            continue


def validate_masks(
    scores_of: Callable[[Tensor], Tensor], network: DepthForge, source: SampleSource, samples: int
) -> dict[str, float]:
    """Return mIoU and pixel accuracy of scores_of: images [1, 3, H, W] -> [1, K, h, w]."""
    merge = getattr(source, "merge", None)
    confusion = Confusion(len(network.variant.labels) if merge is None else len(merge.names))
    for sample in spread(source, samples):
        scores = scores_of(_prepared(sample, network)).float()  # [1, K, h, w]
        labels = F.interpolate(scores, sample.labels.shape, mode="bilinear")[0].argmax(0)  # [H, W]
        predicted, truth = labels.to(torch.uint8).cpu().numpy(), sample.labels
        if merge is not None:
            predicted, truth = merge.table[predicted], merge.table[truth]
        confusion.add(truth, predicted)
    return {"miou": confusion.mean_iou(), "pixel_accuracy": confusion.pixel_accuracy()}


def validate_depth(
    depth_of: Callable[[Tensor], Tensor], network: DepthForge, source: SampleSource, samples: int
) -> dict[str, float]:
    """Return AbsRel, RMSE and δ of metric depth_of: images [1, 3, H, W] -> [1, h, w]."""
    errors = DepthErrors()
    for sample in spread(source, samples):
        if sample.depth_m is None:
            continue
        image = _prepared(sample, network)
        frame = Frame(sample.rgb, focal_px=sample.focal_px)
        metres = metres_per_unit(frame, image.shape[2], image.shape[3], network.variant)
        labels = torch.from_numpy(sample.labels).to(image.device)
        size = (frame.height, frame.width)
        depth = finish_depth(depth_of(image)[0].float(), size, labels, network.variant, metres)
        errors.add(sample.depth_m, depth.cpu().numpy(), DepthKind.METRIC)
    scores = errors.scores()
    if scores is None:
        return {}
    return {"abs_rel": scores.abs_rel, "rmse_m": scores.rmse_m, "delta1": scores.delta1}


def _prepared(sample: Sample, network: DepthForge) -> Tensor:
    """Return the sample's image [1, 3, h, w] RGB 0..255 at the size that the node would use."""
    height, width = sample.labels.shape
    size = inference_size(height, width, PipelineSettings(), network.variant)
    return resize_rgb(sample.rgb, *size, network.mean.device)  # [1, 3, h, w]
