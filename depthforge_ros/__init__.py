# SPDX-License-Identifier: Apache-2.0
"""DepthForge on ROS 2: semantic masks and depth images from cameras, for night and snow.

Where to start reading: ``frame.py`` (what goes in and out), ``network/depthforge.py`` (the
network), ``pipeline.py`` (frame to prediction), ``ros/node/node.py`` (the node).
"""

__version__ = "0.2.0"
