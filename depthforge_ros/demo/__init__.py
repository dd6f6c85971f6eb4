# SPDX-License-Identifier: Apache-2.0
"""`depthforge demo`: images through the real node over DDS, into pictures, a film and a table.

command.py is the verb, and drives.py says what is driven through; ros/graph.py runs player, node
and recorder. pictures.py and report.py show what came back, from the recorded bag alone.
"""
