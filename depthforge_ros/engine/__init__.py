# SPDX-License-Identifier: Apache-2.0
"""How a network is executed. An engine takes uint8 crops and returns scores and depth."""
