# SPDX-License-Identifier: Apache-2.0
"""`depthforge export`: a network as an ONNX file for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path

MAX_DIFFERENCE = 1e-3
"""Largest difference of an fp32 graph from eager fp32, of the scale of each output."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("variant", help="name of a variant, or the path of a .yaml file like them")
    parser.add_argument("out", type=Path, metavar="OUT.onnx", help="file to write; must not exist")
    parser.add_argument(
        "--shape", help="WIDTHxHEIGHT of the images, multiples of 32; default: the crop"
    )
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    parser.add_argument(
        "--precision", default="fp32", help="of matrix products and convolutions: fp32 or fp16"
    )
    parser.add_argument("--opset", type=int, default=18, help="ONNX operator set: 18, 19 or 20")
    parser.add_argument(
        "--checkpoint",
        default="",
        help="weights; empty: the variant's own; `untrained` for random ones",
    )


def run(args: argparse.Namespace) -> int:
    """Export, check in ONNX Runtime against eager fp32, then keep the file. Return 0.

    Raise ValueError if the graph disagrees with the network; no file is left then.
    """
    import torch

    from depthforge_ros.engine.backends.onnx_graph import (
        OnnxRuntimeEngine,
        convert,
        difference,
        kept_on_success,
        require_exportable,
        write_graph,
    )
    from depthforge_ros.engine.candidate import crop_shape
    from depthforge_ros.engine.eager import EagerEngine
    from depthforge_ros.engine.engine import Shape
    from depthforge_ros.engine.load import load_network
    from depthforge_ros.engine.self_check import check, check_images
    from depthforge_ros.variant import load_variant

    require_exportable(args.precision, args.opset)
    if args.out.suffix != ".onnx":
        raise ValueError(f"OUT is {str(args.out)!r}; expected a name that ends in .onnx")
    variant = load_variant(args.variant)
    shape = Shape.parse(args.shape) if args.shape else crop_shape(variant)
    shape = Shape(shape.height, shape.width, args.batch)
    with kept_on_success(args.out) as file:
        network = load_network(variant, args.checkpoint).eval().requires_grad_(False)
        write_graph(convert(network, shape, args.precision, args.opset), file)
        print("converted; comparing with eager fp32 in ONNX Runtime", flush=True)
        reference = EagerEngine(network, torch.device("cpu"))
        engine = OnnxRuntimeEngine(file, variant, shape)
        images = check_images(shape)
        differs = difference(engine(images, depth=True), reference(images, depth=True))
        faults = list(check(engine, reference, [shape]).faults)
        if args.precision == "fp32" and max(differs.scores, differs.depth) > MAX_DIFFERENCE:
            faults.append(f"differs from eager fp32 by {differs}; allowed {MAX_DIFFERENCE:.0e}")
        if faults:
            raise ValueError(f"the graph is not kept: {'; '.join(faults)}")
        size_bytes = sum(path.stat().st_size for path in file.parent.iterdir())
    print(
        f"{args.out}: {variant.name} {args.precision} at {shape}, {size_bytes / 1e6:.1f} MB, "
        f"differs from eager fp32 by {differs}"
    )
    return 0
