# SPDX-License-Identifier: Apache-2.0
"""Reads and writes rosbag2 files, and annotates them: start reading at annotation.py."""
