# SPDX-License-Identifier: Apache-2.0
"""The table of exports of docs/engines.md: nodes, bytes, and differences in two runtimes.

    python docs/scripts/export_table.py nano nano_two dinov2_s --shape 128x96

Each variant is exported by `depthforge export`, which compares ONNX Runtime with eager fp32, and
then runs in OpenVINO in fp32. A process for each, because large networks need much memory. A
difference is the largest one over the largest absolute value of the output: scores and depth.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    """Print a table with a row for each variant; 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--shape", default="128x96", metavar="WxH")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--checkpoint", default="untrained")
    parser.add_argument("--opset", default="18")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print(row(args.variants[0], args))
        return 0
    print("| variant | nodes | file | ONNX Runtime | OpenVINO | time and memory |")
    print("|---|---|---|---|---|---|", flush=True)
    failed = False
    for variant in args.variants:
        options = ["--shape", args.shape, "--precision", args.precision, "--opset", args.opset]
        options += ["--checkpoint", args.checkpoint, "--row"]
        done = subprocess.run(
            [sys.executable, __file__, variant, *options], capture_output=True, text=True
        )
        last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:]
        print(*last if done.returncode == 0 else [f"| {variant} | failed: {last} |"], flush=True)
        failed |= done.returncode != 0
    return int(failed)


def row(variant: str, args: argparse.Namespace) -> str:
    """Export one variant and return its row. Raises what the export raises."""
    import onnx

    from depthforge_ros.cli import main as depthforge
    from depthforge_ros.engine.backends.onnx_graph import OnnxRuntimeEngine, difference
    from depthforge_ros.engine.backends.openvino import run_graph
    from depthforge_ros.engine.engine import CropOutput, Shape
    from depthforge_ros.engine.load import build_engine
    from depthforge_ros.engine.self_check import check_images
    from depthforge_ros.variant import load_variant

    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="depthforge-export-") as folder:
        file = Path(folder) / f"{variant}.onnx"
        command = ["export", variant, str(file), "--shape", args.shape]
        command += ["--precision", args.precision, "--checkpoint", args.checkpoint]
        if depthforge([*command, "--opset", args.opset]) != 0:
            raise SystemExit(f"{variant} was not exported")
        took_s = time.monotonic() - started_s
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        nodes = len(onnx.load(file, load_external_data=False).graph.node)
        size_mb = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
        external = " (weights beside it)" if file.with_name(f"{file.name}.data").exists() else ""
        shape = Shape.parse(args.shape)
        images = check_images(shape)
        known = load_variant(variant)
        eager = build_engine(known, args.checkpoint, device="cpu")(images, depth=True)
        answer = OnnxRuntimeEngine(file, known, shape)(images, depth=True)
        first = difference(answer, eager)
        seen = difference(CropOutput(*run_graph(file, known, shape, "fp32")(images)), eager)
    cells = [f"`{variant}`", nodes, f"{size_mb:.1f} MB{external}"]
    cells += [f"{one.scores:.1e}, {one.depth:.1e}" for one in (first, seen)]
    return f"| {' | '.join(map(str, cells))} | {took_s:.0f} s, {peak_gib:.1f} GiB |"


if __name__ == "__main__":
    sys.exit(main())
