# SPDX-License-Identifier: Apache-2.0
"""`depthforge train CONFIG`: train one stage, or resume it.

Several GPUs: `torchrun --nproc-per-node 4 -m depthforge_ros.cli train CONFIG`.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from datetime import timedelta
from pathlib import Path

import cv2
import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from depthforge_ros.learning.batches import BatchStream, Share
from depthforge_ros.learning.checkpoints import remove_partials
from depthforge_ros.learning.config import (
    Ablation,
    DatasetKind,
    DatasetSettings,
    Stage,
    TrainConfig,
    open_dataset,
    open_untaught,
    read_config,
)
from depthforge_ros.learning.datasets import FolderDataset, check_labels, with_label_set
from depthforge_ros.learning.distil.one_encoder import merge_encoders
from depthforge_ros.learning.loop import WEIGHTS, NotFiniteError, Run
from depthforge_ros.learning.pretrain import DepthTask, JointTask, VisualTask
from depthforge_ros.learning.street_cache import StreetCache
from depthforge_ros.learning.tasks import MethodTask, Task
from depthforge_ros.network.depthforge import ADAPTER_PARTS, DepthForge, frozen_parts
from depthforge_ros.network.weights import (
    WeightsError,
    load_weights,
    read_weights,
)
from depthforge_ros.network.weights.files import open_weights

RENDER_LOG = "render.log"
FIRST_FRAMES = 48
WEIGHED_SAMPLES = 200
MERGE_SAMPLES = 120


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("config", type=Path, help="yaml file; see config/train/")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if available)")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="stop at this step of the plan; default: its end"
    )


def run(args: Namespace) -> int:
    """Train to the end, or resume where the run was last saved. Return 1 if the loss became NaN."""
    config = read_config(args.config)
    if args.steps is not None and not 1 <= args.steps <= config.steps:
        raise ValueError(
            f"--steps is {args.steps}; the plan of {args.config} is 1..{config.steps}. "
            + how_to_go_on(config.output)
        )
    labels = config.load_variant().labels
    for settings in (*config.train, *config.validate):
        if settings.kind is DatasetKind.FOLDER:
            source = with_label_set(open_untaught(settings), labels, has_own_ids=True)
            assert isinstance(source, FolderDataset)
            check_labels(source)
    device = join_processes(args.device)
    if device.type == "cpu":
        # The backward pass of attention meets numbers below 1e-38, with which a processor computes
        # ten times as slowly. Threads inherit this from the one that starts them: it comes first.
        torch.set_flush_denormal(True)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)  # the loader's workers, forked from here, are what runs side by side
    main_process = not dist.is_initialized() or dist.get_rank() == 0
    renderers = [start_renderer(d) for d in config.train if d.render and main_process]
    try:
        for settings in config.train:
            if settings.render is not None:
                wait_for_frames(settings, renderers)
        train(config, device, main_process=main_process, until=args.steps)
        if dist.is_initialized():
            dist.barrier()  # the first process still writes and validates; nobody leaves before it
    except NotFiniteError as error:
        print(f"depthforge train: {error}", file=sys.stderr)
        return 1
    finally:
        for renderer in renderers:
            renderer.terminate()
            renderer.wait()
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def train(
    config: TrainConfig, device: torch.device, *, main_process: bool, until: int | None = None
) -> None:
    """Build the run, resume it if it was saved, and train to step `until` (None: the end).

    What it holds of the process group is released on return, before the group itself is.
    """
    training = Run(build_task(config), config, device)
    if main_process:
        remove_partials(config.output)
    if training.resume():
        tqdm.write(f"resumed at step {training.step}")
        if training.step >= config.steps:
            tqdm.write(f"the run is complete. {how_to_go_on(config.output)}")
    training.train(until)


def how_to_go_on(output: Path) -> str:
    """Return how to train longer than a plan, whose schedule depends on its number of steps."""
    return (
        "To train longer, write a configuration with its own `output` and `steps`, and "
        f"{output / WEIGHTS} last in `weights`"
    )


def join_processes(device: str | None) -> torch.device:
    """Join torchrun's process group, if there is one, and return this process's device."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return torch.device(name)
    if name == "cuda":
        name = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(name)
    # The others wait while the first one validates.
    backend = "nccl" if name.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=timedelta(hours=6))
    return torch.device(name)


def build_task(config: TrainConfig) -> Task:
    """Return the variant's network with its given weights, in the task of the stage.

    Raise WeightsError if a weight is missing, unexpected or of another shape.
    """
    torch.manual_seed(config.seed)
    network = DepthForge(config.load_variant())
    if config.stage is Stage.METHOD:
        task: Task = MethodTask(network, config.losses, config.seed)
        start_method(network, config.weights)
        switch_off(network, config.ablation)
        return task
    if config.stage is Stage.DEPTH:
        task = DepthTask(network)
        if config.weights:
            start_depth(network, config.weights)
        return task
    if config.stage is Stage.JOINT:
        joint = JointTask(network)
        start_joint(network, config)
        weigh_classes(joint, config)
        return joint
    visual = VisualTask(network)
    if config.weights:
        load_parts(network, config.weights, ("visual",))
    weigh_classes(visual, config)
    return visual


def start_joint(network: DepthForge, config: TrainConfig) -> None:
    """Fill a network with one encoder from its own weights, or from those of one with two.

    Raise WeightsError if the files hold neither.
    """
    if not config.weights:
        raise WeightsError(
            "weights is empty; expected the files of a trained network with one encoder or two"
        )
    stored = [open_weights(path).variant for path in config.weights]
    two = [variant for variant in stored if variant is not None and variant.depth is not None]
    if not two:
        load_weights(network, network.variant, config.weights)
        return
    source = DepthForge(two[0])
    load_weights(source, two[0], config.weights)
    stream = training_stream(config, seed=config.seed + 2)
    crops = (stream.sample(number, []).rgb for number in range(MERGE_SAMPLES))
    images = (torch.from_numpy(crop.transpose(2, 0, 1).copy())[None] for crop in crops)
    merge_encoders(network, source, images)


def training_stream(config: TrainConfig, seed: int) -> BatchStream:
    """Return the samples of the run under another seed, for looking at the data beforehand."""
    labels = config.load_variant().labels
    sources = [open_dataset(settings, labels) for settings in config.train]
    weights = [settings.weight for settings in config.train]
    return BatchStream(sources, weights, config.augment, Share(1, 0, 1, 0), seed)


def weigh_classes(task: VisualTask | JointTask, config: TrainConfig) -> None:
    """Set the class weights by the first samples of another run."""
    stream = training_stream(config, seed=config.seed + 1)
    task.weigh_classes(stream.sample(n, []).labels for n in range(WEIGHED_SAMPLES))


def load_parts(network: DepthForge, paths: tuple[Path, ...], parts: tuple[str, ...]) -> None:
    """Fill these parts of the network from files that together hold them and no others.

    Raise WeightsError naming what is missing, unexpected or does not fit.
    """
    named = nn.ModuleDict({part: getattr(network, part) for part in parts})
    load_weights(named, network.variant, paths)


def start_method(network: DepthForge, paths: tuple[Path, ...]) -> None:
    """Fill the frozen parts, and the adapter's if one is given to continue from.

    Raise WeightsError if the files together hold neither exactly.
    """
    parts = {name.partition(".")[0] for path in paths for name in open_weights(path).shapes}
    given = ADAPTER_PARTS if parts & set(ADAPTER_PARTS) else ()
    load_parts(network, paths, frozen_parts(network.variant) + given)


def start_depth(network: DepthForge, paths: tuple[Path, ...]) -> None:
    """Continue a depth encoder and its head, or start the encoder as a copy of a visual one.

    Raise WeightsError if the files hold neither for this shape.
    """
    state = {name: value for path in paths for name, value in read_weights(path)[0].items()}
    if any(name.startswith("depth.") for name in state):
        return load_parts(network, paths, ("depth", "depth_head"))
    missing = []
    with torch.no_grad():
        for name, parameter in network.depth.named_parameters():
            value = state.get(f"visual.{name}")
            if value is None or value.shape != parameter.shape:
                missing.append(name)
            else:
                parameter.copy_(value)
    if missing:
        raise WeightsError(f"{[str(p) for p in paths]} have no fitting visual {missing[:5]}")


@torch.no_grad()
def switch_off(network: DepthForge, ablation: Ablation) -> None:
    """Give the parts that the ablation leaves out weights that change nothing, and freeze them.

    So all three networks cost the same and their files are ordinary weights. Call it when the
    weights are loaded and the adapter's parts are set to be trained.
    """
    if ablation is Ablation.DEPTH:
        return
    network.refinement.requires_grad_(False)
    for parameter in network.refinement.fuse.parameters():
        parameter.zero_()  # finest + fuse(...) = finest
    if ablation is Ablation.NONE:
        tokens = network.tokens
        tokens.scale.requires_grad_(False)
        tokens.scale.zero_()  # f + scale * delta(...) = f
        tokens.token_to_feature.requires_grad_(False)
        tokens.delta.requires_grad_(False)


def start_renderer(settings: DatasetSettings) -> subprocess.Popen[bytes]:
    """Start a process that renders streets into the data set's folder during training."""
    render = settings.render
    assert render is not None
    settings.root.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "depthforge_ros.learning.street_cache", str(settings.root)]
    for name, value in dataclasses.asdict(render).items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{option}" if value else f"--no-{option}")
        else:
            command += [f"--{option}", str(value)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (settings.root / RENDER_LOG).open("wb") as log:
        return subprocess.Popen(command, env=environment, stderr=log)


def wait_for_frames(settings: DatasetSettings, renderers: list[subprocess.Popen[bytes]]) -> None:
    """Wait until the cache holds enough frames to start.

    Raise ChildProcessError if a renderer died.
    """
    render = settings.render
    assert render is not None
    needed = min(FIRST_FRAMES, render.drives * render.frames)
    settings.root.mkdir(parents=True, exist_ok=True)
    while len(StreetCache(settings.root)) < needed:
        if any(renderer.poll() not in (None, 0) for renderer in renderers):
            raise ChildProcessError(f"rendering failed; {settings.root / RENDER_LOG} says why")
        time.sleep(1.0)
