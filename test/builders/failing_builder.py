# SPDX-License-Identifier: Apache-2.0
"""A compiler that says why it fails."""

import sys

if __name__ == "__main__":
    print("a line of no interest\n\nRuntimeError: No space left on device\n", flush=True)
    sys.exit(1)
