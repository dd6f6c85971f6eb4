# SPDX-License-Identifier: Apache-2.0
"""Reads and writes weights, our files and the authors', strictly and without unpickling code.

files.py opens and writes files, names.py maps our parameter names to the authors', load.py
fills a network.
"""

from depthforge_ros.network.weights.files import WeightsError, read_weights, save_weights
from depthforge_ros.network.weights.load import load_weights

__all__ = ["WeightsError", "load_weights", "read_weights", "save_weights"]
