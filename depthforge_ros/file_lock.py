# SPDX-License-Identifier: Apache-2.0
"""An advisory lock on an open file, held until the file is closed or its process ends."""

from __future__ import annotations

import fcntl
from typing import IO


def try_lock(file: IO | int) -> bool:
    """Lock an open file or descriptor exclusively; return False if another holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
