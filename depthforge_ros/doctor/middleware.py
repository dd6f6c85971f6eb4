# SPDX-License-Identifier: Apache-2.0
"""DDS as the environment sets it: implementation, profile, domain and who is discovered."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path

from depthforge_ros.doctor.finding import Finding, fail, ok, warn
from depthforge_ros.transport_command import MIB, MIN_SEGMENT

FASTDDS, CYCLONE = "rmw_fastrtps", "rmw_cyclonedds"  # what the names of implementations begin with
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
SPACE = {"": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
RANGES = ("SUBNET", "LOCALHOST", "SYSTEM_DEFAULT", "OFF")
MAX_DOMAIN = 232
SAFE_DOMAIN = 101
"""Ports of higher domains lie where Linux takes those of outgoing connections (32768 and on)."""


def domain(env: Mapping[str, str]) -> Finding:
    """ROS_DOMAIN_ID."""
    check, text = "ROS_DOMAIN_ID", env.get("ROS_DOMAIN_ID", "")
    if not text:
        return ok(check, "not set: 0")
    if not text.isdecimal() or int(text) > MAX_DOMAIN:
        return fail(check, f"is {text!r}", f"expected 0..{MAX_DOMAIN}; 0..{SAFE_DOMAIN} is safe")
    if int(text) > SAFE_DOMAIN:
        return warn(
            check,
            f"{text}: its ports may be taken by outgoing connections",
            f"choose one of 0..{SAFE_DOMAIN}",
        )
    return ok(check, text)


def discovery(env: Mapping[str, str]) -> Iterator[Finding]:
    """Whom the node finds: ROS_AUTOMATIC_DISCOVERY_RANGE (from Iron on), ROS_LOCALHOST_ONLY."""
    check, text = "ROS_AUTOMATIC_DISCOVERY_RANGE", env.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    peers = env.get("ROS_STATIC_PEERS", "")
    said = (text or "not set: SUBNET") + (f", and ROS_STATIC_PEERS {peers}" if peers else "")
    if text and text.upper() not in RANGES:
        yield fail(check, f"is {text!r}", f"expected one of {', '.join(RANGES)}")
    elif text.upper() == "OFF" and not peers:
        yield fail(check, "OFF: nobody is found, not even on this machine", "LOCALHOST, or SUBNET")
    else:
        yield ok(check, said)
    if env.get("ROS_LOCALHOST_ONLY") == "1":
        check = "ROS_LOCALHOST_ONLY"
        if text and text.upper() != "LOCALHOST":
            yield warn(check, f"1: {text} above is ignored", "unset one of the two")
        else:
            yield ok(check, "1: this machine only")


def profile(implementation: str, env: Mapping[str, str]) -> Finding:
    """The configuration file of the DDS implementation that is used."""
    if implementation.startswith(FASTDDS):
        return _fastdds(env)
    if implementation.startswith(CYCLONE):
        return _cyclone(env)
    return warn(
        "RMW_IMPLEMENTATION",
        f"{implementation}: no configuration for large images comes with this package",
        "see that it carries images of your size without loss: depthforge benchmark",
    )


def segment_bytes(env: Mapping[str, str]) -> int:
    """Shared memory a process takes under the Fast DDS profile of the environment, 64 MiB without.

    As much as images need, then.
    """
    try:
        return _segment(Path(next(env[name] for name in PROFILES if env.get(name))))
    except (StopIteration, OSError, ET.ParseError, ValueError):
        return MIN_SEGMENT


def _fastdds(env: Mapping[str, str]) -> Finding:
    check = "Fast DDS profile"
    named = next((name for name in PROFILES if env.get(name)), None)
    remedy = (
        "export FASTRTPS_DEFAULT_PROFILES_FILE=.../config/fastdds.xml for the camera driver too; "
        "the launch files set it for what they start (docs/transport.md)"
    )
    if named is None:
        return warn(check, "none is set: large images get lost", remedy)
    path = Path(env[named])
    if not path.is_file():
        return fail(check, f"{named} is {path}, which is no file", remedy)
    try:
        segment = _segment(path)
    except (ET.ParseError, ValueError) as error:
        return fail(check, f"{path} cannot be used: {error}", remedy)
    if segment < MIN_SEGMENT:
        text = f"{path}: shared memory of {segment // MIB} MiB; {MIN_SEGMENT // MIB} needed"
        return warn(check, text, "depthforge transport --size WxH --cameras N --out FILE")
    return ok(check, f"{path}: shared memory of {segment // MIB} MiB")


def _segment(path: Path) -> int:
    """Bytes. Raises OSError, ParseError, and ValueError where it has no shared memory."""
    root = ET.parse(path).getroot()
    sizes = [int(e.text or 0) for e in root.iterfind(".//transport_descriptor/segment_size", SPACE)]
    if not sizes:
        raise ValueError("no transport_descriptor has a segment_size")
    return max(sizes)


def _cyclone(env: Mapping[str, str]) -> Finding:
    check, uri = "Cyclone DDS configuration", env.get("CYCLONEDDS_URI", "")
    remedy = "export CYCLONEDDS_URI=file://.../config/cyclonedds.xml (docs/transport.md)"
    if not uri:
        return warn(check, "CYCLONEDDS_URI is not set: large images get lost", remedy)
    try:
        if uri.lstrip().startswith("<"):
            ET.fromstring(uri)
        else:
            ET.parse(uri.removeprefix("file://"))
    except (OSError, ET.ParseError) as error:
        return fail(check, f"CYCLONEDDS_URI is {uri}: {error}", remedy)
    return ok(check, uri)
