# SPDX-License-Identifier: Apache-2.0
"""Checks of the kernel: socket buffers and shared memory for images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from depthforge_ros.doctor.finding import Finding, fail, ok, warn

MIB = 1 << 20
SOCKET_BYTES = 4 * MIB
"""UDP socket buffer that config/fastdds.xml requests."""

CYCLONE_BYTES = 10_000_000
"""UDP receive buffer without which config/cyclonedds.xml does not start."""

SENDERS = 2  # the camera driver and the node, each with a segment of its own


def socket_buffers(cyclone: bool, proc: Path = Path("/proc")) -> Iterator[Finding]:
    """Check that the kernel allows the socket buffers of the DDS profiles.

    cyclone: whether Cyclone DDS is used, which does not start with less.
    """
    for name in ("rmem_max", "wmem_max"):
        check = f"net.core.{name}"
        needed = CYCLONE_BYTES if cyclone and name == "rmem_max" else SOCKET_BYTES
        remedy = f"sudo sysctl -w {check}={16 * MIB}, and the same in /etc/sysctl.d to keep it"
        try:
            granted = int((proc / "sys/net/core" / name).read_text())
        except (OSError, ValueError):
            yield warn(check, "cannot be read", "look on the host: containers may not show it")
            continue
        if granted >= needed:
            yield ok(check, f"{granted} bytes")
        elif needed == CYCLONE_BYTES:
            text = f"{granted} bytes; config/cyclonedds.xml needs {needed} to start"
            yield fail(check, text, remedy)
        else:
            text = f"{granted} bytes; {needed} needed, or images between machines can get lost"
            yield warn(check, text, remedy)


def shared_memory(segment: int, folder: Path = Path("/dev/shm")) -> Finding:
    """Check that the segments (bytes) of the camera driver and the node fit into /dev/shm."""
    check = str(folder)
    remedy = (
        f"mount it with more: size={-(-SENDERS * segment // MIB) * 2}m; in a container "
        "--shm-size, or --ipc=host to share it with the camera's"
    )
    try:
        there = os.statvfs(folder)
    except OSError as error:
        return fail(check, f"cannot be read: {error.strerror}", remedy)
    size, free = there.f_blocks * there.f_frsize // MIB, there.f_bavail * there.f_frsize // MIB
    needed_mib = segment / MIB
    text = f"{size} MiB, {free} free; one process that sends images takes {needed_mib:g}"
    if size < needed_mib:
        return fail(check, text, remedy)
    return ok(check, text) if free >= SENDERS * needed_mib else warn(check, text, remedy)
