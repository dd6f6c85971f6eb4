# SPDX-License-Identifier: Apache-2.0
"""Checks of DDS as the environment configures it: implementation, profile, domain, discovery."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path

from depthforge_ros.doctor.finding import Finding, fail, ok, warn
from depthforge_ros.resources import shipped_folder
from depthforge_ros.transport_command import MIB, MIN_SEGMENT, PROFILE_VARIABLES

FASTDDS, CYCLONE = "rmw_fastrtps", "rmw_cyclonedds"  # beginnings of implementations' names
SPACE = {"": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
RANGES = ("SUBNET", "LOCALHOST", "SYSTEM_DEFAULT", "OFF")
MAX_DOMAIN = 232
SAFE_DOMAIN = 101
"""Higher domains use ports from 32768 on, which Linux gives to outgoing connections."""


def domain(env: Mapping[str, str]) -> Finding:
    """Check ROS_DOMAIN_ID."""
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
    """Check the discovery range: ROS_AUTOMATIC_DISCOVERY_RANGE (since Iron), ROS_LOCALHOST_ONLY."""
    check, text = "ROS_AUTOMATIC_DISCOVERY_RANGE", env.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    peers = env.get("ROS_STATIC_PEERS", "")
    shown = (text or "not set: SUBNET") + (f", and ROS_STATIC_PEERS {peers}" if peers else "")
    if text and text.upper() not in RANGES:
        yield fail(check, f"is {text!r}", f"expected one of {', '.join(RANGES)}")
    elif text.upper() == "OFF" and not peers:
        yield fail(
            check,
            "OFF: no other process is found, not even on this machine",
            "LOCALHOST, or SUBNET",
        )
    else:
        yield ok(check, shown)
    if env.get("ROS_LOCALHOST_ONLY") == "1":
        check = "ROS_LOCALHOST_ONLY"
        if text and text.upper() != "LOCALHOST":
            yield warn(check, f"1: {text} above is ignored", "unset one of the two")
        else:
            yield ok(check, "1: this machine only")


def profile(implementation: str, env: Mapping[str, str]) -> Finding:
    """Check the configuration file of the DDS implementation in use."""
    if implementation.startswith(FASTDDS):
        return _fastdds(env)
    if implementation.startswith(CYCLONE):
        return _cyclone(env)
    return warn(
        "RMW_IMPLEMENTATION",
        f"{implementation}: this package has no configuration for large images",
        "measure that images of your size arrive: depthforge benchmark",
    )


def segment_bytes(env: Mapping[str, str]) -> int:
    """Return the shared memory of a process in bytes, by the environment's Fast DDS profile.

    Without a usable profile: 64 MiB, the least that images need.
    """
    try:
        return _segment(Path(next(env[name] for name in PROFILE_VARIABLES if env.get(name))))
    except (StopIteration, OSError, ET.ParseError, ValueError):
        return MIN_SEGMENT


def _fastdds(env: Mapping[str, str]) -> Finding:
    check = "Fast DDS profile"
    named = next((name for name in PROFILE_VARIABLES if env.get(name)), None)
    remedy = (
        f"export {PROFILE_VARIABLES[0]}={shipped_folder('config') / 'fastdds.xml'} where the "
        "camera driver starts; the launch files set it for the node (docs/transport.md)"
    )
    if named is None:
        return warn(check, "none is set: this shell's large images can get lost", remedy)
    path = Path(env[named])
    if not path.is_file():
        return fail(check, f"{named} is {path}, which is not a file", remedy)
    try:
        segment = _segment(path)
    except (ET.ParseError, ValueError) as error:
        return fail(check, f"{path} cannot be used: {error}", remedy)
    if segment < MIN_SEGMENT:
        text = f"{path}: shared memory of {segment // MIB} MiB; {MIN_SEGMENT // MIB} needed"
        return warn(check, text, "depthforge transport --size WIDTHxHEIGHT --cameras N --out FILE")
    return ok(check, f"{path}: shared memory of {segment // MIB} MiB")


def _segment(path: Path) -> int:
    """Return the segment's bytes. Raise OSError, ParseError, ValueError without shared memory."""
    root = ET.parse(path).getroot()
    sizes = [int(e.text or 0) for e in root.iterfind(".//transport_descriptor/segment_size", SPACE)]
    if not sizes:
        raise ValueError("no transport_descriptor has a segment_size")
    return max(sizes)


def _cyclone(env: Mapping[str, str]) -> Finding:
    check, uri = "Cyclone DDS configuration", env.get("CYCLONEDDS_URI", "")
    path = shipped_folder("config") / "cyclonedds.xml"
    remedy = f"export CYCLONEDDS_URI=file://{path} (docs/transport.md)"
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
