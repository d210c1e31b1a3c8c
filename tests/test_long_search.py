"""A search of more than a thousand placements: known proposals lead to neighbours, and one look serves several."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from engine import small_space
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from scripted import at, follow, search_in

from nas_attn.placement import NONE, Placement
from nas_attn.records import Outcome
from nas_attn.study import sampling
from nas_attn.study.neighbours import neighbours
from nas_attn.study.samplers import recent_tpe
from nas_attn.study.samplers.recent_tpe import RecentTPE
from nas_attn.study.sampling import SearchStudy

BOUND = small_space()
NONE_PARAMS = BOUND.params(NONE) or {}
VALUES = [0.9 - 0.001 * number for number in range(1, 50)]
"""Values of trainings by the number of placements before: each is worse than the one before."""


def distance(one: Placement, other: Placement) -> int:
    """Return at how many sites two placements differ."""
    sites = one.attentions.keys() | other.attentions.keys()
    return sum(one.attentions.get(site) != other.attentions.get(site) for site in sites)


def train(study: SearchStudy, number: int) -> list[Placement]:
    """Train so many placements, or as many as there are, each worse than the one before, and return them."""
    tried = []
    for _ in range(number):
        task = study.ask()
        if task is None:
            break
        tried.append(task.placement)
        study.finish(task.number, Outcome("complete", VALUES[study.n_done - 1], seconds=1.0))
    return tried


def test_neighbours_differ_in_one_decision():
    here = at(1, "cbam", kernel_size=3)
    params = BOUND.params(here)
    assert params is not None
    found = list(neighbours(BOUND, params, random.Random(0)))
    assert 14 < len({placement.key for placement in found}) <= 18, "of six other choices at each of three sites"
    assert {distance(here, placement) for placement in found} == {1}


def test_a_long_search_tries_a_neighbour_instead_of_answering(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(sampling, "_LONG", 20)
    known = at(2, "cbam", kernel_size=7)
    script = follow(monkeypatch, BOUND, known)
    with search_in(tmp_path, budget=32, top=1) as study:
        while study.n_done < 20:
            train(study, 1)
        assert any(row.answered_from is not None for row in study.records()), "as long as it is short"
        n_rows = len(study.records())
        tried = train(study, 12)
        assert len(study.records()) == n_rows + 12, "a row for each training, and no other"
        assert study.ask() is None
    assert {distance(known, placement) for placement in tried} == {1}
    assert len({placement.key for placement in tried}) == 12
    told = script.told[-24:]
    assert told.count((TrialState.FAIL, None)) == 12, "what is not tried is withdrawn"
    assert [value for state, value in told if state is TrialState.COMPLETE] == pytest.approx(VALUES[19:31])


def test_where_all_neighbours_are_known_an_untried_placement_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(sampling, "_LONG", 1)
    monkeypatch.setattr(sampling, "neighbours", lambda *_: iter([NONE]))
    monkeypatch.setattr(sampling, "_PROPOSALS", 2)
    script = follow(monkeypatch, BOUND, NONE)
    with search_in(tmp_path, budget=25, top=1) as study:
        while study.n_open:
            train(study, 1)
        assert study.n_done == 25
        assert all(row.answered_from is None for row in study.records())
    assert script.told.count((TrialState.FAIL, None)) >= 2


def test_a_neighbour_over_the_limits_is_not_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sampling, "_LONG", 1)
    costs = sorted(BOUND.cost(placement).n_parameters for placement in neighbours(BOUND, NONE_PARAMS, random.Random(0)))
    bound = small_space(limits={"max_params": costs[len(costs) // 2]})
    follow(monkeypatch, bound, NONE)
    with search_in(tmp_path, bound, budget=15, top=1) as study:
        while study.n_open:
            train(study, 1)
        rows = study.records()
    assert any(distance(NONE, row.placement) == 1 and row.label is None for row in rows)
    assert all(bound.check(row.placement) is None for row in rows)


@pytest.mark.parametrize(("n_trials", "looks"), [(30, 4), (3, 16)])
def test_one_look_serves_four_proposals_of_a_long_search(
    monkeypatch: pytest.MonkeyPatch, n_trials: int, looks: int
) -> None:
    monkeypatch.setattr(recent_tpe, "LONG", 20)
    densities = []
    build = RecentTPE._build_parzen_estimator

    def counted(self: RecentTPE, *given: Any, **named: Any) -> Any:
        densities.append(build(self, *given, **named))
        return densities[-1]

    monkeypatch.setattr(RecentTPE, "_build_parzen_estimator", counted)
    sampler = RecentTPE(multivariate=True, constant_liar=True, seed=0, n_startup_trials=2)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = {name: CategoricalDistribution(list("abcdef")) for name in ("x", "y", "z")}

    def run(number: int) -> list[str]:
        proposed = []
        for _ in range(number):
            trial = study.ask(space)
            proposed.append("".join(trial.params.values()))
            study.tell(trial, proposed[-1].count("c"))
        return proposed

    run(n_trials)
    densities.clear()
    proposed = run(16)
    assert len(densities) == 2 * looks, "that of the good ones and that of the others"
    assert len(set(proposed)) > 4, "each proposal is drawn anew"
