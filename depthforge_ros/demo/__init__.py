# SPDX-License-Identifier: Apache-2.0
"""`depthforge demo`: images through the real node over DDS, into pictures, a film and a table.

demo_command.py is the verb, drives.py describes the drives; ros/harness/graph.py runs player, node
and recorder. pictures.py, figures.py and report.py draw and count from the recorded bag alone.
"""
