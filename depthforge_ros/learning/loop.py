# SPDX-License-Identifier: Apache-2.0
"""The training loop, the same for every stage, one process or several. Read `Run.train` first."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from depthforge_ros import dataclass_yaml
from depthforge_ros.engine.engine import fast_precisions
from depthforge_ros.learning.batches import Batch, BatchStream, Share, load_batches
from depthforge_ros.learning.checkpoints import Average, Swapped, load_state, save_state
from depthforge_ros.learning.config import Decay, Schedule, TrainConfig, open_dataset
from depthforge_ros.learning.run_log import RunLog
from depthforge_ros.learning.tasks import Task, TaskLoss, mean_over_processes
from depthforge_ros.network.weights import save_weights
from depthforge_ros.resources import code_version
from depthforge_ros.variant import variant_to_mapping

WEIGHTS = "weights.safetensors"
NO_DECAY = {
    Decay.MATRICES: (
        "pos_embed", "cls_token", "level_embed", "level_encoding", "tokens.a", "tokens.b",
    ),
    Decay.PAPER: ("level_embed", "tokens.a", "tokens.b", "tokens.scale"),
}  # fmt: skip
"""Ends of names of parameters without weight decay."""

POLY_POWER = 0.9


class NotFiniteError(ArithmeticError):
    """The loss is NaN or infinite; the batch that did it was saved."""


def decay_groups(
    module: nn.Module, weight_decay: float, decay: Decay = Decay.MATRICES
) -> list[dict[str, Any]]:
    """Return the trained parameters in two groups: with weight decay and without."""
    norms = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, nn.LayerNorm | nn.GroupNorm)
        for parameter in part.parameters(recurse=False)
    }
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            flat = parameter.dim() < 2 and decay is Decay.MATRICES
            without = flat or id(parameter) in norms or name.endswith(NO_DECAY[decay])
            (free if without else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step, counted from 0.

    one_cycle: from start_factor times the peak along a cosine to the peak in the last step of the
    share `warmup` of the run, then along another to end_factor times the peak in the last step
    (Smith, arXiv 1708.07120; as mmengine's and PyTorch's OneCycleLR). warmup_poly: linearly up,
    then (1 - progress)^0.9 down to 0 (as mmengine's LinearLR and PolyLR).
    """
    rise, last = config.warmup * config.steps, config.steps - 1
    if config.schedule is Schedule.WARMUP_POLY:
        if step < rise:
            share = config.start_factor + (1 - config.start_factor) * step / max(rise - 1, 1)
        else:
            share = (1 - (step - rise) / max(last - rise, 1)) ** POLY_POWER
        return config.lr * share
    top = max(rise - 1, 0)
    if step <= top:
        low, progress = config.start_factor, step / top if top else 1.0
    else:
        low, progress = config.end_factor, 1 - (step - top) / (last - top)
    return config.lr * (low + (1 - low) * (1 - math.cos(math.pi * progress)) / 2)


def training_attention(device: torch.device, bf16: bool) -> AbstractContextManager[None]:
    """Return the attention kernel to train with. For bf16 on a CPU, products: the backward pass of
    the fused kernel takes 2.4 times as long (257 tokens, 3 heads). Elsewhere PyTorch's choice; in
    fp32 on a CPU that is the fused kernel, and products take 2.2 times as long (485 tokens).
    """
    if device.type != "cpu" or not bf16:
        return nullcontext()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # of the CPU too, despite its name
    return sdpa_kernel(SDPBackend.MATH)


class Run:
    """One training run: task, optimiser, schedule, average and data, resumable."""

    def __init__(self, task: Task, config: TrainConfig, device: torch.device) -> None:
        self.task, self.config, self.device = task, config, device
        # A processor without bf16 instructions takes four times as long in it as in fp32.
        self.autocast = config.autocast and "bf16" in fast_precisions(device)
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.processes = dist.get_world_size() if dist.is_initialized() else 1
        task.to(device, memory_format=torch.channels_last)  # convolutions run faster in it
        self.parameters = {n: p for n, p in task.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            decay_groups(task, config.weight_decay, config.decay), lr=config.lr, fused=True
        )
        self.average = None if config.ema is None else Average(self.parameters, config.ema)
        self.log = RunLog(config.output, config.tensorboard and self.rank == 0)
        self.step = 0
        self.skipped = 0
        self.data: dict[str, int] = {}  # images of each training set
        self.model: nn.Module = task
        if self.processes > 1:
            self.model = DistributedDataParallel(task, find_unused_parameters=False)

    # ---- state -----------------------------------------------------------------------------

    def resume(self) -> bool:
        """Continue from the state in the output folder; return False if there is none.

        Raise ResumeError if it is of another run.
        """
        variant = self.task.network.variant
        state = load_state(self.config.output, self.config, variant)
        if state is None:
            return False
        own = self._own_state()
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state["model"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load(state["average"])
        self.step, self.skipped = state["step"], state["skipped"]
        if not self.rank:
            self.log.trim(self.step)
        return True

    def save(self) -> None:
        """Write weights, then the state. Raise OSError; older files are then unchanged.

        In this order a run that ends in between does its last steps again, and writes both.
        """
        if self.rank:
            return
        config, variant = self.config, self.task.network.variant
        with Swapped(self.parameters, self.average):
            exported = self.task.exported()
            weights = {
                name: value.detach().cpu().contiguous()
                for name, value in self.task.network.state_dict().items()
                if name.startswith(exported)
            }
            notes = {
                "depthforge.step": str(self.step),
                "depthforge.stage": config.stage.value,
                "depthforge.code": code_version(),
                "depthforge.config": json.dumps(dataclass_yaml.plain(config)),
                "depthforge.data": json.dumps(self.data),
            }
            save_weights(weights, variant, config.output / WEIGHTS, notes)
        save_state(
            config.output,
            {
                "variant": variant_to_mapping(variant),
                "config": dataclass_yaml.plain(config),
                "model": self._own_state(),
                "optimiser": self.optimiser.state_dict(),
                "average": None if self.average is None else self.average.values,
                "step": self.step,
                "skipped": self.skipped,
            },
        )

    def _own_state(self) -> dict[str, Tensor]:
        """Return trained parameters, and those of the task beside the network; not frozen ones."""
        return {
            name: value
            for name, value in self.task.state_dict().items()
            if name in self.parameters or not name.startswith("network.")
        }

    # ---- training --------------------------------------------------------------------------

    def train(self, until: int | None = None) -> None:
        """Train from the current step to step `until`, or to the end.

        Raise NotFiniteError if the loss is, after saving the batch to the output folder.
        """
        config = self.config
        end = min(until or config.steps, config.steps)
        batches = self._batches(end)
        bar = tqdm(
            total=config.steps,
            initial=self.step,
            unit="step",
            disable=self.rank > 0,
            smoothing=0.05,
        )
        window: dict[str, Tensor] = {}
        counted, since = 0, time.monotonic()
        if self.step and self._validates() and not self.log.has_validation(self.step):
            self.validate()  # which the end of the process before prevented
        self.task.train()
        while self.step < end:
            parts = self._one_step(batches)
            for name, value in parts.items():
                window[name] = window.get(name, value.new_zeros(())) + value
            counted += 1
            bar.update()
            if self.step % config.log_every == 0 or self.step == end:
                means = {
                    name: float(mean_over_processes(value)) / counted
                    for name, value in window.items()
                }
                elapsed = time.monotonic() - since
                samples = counted * config.batch * config.accumulate * self.processes
                bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
                if not self.rank:
                    lr = self.optimiser.param_groups[0]["lr"]
                    self.log.add(self.step, means | {"lr": lr, "samples_s": samples / elapsed})
                window, counted, since = {}, 0, time.monotonic()
            if self.step % config.save_every == 0 or self.step == end:
                self.save()
            if self._validates():
                self.validate()
                since = time.monotonic()
        bar.close()
        self.log.close()

    def _one_step(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, config)
        parts: dict[str, Tensor] = {}
        for micro in range(config.accumulate):
            batch = next(batches)
            self._report(batch)
            batch = batch.to(self.device)
            last = micro + 1 == config.accumulate
            waiting = nullcontext() if last or self.processes == 1 else self.model.no_sync()
            with waiting:
                loss = self._loss(batch)
                (loss.total / config.accumulate).backward()
            for name, value in {"loss": loss.total.detach(), **loss.parts}.items():
                parts[name] = parts.get(name, value.new_zeros(())) + value / config.accumulate
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), config.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        if self.average is not None:
            self.average.update(self.parameters, self.step)
        return parts

    def _loss(self, batch: Batch) -> TaskLoss:
        """Return the loss. Raise NotFiniteError if it is not finite on any process."""
        try:
            with (
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast),
                training_attention(self.device, self.autocast),
            ):
                loss = self.model(batch)
        except FloatingPointError as error:  # where the loss cannot even be computed from NaN
            raise self._not_finite(batch, str(error)) from error
        value = float(mean_over_processes(loss.total.detach()))
        if not math.isfinite(value):
            raise self._not_finite(batch, f"loss is {value}")
        return loss

    def _not_finite(self, batch: Batch, what: str) -> NotFiniteError:
        """Save the batch and return the error that names it."""
        path = self.config.output / f"not_finite_step{self.step}_process{self.rank}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: getattr(batch, name).cpu() for name in ("images", "labels", "depth_m", "focal_px")
        }
        torch.save({**tensors, "names": list(batch.names), "numbers": list(batch.numbers)}, path)
        names = ", ".join(batch.names)
        return NotFiniteError(f"{what} at step {self.step}; the batch is in {path}: {names}")

    def _batches(self, end: int) -> Iterator[Batch]:
        config = self.config
        share = Share(
            config.batch,
            first=self.step * config.accumulate * self.processes + self.rank,
            every=self.processes,
            end=end * config.accumulate * self.processes,
        )
        labels = self.task.network.variant.labels
        sources = [open_dataset(settings, labels) for settings in config.train]
        weights = [settings.weight for settings in config.train]
        self.data = {source.domain: 0 for source in sources}
        for source in sources:
            self.data[source.domain] += len(source)
        stream = BatchStream(sources, weights, config.augment, share, config.seed)
        return load_batches(stream, config.workers)

    def _report(self, batch: Batch) -> None:
        for name in batch.skipped:
            self.skipped += 1
            tqdm.write(f"skipped unreadable image {self.skipped}: {name}")

    # ---- validation ------------------------------------------------------------------------

    def _validates(self) -> bool:
        return self.step % self.config.validate_every == 0 or self.step == self.config.steps

    def validate(self) -> None:
        """Log what the task measures on the validation sets, with the averaged weights."""
        if self.rank or not self.config.validate:
            return
        self.task.eval()
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)
        with Swapped(self.parameters, self.average), torch.no_grad(), autocast:
            for settings in self.config.validate:
                source = open_dataset(settings, self.task.network.variant.labels)
                measured = self.task.validate(source, self.config.validate_samples)
                name = settings.kind.value
                line = {f"{name}/{key}": value for key, value in measured.items()}
                self.log.add(self.step, line)
                tqdm.write(f"step {self.step} " + " ".join(f"{k} {v:.4f}" for k, v in line.items()))
        self.task.train()
