# SPDX-License-Identifier: Apache-2.0
"""The SROS 2 policy against the running node."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path

from dds import own_domain
from nodes import Bench, running_node
from paths import ROOT


def allowed(kind: str, verb: str) -> set[str]:
    root = ET.parse(ROOT / "config" / "sros2" / "policy.xml").getroot()
    return {e.text for group in root.iter(f"{kind}s") if verb in group.attrib for e in group}


def test_the_policy_allows_what_the_running_node_has_and_nothing_else(tmp_path: Path) -> None:
    """Without vision_msgs the node has no ~/label_info; Humble's has no ~/get_type_description."""
    domain = own_domain()
    own = ("depthforge", "/")

    def names(found: list[tuple[str, list[str]]]) -> set[str]:
        return {name.replace("/depthforge/", "~/") for name, _ in found}

    # A relative variant with a camera height has every output.
    values = {"checkpoint": "instant", "variant": "dinov2_s", "camera_height_m": 1.5}
    with running_node(domain, tmp_path, **values), Bench(domain) as bench:
        bench.wait_for("state", "active")
        node = bench.node

        def present() -> tuple[set[str], set[str], set[str]]:
            subscribed = names(node.get_subscriber_names_and_types_by_node(*own))
            # Not there by default: use_sim_time false, image_transport raw.
            return (
                names(node.get_publisher_names_and_types_by_node(*own)) - {"~/label_info"},
                subscribed | {"/clock", "/image/compressed"},
                names(node.get_service_names_and_types_by_node(*own)),
            )

        expected = (
            allowed("topic", "publish") - {"~/label_info"},
            {f"/{name.lstrip('/')}" for name in allowed("topic", "subscribe")},
            allowed("service", "reply"),
        )
        with suppress(TimeoutError):  # discovery brings one name after the other
            bench.spin_until(lambda: present() == expected)
        assert present() == expected
