# SPDX-License-Identifier: Apache-2.0
"""`depthforge weights`: lists, fetches, converts and inspects weights.

weights_command.py is the verb; catalogue.py lists what variants need and what is present,
download.py fetches one file, convert.py converts published files, inspection.py identifies a file.
"""
