# SPDX-License-Identifier: Apache-2.0
"""`depthforge weights`: what there is, fetching it, converting it, looking into it.

command.py is the verb. catalogue.py knows what variants need and what is here, download.py fetches
one file, convert.py turns published files into one of ours, inspection.py tells what a file is.
"""
