# SPDX-License-Identifier: Apache-2.0
"""Every check and benchmark of this package that a GPU changes, written into one report.

    python docs/scripts/gpu_report.py --out gpu.md

For whoever has a GPU that docs/performance.md has no figures of. A step that fails is reported
with what it said, and the next one goes on. While a step runs, nvidia-smi is asked ten times a
second how busy the GPU is.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUSY = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100")
STEP_S = 3600
FILE = "FILE"
"""In a command: a file whose content belongs into the report."""


def steps(variant: str, shape: str, device: str) -> list[tuple[str, str]]:
    """Titles and commands of `depthforge`, in the order in which they run."""
    width, height = shape.split("x")
    engines = f"--shape {shape} --device {device} --report {FILE}"
    topic = f"--variant {variant} --checkpoint untrained --device {device} --seconds 30"
    large = f"{topic} --size {width}x{height} --rate 60 --set image_size={width}x{height}"
    shipped = f"--checkpoint '' --device {device} --seconds 30 --size 1920x1080 --rate 60"
    return [
        ("The machine", "doctor"),
        (
            "What TensorRT would leave to PyTorch",
            f"compile {variant} --shape {shape} --audit",
        ),
        ("Engines of nano", f"compile nano --checkpoint '' {engines}"),
        (
            "Engines of nano from ONNX",
            f"compile nano --checkpoint '' --backend tensorrt --builder onnx {engines}",
        ),
        (
            "Engines of nano for three cameras",
            f"compile nano --checkpoint '' --shape 480x352 --batch 3 --device {device} "
            f"--report {FILE}",
        ),
        (f"Engines of {variant}", f"compile {variant} --checkpoint untrained {engines}"),
        (
            f"{variant}, stage by stage",
            f"benchmark network fp32 bf16 --vs plain --variant {variant} --crop {shape} "
            f"--device {device}",
        ),
        ("nano, topic to topic", f"benchmark {shipped} --set image_size=1920x1080"),
        ("nano, topic to topic, engines built meanwhile", f"benchmark {shipped}"),
        (f"{variant}, topic to topic", f"benchmark {large}"),
    ]


def main() -> int:
    """Run the steps and write the report; 1 where one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.md"), help="to write")
    parser.add_argument("--variant", default="dinov2_l", help="network beside nano")
    parser.add_argument("--shape", default="1024x512", help="WIDTHxHEIGHT of its images")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--only", default="", help="steps whose title has this in it")
    args = parser.parse_args()
    chosen = [s for s in steps(args.variant, args.shape, args.device) if args.only in s[0]]
    if not chosen:
        parser.error(f"--only is {args.only!r}, which is in no title")
    sections, failures = [], 0
    for title, command in chosen:
        print(title, flush=True)
        section, failed = section_of(title, command)
        sections.append(section)
        failures += failed
        args.out.write_text("# On a GPU\n\n" + "\n".join(sections), "utf-8")
    return 1 if failures else 0


def section_of(title: str, command: str) -> tuple[str, bool]:
    """What a command of `depthforge` says, as Markdown, and whether it failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.md"
        words = [str(file) if word == FILE else word for word in shlex.split(command)]
        started_s = time.monotonic()
        with gpu_busy() as busy:
            try:
                done = subprocess.run(
                    [sys.executable, "-m", "depthforge_ros.cli", *words],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=STEP_S,
                    check=False,
                )
                said, status = done.stdout, done.returncode
            except subprocess.TimeoutExpired:
                said, status = f"not done after {STEP_S} s", 1
        took_s = time.monotonic() - started_s
        lines = [f"## {title}", "", "```", f"depthforge {command}", "```", ""]
        lines.append(f"Status {status}, {took_s:.0f} s{described(busy)}.")
        if file.is_file():
            lines += ["", file.read_text("utf-8").strip()]
        lines += ["", "```", said.strip(), "```", ""]
    return "\n".join(lines), status != 0


@contextmanager
def gpu_busy() -> Iterator[list[float]]:
    """How busy the GPU was meanwhile, per cent, filled in at the end; empty without nvidia-smi."""
    readings: list[float] = []
    if shutil.which(BUSY[0]) is None:
        yield readings
        return
    with tempfile.TemporaryFile("w+") as file, subprocess.Popen(BUSY, stdout=file) as watch:
        try:
            yield readings
        finally:
            watch.terminate()
            watch.wait()
            file.seek(0)
            readings += [float(line) for line in file.read().split() if line.isdigit()]


def described(busy: list[float]) -> str:
    """The readings in words, to follow a time."""
    if not busy:
        return ", nvidia-smi had nothing to say"
    busier = statistics.mean(sorted(busy)[len(busy) // 2 :])
    return f"; GPU busy {statistics.mean(busy):.0f} %, in the busier half {busier:.0f} %"


if __name__ == "__main__":
    sys.exit(main())
