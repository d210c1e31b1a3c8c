"""The estimate of the time left, over whole simulated jobs whose trainings differ as those of real jobs do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from simulated_time import World, opened

from nas_attn.records import Task

SHARES = {"se": 0.15, "cbam": 0.35}
"""Time that an attention adds at one site, as a share of the network's: with all three sites up to twice the time."""


class Job(World):
    """Trainings as a log of the default job shows them: attention costs time, retrainings take 2.35 times as long.

    The driver expects 2.25 times. Workers start slowly, and equal trainings differ by 8 %.
    """

    growth, startup, cold, gap = 2.25, 8.0, 2.5, 0.15
    shares, spread = 1.0, 0.08

    def length(self, task: Task) -> float:
        """Return the seconds of a training."""
        added = self.shares * sum(SHARES[attention.name] for attention in task.placement.attentions.values())
        base = 6.7 if task.stage == "retrain" else 2.85
        return base * (1 + added) * self.random.lognormvariate(0.0, self.spread)

    def value(self, task: Task) -> float:
        """Return a value that is best for a mixed placement, which is no other arm."""
        names = {site: attention.name for site, attention in task.placement.attentions.items()}
        right = (names.get("denseblock1") == "cbam") + (names.get("denseblock2") == "se") - ("denseblock3" in names)
        return 0.9 + 0.01 * right + self.random.gauss(0.0, 0.002)


class Heavy(Job):
    """Attention at all sites takes up to three times as long as none."""

    shares = 2.0


class SlowEngine(Job):
    """The engine takes a third of the time."""

    gap = 1.5


class OfAnotherGrowth(Job):
    """Retrainings take a sixth less than expected."""

    growth = 2.8


class Stopping(Job):
    """A scheduler looks at search trials at a quarter and at half of their epochs."""

    rungs = (2, 4)


JOBS: list[tuple[type[World], int, dict[str, Any], dict[str, str]]] = [
    (World, 1, {}, {"sampler": "tpe"}),  # its `found #1` is no other arm here, and counts
    (World, 4, {}, {"sampler": "tpe"}),
    (Job, 2, {"trials": 24}, {}),
    (Job, 4, {"trials": 24, "top": 6}, {"sampler": "tpe"}),
    (Job, 2, {"trials": 24, "ablate": True}, {}),
    (Job, 4, {"trials": 20, "control_search": "random"}, {"sampler": "tpe"}),
    (Heavy, 2, {"trials": 24}, {}),
    (SlowEngine, 2, {"trials": 20}, {"sampler": "tpe"}),
    (OfAnotherGrowth, 2, {"trials": 20}, {"sampler": "tpe"}),
    (Stopping, 2, {"trials": 40}, {"scheduler": "asha", "sampler": "tpe"}),
]


@pytest.mark.parametrize(("job", "workers", "budget", "engine"), JOBS)
def test_the_time_left_is_right_within_a_quarter_after_the_first_third(
    job: type[World], workers: int, budget: dict[str, Any], engine: dict[str, str], tmp_path: Path
) -> None:
    world = job(workers)
    with opened(tmp_path, world, budget=budget, **engine) as stages:
        world.run(stages)
        assert stages.is_finished
        assert stages.error is None
        n_arms = len(stages.arms()) + 1
    end = world.now + 4.0 + 1.3 * n_arms
    late = [(now, left, stage) for now, left, stage in world.estimates if now >= end / 3]
    errors = [((left - (end - now)) / (end - now), round(now / end, 2), stage) for now, left, stage in late]
    assert len(errors) > 20
    worst = max(errors, key=lambda error: abs(error[0]))
    assert abs(worst[0]) < 0.25, worst
