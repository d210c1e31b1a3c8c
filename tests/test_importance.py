"""What matters where: the regression against its own formula, planted effects, and what the trials cannot tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from synthetic_run import FAMILIES, densenet_table, everywhere, make_run

from nas_attn.placement import Attention, Placement
from nas_attn.records import RunRecord
from nas_attn.report.importance import (
    Effect,
    Observation,
    SiteEffects,
    effects_of,
    heat_map,
    observations,
    option_marginals,
    rows_of,
    searched_sites,
    site_effects,
)
from nas_attn.report.mixed_model import EXCEPTIONAL, MISFITS, RATIOS, SHARES, Design, Posterior, fit, given
from nas_attn.report.page import render

SITES = ("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3")
NOISE = 0.6


def draw(effects: dict[tuple[str, str], float], n: int, seed: int, noise: float = NOISE) -> list[Observation]:
    """Return none, each attention everywhere, and random placements, with the sum of their effects and noise."""
    random = np.random.default_rng(seed)
    placements = [Placement(), *(everywhere(name, SITES) for name in FAMILIES)]
    while len(placements) < n:
        names = {site: str(random.choice(FAMILIES)) for site in SITES if random.random() < 0.5}
        placements.append(Placement({site: Attention(name) for site, name in names.items()}))
    sums = [sum(effects.get((s, a.name), 0.0) for s, a in p.attentions.items()) for p in placements]
    return [Observation(p, 95.0 + total + random.normal(0.0, noise)) for p, total in zip(placements, sums, strict=True)]


def design(seed: int = 0) -> Design:
    """Return 12 trainings of 9 points in two blocks, with 6 effects of 3 rows and 2 columns."""
    random = np.random.default_rng(seed)
    return Design(
        values=random.normal(size=12),
        points=np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 4]),
        active=random.integers(0, 2, (9, 6)).astype(float),
        blocks=np.array([0, 0, 0, 0, 0, 1, 1, 1, 1]),
        rows=np.array([0, 0, 1, 1, 2, 2]),
        columns=np.array([0, 1, 0, 1, 0, 1]),
    )


def by_definition(found: Design, exceptions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log evidence, means and standard deviations of each component from the covariance of all observations."""
    x, points = found.active[found.points], np.eye(len(found.blocks))[found.points]
    blocks = np.eye(2)[found.blocks[found.points]]
    degrees = len(found.values) - 2
    same = [found.rows[:, None] == found.rows, found.columns[:, None] == found.columns, np.eye(6)]
    logs, means, sds = [], [], []
    for row, column in SHARES:
        shared = row * same[0] + column * same[1] + (1.0 - row - column) * same[2]
        for misfit in MISFITS:
            for ratio in RATIOS:
                prior = ratio**2 * shared + EXCEPTIONAL**2 * exceptions.T @ exceptions
                cov = np.eye(len(x)) + misfit * points @ points.T + x @ prior @ x.T
                inverse = np.linalg.inv(cov)
                inner = blocks.T @ inverse @ blocks
                project = inverse - inverse @ blocks @ np.linalg.inv(inner) @ blocks.T @ inverse
                noise = found.values @ project @ found.values / degrees
                gain = prior @ x.T @ project
                logs.append(
                    -0.5 * (np.linalg.slogdet(cov)[1] + np.linalg.slogdet(inner)[1] + degrees * np.log(noise))
                    + np.log(ratio**2 / (1.0 + ratio**2) ** 1.5)
                )
                means.append(gain @ found.values)
                sds.append(np.sqrt(np.diag(prior - gain @ x @ prior) * noise))
    return np.array(logs), np.array(means), np.array(sds)


@pytest.mark.parametrize("exceptions", [[], [[0, 0, 1, 1, 0, 0]], [[0, 0, 0, 0, 0, 1], [1, 0, 1, 0, 1, 0]]])
def test_posterior_is_that_of_the_full_covariance(exceptions):
    exceptions = np.array(exceptions, dtype=float).reshape(-1, 6)
    parts = given(design(), exceptions)
    logs, means, sds = by_definition(design(), exceptions)
    found = np.concatenate([part.logs for part in parts])
    np.testing.assert_allclose(found - found[0], logs - logs[0], atol=1e-8)
    np.testing.assert_allclose(np.concatenate([part.means for part in parts]), means, atol=1e-8)
    np.testing.assert_allclose(np.concatenate([part.sds for part in parts]), sds, atol=1e-8)


def test_evidence_for_an_exception_is_the_ratio_of_the_evidences():
    none = np.zeros((0, 6))
    for exception in (np.array([[0.0, 0, 1, 1, 0, 0]]), np.array([[0.0, 0, 0, 0, 0, 1]])):
        before, after = given(design(), none)[3], given(design(), exception)[3]
        best = int(np.argmax(before.logs))
        assert before.scores(exception)[0] == pytest.approx(after.logs[best] - before.logs[best], abs=1e-8)


def test_one_large_effect_among_small_ones_is_not_drawn_towards_them():
    tables = [site_effects(draw({("transition1", "gam"): 1.0}, 200, seed), SITES) for seed in range(12)]
    firsts = [table.leaders[0] for table in tables]
    assert {(first.sites, first.attention, first.is_clear) for first in firsts} == {(("transition1",), "gam", True)}
    assert np.mean([first.mean for first in firsts]) == pytest.approx(1.0, abs=0.12)
    assert sum(first.low < 1.0 < first.high for first in firsts) >= 10
    assert max(abs(effect.mean) for table in tables for effect in table.leaders[1:]) < 0.4


def one_component(means: Sequence[float], gain: float = 3.0) -> Posterior:
    ones = np.ones((1, len(means)))
    return Posterior(np.ones(1), np.array([means]), ones, gain * ones, 20, 1.0, gain)


def test_quantiles_of_one_component_are_those_of_students_t():
    found = one_component([0.3, -2.0])
    for probability in (0.025, 0.5, 0.9):
        expected = np.array([0.3, -2.0]) + stats.t.ppf(probability, 20)
        np.testing.assert_allclose(found.quantile(probability), expected, atol=1e-4)


def test_quantiles_of_a_mixture_have_their_probability():
    found = fit(design())
    assert len(found.weights) > 20
    for probability in (0.025, 0.975):
        np.testing.assert_allclose(found.below(found.quantile(probability)), probability, atol=1e-5)


def test_an_effect_needs_more_evidence_in_a_larger_table():
    assert one_component([4.0, 0.0]).clear().tolist() == [True, False]
    assert not one_component([4.0, *[0.0] * 400]).clear().any()
    assert one_component([9.0, *[0.0] * 400]).clear().tolist() == [True, *[False] * 400]


def test_doubts_of_clear_effects_add_up_to_five_per_cent_at_most():
    found = one_component(np.linspace(0.0, 6.0, 60).tolist())
    assert found.clear().sum() > 5
    assert found.doubts()[found.clear()].sum() <= 0.05
    assert found.doubts()[0] > 0.5


@pytest.mark.parametrize("planted", [FAMILIES, FAMILIES[:1]], ids=["all attentions", "one attention"])
def test_a_planted_point_is_on_top_in_19_of_20_searches(planted):
    effects = {(SITES[2], name): 1.0 for name in planted}
    tops = [site_effects(draw(effects, 100, seed), SITES).leaders[0].sites for seed in range(24)]
    assert tops.count((SITES[2],)) >= 23


def test_intervals_cover_the_truth_over_the_prior():
    odds = RATIOS**2 / (1.0 + RATIOS**2) ** 1.5
    inside = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        sd = NOISE * random.choice(RATIOS, p=odds / odds.sum())
        row, column = SHARES[random.integers(len(SHARES))]
        own = {name: random.normal() for name in (*SITES, *FAMILIES)}
        parts = np.sqrt([row, column, 1.0 - row - column])
        effects = {(s, f): sd * float(parts @ [own[s], own[f], random.normal()]) for s in SITES for f in FAMILIES}
        for effect in site_effects(draw(effects, 30, seed), SITES).effects:
            inside.append(effect.low <= effects[effect.sites[0], effect.attention] <= effect.high)
    assert 0.93 <= np.mean(inside) <= 0.97


def test_where_nothing_matters_nothing_is_clear():
    tables = [site_effects(draw({}, 60, seed), SITES) for seed in range(25)]
    assert sum(table.n_clear > 0 for table in tables) <= 1
    assert max(abs(effect.mean) for table in tables for effect in table.effects) < NOISE
    assert not any(table.enough and not table.n_clear for table in tables)


def test_few_trials_say_how_many_would_do():
    random = np.random.default_rng(0)
    effects = {(site, name): random.normal(0.0, 0.4) for site in SITES for name in FAMILIES}
    few, many = site_effects(draw(effects, 24, 1), SITES), site_effects(draw(effects, 400, 1), SITES)
    assert not few.enough
    assert few.n_clear == 0
    assert 40 <= few.needed <= 400
    assert site_effects(draw(effects, 8, 1), SITES).needed >= 20
    assert many.enough
    assert many.needed is None
    assert many.noise_sd == pytest.approx(NOISE, rel=0.1)
    assert many.effect_sd == pytest.approx(0.4, rel=0.4)


def test_a_search_that_repeats_what_did_well_does_not_bias_the_effects():
    errors = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        rows = draw({}, 12, seed)
        while len(rows) < 60:  # the best so far, changed at one site
            best = dict(max(rows, key=lambda row: row.value).placement.attentions)
            best[str(random.choice(SITES))] = Attention(str(random.choice([*FAMILIES, "none"])))
            rows.append(Observation(Placement(best), 95.0 + random.normal(0.0, NOISE)))
        errors += [effect.mean for effect in site_effects(rows, SITES).effects]
    assert abs(np.mean(errors)) < 0.05


def test_planted_effect_of_a_run_is_found_and_nothing_else_is_as_strong():
    run = make_run(effects={("denseblock2", "se"): 0.012}, n_trials=120, noise=0.001, messy=False)
    found = effects_of(run)
    first, *others = sorted(found.effects, key=lambda effect: -abs(effect.mean))
    assert (first.sites, first.attention, first.is_clear) == (("denseblock2",), "se", True)
    assert first.low < 0.012 < first.high
    assert all(abs(effect.mean) < first.mean / 4 for effect in others)
    used = [
        trial for trial in run.search if trial.placement.attentions.get("denseblock2", Attention("none")).name == "se"
    ]
    assert first.n_placements == len(used)
    assert found.leaders[0] == first
    assert {effect.sites for effect in found.leaders} == {(site,) for site in SITES}


def test_only_complete_trainings_enter_each_once():
    run = make_run(n_trials=40)
    kept = [t for t in run.search if t.state == "complete" and t.answered_from is None]
    pruned = [replace(t, value=0.2) if t.state == "pruned" else t for t in run.search]
    assert any(t.state == "pruned" for t in pruned)
    assert [row.value for row in observations(pruned)] == [t.value for t in kept]
    assert effects_of(replace(run, search=tuple(pruned))) == effects_of(run)
    assert effects_of(run).n_trials == len(kept)


def test_a_placement_trained_twice_is_two_trials():
    run = make_run(messy=False)
    again = replace(run.search[1], number=99, seed=1, value=0.95)
    found = effects_of(replace(run, search=(*run.search, again)))
    assert (found.n_trials, found.n_placements) == (len(run.search) + 1, len(run.search))
    assert dict(rows_of((*run.search, again)))[again.placement] == pytest.approx((run.search[1].value + 0.95) / 2)


def test_runs_at_other_levels_are_pooled_by_their_differences():
    runs = [make_run(effects={("denseblock2", "se"): 0.012}, noise=0.001, n_trials=60, seed=seed) for seed in (1, 2)]
    hard = [replace(t, value=t.value - 0.3) if t.value else t for t in runs[1].search]
    harder = effects_of(runs[0], replace(runs[1], search=tuple(hard)))
    for effect, plain in zip(harder.effects, effects_of(*runs).effects, strict=True):
        assert effect.mean == pytest.approx(plain.mean, abs=1e-9)
    assert harder.n_trials > effects_of(runs[0]).n_trials


def test_sites_with_equal_attentions_are_one_row():
    rows = [row for row in draw({}, 20, 0) if len(row.placement)]
    doubled = [
        Observation(
            Placement({**row.placement.attentions, "twin": row.placement.attentions.get(SITES[0], Attention("none"))}),
            row.value,
        )
        for row in rows
    ]
    found = site_effects(doubled, (*SITES, "twin", "unused"))
    assert {effect.sites for effect in found.effects} == {(SITES[0], "twin"), *((site,) for site in SITES[1:])}


@pytest.mark.parametrize(
    ("rows", "n_trials"),
    [
        ([], 0),
        ([Observation(Placement(), 0.9)], 1),
        ([Observation(Placement(), 0.9 + 0.01 * n) for n in range(9)], 9),
        ([Observation(everywhere("se", SITES), 0.8), Observation(Placement(), 0.9)], 2),
        ([Observation(row.placement, 0.3333) for row in draw({}, 20, 0)], 20),
    ],
    ids=["nothing", "one", "none only", "two", "equal values"],
)
def test_trials_that_allow_no_estimate_have_no_effects(rows, n_trials):
    found = site_effects(rows, SITES)
    assert found == SiteEffects((), n_trials, len({row.placement for row in rows}))
    assert heat_map(found) is None


def test_sites_are_ranked_by_all_their_effects():
    def effect(site: str, name: str, mean: float) -> Effect:
        return Effect((site,), name, mean, mean - 1.0, mean + 1.0, False, 3)

    found = SiteEffects((effect("a", "se", -0.5), effect("b", "eca", 0.4), effect("b", "se", 0.45)), 9, 9)
    assert [(one.sites, one.mean) for one in found.leaders] == [(("b",), 0.45), (("a",), -0.5)]


def test_heat_map_has_a_cell_for_every_effect_and_the_largest_is_the_strongest():
    found = effects_of(make_run(n_trials=60))
    heat = heat_map(found)
    cells = {cell.effect: cell for row in heat.rows for cell in row.cells if cell.effect is not None}
    assert set(cells) == set(found.effects)
    assert heat.attentions == tuple(sorted(FAMILIES))
    assert max(cell.strength for cell in cells.values()) == cells[found.leaders[0]].strength == 1.0
    assert all((cell.sign == "up") == (effect.mean > 0.0) for effect, cell in cells.items())


def test_page_frames_what_is_clear_and_says_how_many_effects_are():
    page = render(make_run(n_trials=90))
    assert (
        "<strong>2 of 20 effects are clear: all their signs are right with 95 % probability.</strong> They are" in page
    )
    assert re.search(r"framed\. The site that matters most is denseblock2 \(se: \+\d\.\d\d points\)\. Each cell", page)
    assert re.findall(r'<td class="up clear".*title="(.*?):', page) == ["se at denseblock2", "cbam at transition2"]
    assert re.search(r"deviations: \d\.\d\d points for a trial's noise, \d\.\d\d points for the effects\.", page)


def test_page_frames_nothing_where_trials_are_too_few():
    page = render(make_run(effects={}))
    assert re.search(
        r"<strong>Too few trials to tell sites apart \(20\): about \d+0 would, if effects are as large", page
    )
    assert 'clear" style' not in page
    assert "for a trial's noise" not in page


def test_searched_options_are_listed_and_fixed_ones_are_not():
    found = option_marginals(rows_of(make_run(n_trials=60).search))
    assert {(row.attention, row.option) for row in found} >= {("cbam", "kernel_size"), ("se", "reduction")}
    assert ("triple", "parts") not in {(row.attention, row.option) for row in found}  # one value only
    reductions = [row.value for row in found if (row.attention, row.option) == ("se", "reduction")]
    assert reductions == ["4", "8", "16"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["denseblock*"], {"denseblock1", "denseblock2", "denseblock3"}),
        (["denseblock2.*"], {f"denseblock2.layer{n}" for n in range(1, 5)}),
        (["**"], {site.name for site in densenet_table().sites}),
        ("transition1", {"transition1"}),
    ],
)
def test_searched_sites_follow_the_patterns_of_the_space(patterns: object, expected: set[str]):
    run = make_run()
    config = {"space": {"sites": [{"match": patterns}]}}
    assert set(searched_sites(RunRecord(run.folder, config, run.table, (), (), ()))) == expected


def test_searched_sites_are_those_that_the_run_lists_whatever_its_patterns_say():
    run = make_run()
    config = {"space": {"sites": [{"match": ["every block"]}]}, "searched_sites": [SITES[2], SITES[0]]}
    assert searched_sites(RunRecord(run.folder, config, run.table, (), (), ())) == (SITES[0], SITES[2])


def test_searched_sites_are_those_of_the_trials_if_the_space_is_unknown():
    assert searched_sites(make_run()) == SITES
