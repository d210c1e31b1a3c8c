"""How the resources of a run's trials are written for a reader."""

from __future__ import annotations

import pytest

from nas_attn.executors.resources import Allocation


@pytest.mark.parametrize(
    ("allocation", "words"),
    [
        (Allocation(1, 1, 0.0, "cpu"), "1 trial at a time, each on 1 core (cpu)"),
        (Allocation(8, 2, 0.0, "cpu"), "8 trials at a time, each on 2 cores (cpu)"),
        (Allocation(1, 16, 1.0, "cuda"), "1 trial at a time, each on 16 cores and 1 GPU (cuda)"),
        (Allocation(4, 4, 0.25, "cuda"), "4 trials at a time, each on 4 cores and 0.25 GPU (cuda)"),
    ],
)
def test_an_allocation_names_trials_cores_gpus_and_device(allocation, words):
    assert str(allocation) == words
