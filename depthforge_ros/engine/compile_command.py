# SPDX-License-Identifier: Apache-2.0
"""`depthforge compile`: builds engines ahead of time, so that no node has to wait for them."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from depthforge_ros.interrupt import on_signals

if TYPE_CHECKING:
    from depthforge_ros.engine.candidate import Request

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("variant", help="name of a variant, or the path of a .yaml file like them")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="WxH",
        help="WIDTHxHEIGHT at which images are inferred, multiples of 32; may be repeated; the "
        "default: the variant's crop",
    )
    parser.add_argument("--batch", type=int, default=1, help="images at once, as with slide")
    parser.add_argument("--checkpoint", default="", help="weights; empty: the variant's default")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, or GPU, NPU of OpenVINO"
    )
    parser.add_argument("--backend", default="auto", help="tensorrt, or auto: the first that works")
    parser.add_argument(
        "--builder",
        default="",
        help="of tensorrt: torch_tensorrt or onnx; default: torch_tensorrt if it supports the "
        "installed TensorRT",
    )
    parser.add_argument(
        "--precision",
        default="auto",
        help="fp32, bf16, fp16, or auto: the first that agrees with fp32",
    )
    parser.add_argument(
        "--report",
        type=Path,
        help="try every engine, not only the first that passes, time them in turns, write a report",
    )
    parser.add_argument("--rounds", type=int, default=20, help="timed runs of --report")
    parser.add_argument("--threads", type=int, default=0, help="on a CPU; 0: PyTorch's default")
    parser.add_argument(
        "--audit",
        action="store_true",
        help="build nothing; list the operators that TensorRT would leave to PyTorch",
    )


def run(args: argparse.Namespace) -> int:
    """Build and check; return 0 if every shape has an engine, or nothing is left to PyTorch."""
    import torch

    from depthforge_ros.engine.backends.tensorrt import BUILDER_VARIABLE
    from depthforge_ros.engine.candidate import Request, crop_shape
    from depthforge_ros.engine.engine import EAGER, CancelledError, Shape
    from depthforge_ros.variant import load_variant

    shapes = [Shape.parse(text) for text in args.shape] or [crop_shape(load_variant(args.variant))]
    shapes = [Shape(shape.height, shape.width, args.batch) for shape in shapes]
    if args.audit:
        return _audit(args.variant, shapes)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.builder:
        os.environ[BUILDER_VARIABLE] = args.builder
    if args.backend == EAGER:
        raise ValueError("--backend is 'eager', which is not compiled")
    request = Request(
        variant=args.variant,
        checkpoint=args.checkpoint,
        device=args.device,
        backend=args.backend,
        precision=args.precision,
        shapes=tuple(shapes),
    )
    signals: list[int] = []
    with on_signals(lambda number, _: signals.append(number), [signal.SIGTERM]):
        try:
            return _compile(request, args.report, args.rounds, lambda: not signals)
        except CancelledError:
            return EXIT_INTERRUPTED


def _compile(
    request: Request, report_file: Path | None, rounds: int, keep_going: Callable[[], bool]
) -> int:
    """Build engines until one passes the self-check; with a report, all of them."""
    from depthforge_ros.engine.compare import report, trials
    from depthforge_ros.engine.engine import EAGER, Journal

    tried = []
    for trial in trials(request, Journal(lambda text: print(text, flush=True)), keep_going):
        compiled = not trial.name.startswith(EAGER)
        if compiled or report_file is not None:
            verdict = f"self-check {'passed' if trial.passed else 'failed'}: {trial.verdict}"
            ready = f"ready after {trial.ready_s:.1f} s, {verdict}"
            print(f"{trial.name}: {trial.reason or ready}", flush=True)
        tried.append(trial)
        if compiled and trial.passed and report_file is None:
            break
    if report_file is not None:
        report_file.write_text(report(request, tried, rounds), "utf-8")
        print(f"written to {report_file}")
    done = any(trial.passed for trial in tried if not trial.name.startswith(EAGER))
    return 0 if done else EXIT_FAILED


def _audit(name: str, shapes: list) -> int:
    import torch

    from depthforge_ros.engine.backends.audit import ConvertedOperators, audit
    from depthforge_ros.network.deploy import Folded, Sampling
    from depthforge_ros.network.depthforge import DepthForge
    from depthforge_ros.network.export import export_network
    from depthforge_ros.variant import load_variant

    table = ConvertedOperators.load()
    with torch.device("meta"):
        network = DepthForge(load_variant(name)).eval()
    folded = Folded(network, torch.float16, Sampling.GATHER)
    fallback_kinds = 0
    for shape in shapes:
        program = export_network(
            folded, shape.height, shape.width, shape.batch, images_type=torch.float32
        )
        found = audit(program, table)
        print(
            f"{name} at {shape}: {sum(found.operators.values())} operators of "
            f"{len(found.operators)} kinds; torch-tensorrt {table.torch_tensorrt} converts all but "
            f"{sum(found.fallbacks.values())}"
        )
        for operator, count in sorted(found.fallbacks.items()):
            print(f"  {operator} ({count})")
        fallback_kinds += len(found.fallbacks)
    return EXIT_FAILED if fallback_kinds else 0
