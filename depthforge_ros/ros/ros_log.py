# SPDX-License-Identifier: Apache-2.0
"""From Python's logging to a node's log."""

from __future__ import annotations

import logging

from rclpy.node import Node


class RosLog(logging.Handler):
    """Python's log records of the package, in the node's log."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record, at the level nearest to its own."""
        if record.levelno >= logging.ERROR:
            self._logger.error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            self._logger.warning(record.getMessage())
        else:
            self._logger.info(record.getMessage())
