# SPDX-License-Identifier: Apache-2.0
"""Tools that watch a running node: `depthforge status` and `depthforge view`."""
