# SPDX-License-Identifier: Apache-2.0
"""How long the node takes from its start to the first mask, and how much memory it holds then.

    depthforge compile nano --shape 480x352 --backend openvino
    python docs/scripts/startup.py --size 480x352 --runs 3
    python docs/scripts/startup.py --size 480x352 --runs 3 --set backend=eager

A camera sends 5 images a second before, during and after the start. One line for each run: seconds
from the start of the process to the first mask, and memory after some masks: resident, resident
without what processes share, and the largest resident so far.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from depthforge_ros.benchmark.node import parameter
from depthforge_ros.benchmark.topics import resident_mib
from depthforge_ros.image_size import parse_size
from depthforge_ros.ros.harness.node_process import (
    environment,
    interruptible,
    node_command,
    process,
    use,
    wait_for,
)
from depthforge_ros.ros.harness.recorder import image_recorder

TOPIC, MASK = "/image", "/depthforge/semantic"
RATE_HZ = 5
TIMEOUT_S = 180.0


def main() -> int:
    """Run the node several times and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="480x352", metavar="WxH", help="size of the images")
    parser.add_argument("--runs", type=int, default=3, help="how often the node is started")
    parser.add_argument("--masks", type=int, default=20, help="masks before memory is read")
    parser.add_argument("--set", default="", metavar="NAME=VALUE,...", help="the node's parameters")
    args = parser.parse_args()
    parse_size(args.size, "--size")
    parameters = {
        "autostart": True,
        "image_size": args.size,
        **dict(parameter(text) for text in args.set.split(",") if text),
    }
    with interruptible():
        for _ in range(args.runs):
            with tempfile.TemporaryDirectory(prefix="depthforge-startup-") as folder:
                print(run(args.size, args.masks, parameters, Path(folder)), flush=True)
    return 0


def run(size: str, masks: int, parameters: dict, folder: Path) -> str:
    """Start the node once and return the line of its figures. Raises RuntimeError if it ends."""
    env = environment(None)
    use(env)
    width, height = size.split("x")
    camera = [sys.executable, "-m", "depthforge_ros.ros.harness.synthetic_camera"]
    camera += ["--topic", TOPIC, "--width", width, "--height", height]
    camera += ["--rate", str(RATE_HZ), "--seconds", str(2 * TIMEOUT_S)]
    command = node_command(parameters, {"image": TOPIC})
    with (
        image_recorder(MASK) as recorder,
        process("camera", camera, env, folder / "camera.txt"),
        recorder.recording(),
    ):
        time.sleep(2)  # the camera sends
        started_s = time.monotonic()
        with process("node", command, env, folder / "node.txt") as node:
            if not wait_for(lambda: recorder.heard(MASK) > 0, node, TIMEOUT_S):
                raise RuntimeError(f"no mask came in {TIMEOUT_S:g} s")
            first_s = time.monotonic() - started_s
            wait_for(lambda: recorder.heard(MASK) >= masks, node, TIMEOUT_S)
            private_mib = resident_mib(node.pid)
            status = Path(f"/proc/{node.pid}/status").read_text("utf-8").splitlines()
            pairs = (line.split(":", 1) for line in status if line.startswith("Vm"))
            mib = {name: int(value.split()[0]) / 1024 for name, value in pairs}
            report = recorder.report()
    return (
        f"first mask after {first_s:.1f} s; resident {mib['VmRSS']:.0f} MiB, unshared "
        f"{private_mib:.0f} MiB, at most {mib['VmHWM']:.0f} MiB ({report.message})"
    )


if __name__ == "__main__":
    sys.exit(main())
