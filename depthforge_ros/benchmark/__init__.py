# SPDX-License-Identifier: Apache-2.0
"""`depthforge benchmark`: the node (node.py) or the network alone (network.py)."""
