"""The resources of a run's trials: how many have room on GPUs, what is refused, how they are written for a reader."""

from __future__ import annotations

import pytest

from nas_attn.config import Resources
from nas_attn.errors import ConfigError
from nas_attn.executors.resources import Allocation, allocate


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


@pytest.mark.parametrize(
    ("gpus", "workers"),
    [(None, 4), (1.0, 4), (2.0, 2), (3.0, 1), (0.5, 8), (0.3, 12), (0.1, 40), (0.7, 4), (0.02, 200)],
)
def test_trials_have_room_on_whole_gpus_and_on_shares_of_one(gpus, workers):
    found = allocate(Resources(gpus_per_trial=gpus), n_cores=64, n_gpus=4)
    assert (found.workers, found.gpus, found.device) == (workers, gpus or 1.0, "cuda")


def test_a_share_of_several_gpus_is_refused():
    with pytest.raises(ConfigError, match=r"a share of one GPU or a whole number of them, but got 1.5: write 1 or 2."):
        allocate(Resources(gpus_per_trial=1.5), n_cores=8, n_gpus=4)
