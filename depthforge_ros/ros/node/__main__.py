# SPDX-License-Identifier: Apache-2.0
"""`python -m depthforge_ros.ros.node` runs the node."""

import sys

from depthforge_ros.ros.node.process import main

sys.exit(main())
