# SPDX-License-Identifier: Apache-2.0
"""The process that compiles: `python -m depthforge_ros.engine.build_process JOB`, JOB in JSON.

See apart.py, which starts it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from depthforge_ros.engine.apart import NICENESS, Job
from depthforge_ros.engine.backends import BACKENDS
from depthforge_ros.engine.build import load_network, pick_device
from depthforge_ros.engine.shape import Shape
from depthforge_ros.variant import load_variant

PR_SET_PDEATHSIG = 1  # of sys/prctl.h


def main() -> int:
    """Build what the job says; 1 and a last line that says why where that fails."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # not to outlive who waits
    os.nice(NICENESS)
    job = Job(**json.loads(sys.argv[1]))
    try:
        network = load_network(load_variant(job.variant), job.checkpoint)
        network = network.to(pick_device(job.device)).eval().requires_grad_(False)
        shape = Shape(job.height, job.width, job.batch)
        BACKENDS[job.backend].build(network, shape, job.precision, Path(job.folder))
    except Exception as error:
        text = " ".join(str(error).split())
        print(f"\n{type(error).__name__}: {text}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
