# SPDX-License-Identifier: Apache-2.0
"""Folders that tests read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "test" / "data"
TINY = DATA / "tiny"
TINY_YAML = TINY / "tiny.yaml"
