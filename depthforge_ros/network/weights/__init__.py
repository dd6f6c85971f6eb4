# SPDX-License-Identifier: Apache-2.0
"""Reading and writing weights: our files and the authors', strictly, and never by unpickling code.

files.py opens and writes files, names.py knows what the authors call our parameters, load.py
fills a network.
"""

from depthforge_ros.network.weights.files import WeightsError, read_weights, save_weights
from depthforge_ros.network.weights.load import load_weights

__all__ = ["WeightsError", "load_weights", "read_weights", "save_weights"]
