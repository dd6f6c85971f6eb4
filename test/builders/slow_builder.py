# SPDX-License-Identifier: Apache-2.0
"""A compiler that never ends and has started another program, whose id it leaves in the folder."""

import json
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    folder = Path(json.loads(sys.argv[1])["folder"])
    child = subprocess.Popen(["sleep", "600"])
    (folder / "new").write_text(str(child.pid))
    (folder / "new").rename(folder / "pid")
    child.wait()
