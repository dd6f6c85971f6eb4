# SPDX-License-Identifier: Apache-2.0
"""Starts camera, node and recorder as processes; start reading at graph.py."""
