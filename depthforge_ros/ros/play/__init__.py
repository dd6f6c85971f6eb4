# SPDX-License-Identifier: Apache-2.0
"""Publishes images and bags as live topics: start reading at publisher.py."""
