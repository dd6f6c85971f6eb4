# SPDX-License-Identifier: Apache-2.0
"""How long a test waits for something before it calls it lost."""

WAIT_S = 240.0
"""For processes and threads that share their cores with others. No test may pass because of it."""
