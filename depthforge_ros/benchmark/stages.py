# SPDX-License-Identifier: Apache-2.0
"""Where the operations and the time of a network go, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from depthforge_ros.network.deploy import Deployed
from depthforge_ros.network.depthforge import DepthForge

Mark = TypeVar("Mark")

REST = "scores and rest"
"""What is in no module of its own: scores at full size, concatenations, resizing."""

STAGES = (
    "visual encoder",
    "depth encoder",
    "tokens",
    "refinement",
    "pixel decoder",
    "mask decoder",
    "depth head",
    REST,
)


class Compiled(nn.Module):
    """A program of another runtime: all its time counts as the last stage."""

    def __init__(self, program: Callable[[Tensor], tuple[Tensor, Tensor | None]]) -> None:
        super().__init__()
        self.program = program

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images [B, 3, H, W] -> scores [B, K, H, W] and depth [B, H, W]."""
        return self.program(images)


def modules_of(network: DepthForge | Deployed | Compiled) -> dict[str, list[nn.Module]]:
    """The modules of every stage but the rest; none of them is inside another."""
    if isinstance(network, Compiled):
        return {}
    norm: nn.Module
    if isinstance(network, Deployed):
        folded = network.folded
        encoders = _present(folded.visual, folded.depth)
        stems = {name: [one.patches, *(one.stages or ())] for name, one in encoders.items()}
        parts: Any = folded
        refinement, norm = [folded.refinement, *folded.levels], folded.depth_norm
    else:
        encoders = _present(network.visual, network.depth)
        stems = {name: [one.patch_embed] for name, one in encoders.items()}
        parts = network
        last: Any = network.visual if network.depth is None else network.depth
        refinement, norm = [network.refinement], last.norm
    found = {name: [*stems[name], *one.blocks] for name, one in encoders.items()}
    return found | {
        "tokens": [parts.tokens],
        "refinement": refinement,
        "pixel decoder": [parts.pixel_decoder],
        "mask decoder": [parts.mask_decoder],
        "depth head": [norm, parts.depth_head],
    }


def _present(visual: Any, depth: Any | None) -> dict[str, Any]:
    """Return the encoders by the name of their stage."""
    return {"visual encoder": visual} | ({} if depth is None else {"depth encoder": depth})


class Meter(Generic[Mark]):
    """Reads something before and after every stage. between: what lies between two marks."""

    def __init__(self, mark: Callable[[], Mark], between: Callable[[Mark, Mark], float]) -> None:
        self._mark, self._between = mark, between
        self._spans: list[tuple[str, Mark, Mark]] = []

    @contextmanager
    def watching(self, network: DepthForge | Deployed | Compiled) -> Iterator[None]:
        """While the network runs once in it, spans are noted."""
        self._spans.clear()
        entry_marks: dict[nn.Module, Mark] = {}

        def entered(module: nn.Module, _: Any) -> None:
            entry_marks[module] = self._mark()

        def left(stage: str) -> Callable[[nn.Module, Any, Any], None]:
            def note(module: nn.Module, _: Any, __: Any) -> None:
                self._spans.append((stage, entry_marks.pop(module), self._mark()))

            return note

        handles = []
        for stage, modules in modules_of(network).items():
            for module in modules:
                handles.append(module.register_forward_pre_hook(entered))
                handles.append(module.register_forward_hook(left(stage)))
        try:
            before = self._mark()
            yield
            self._spans.append(("", before, self._mark()))
        finally:
            for handle in handles:
                handle.remove()

    def by_stage(self) -> dict[str, float]:
        """The sum of every stage, in the order of STAGES; together they are the whole."""
        sums = dict.fromkeys(STAGES, 0.0)
        for stage, first, last in self._spans:
            sums[stage or REST] += self._between(first, last)
        sums[REST] -= sum(value for stage, value in sums.items() if stage != REST)
        return sums


def stage_seconds(network: DepthForge | Deployed | Compiled, images: Tensor) -> dict[str, float]:
    """How long every stage took in one run."""
    if images.device.type == "cuda":

        def mark() -> torch.cuda.Event:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event

        on_gpu = Meter(mark, lambda first, last: first.elapsed_time(last) / 1000)
        with on_gpu.watching(network):
            network(images)
        torch.cuda.synchronize(images.device)
        return on_gpu.by_stage()
    meter = Meter(time.perf_counter, lambda first, last: last - first)
    with meter.watching(network):
        network(images)
    return meter.by_stage()


def stage_flops(network: DepthForge | Deployed, images: Tensor) -> Mapping[str, int]:
    """Floating point operations of every stage, as torch counts them: 2 a multiplication and sum.

    Products, convolutions and attention are counted. The network must not be prepared for a
    device: what oneDNN is called with, torch does not count. Runs on the meta device too.
    """
    counter = FlopCounterMode(display=False)
    meter = Meter(counter.get_total_flops, lambda first, last: last - first)
    with counter, meter.watching(network):
        network(images)
    return {stage: int(value) for stage, value in meter.by_stage().items()}
