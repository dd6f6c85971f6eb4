# SPDX-License-Identifier: Apache-2.0
"""`depthforge doctor`: checks of this machine; start reading at doctor_command.py."""
