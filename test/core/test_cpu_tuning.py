# SPDX-License-Identifier: Apache-2.0
"""What a process sets for itself, and what the user has set stays."""

import os

import pytest

from depthforge_ros.cpu_tuning import calm_idle_threads


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, ("PASSIVE", "1000")),
        ({"GOMP_SPINCOUNT": "7"}, ("PASSIVE", "7")),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
    ],
)
def test_threads_are_calmed_unless_the_user_says_how(monkeypatch, before, after):
    monkeypatch.setattr(os, "environ", dict(before))
    calm_idle_threads()
    assert (os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT")) == after
