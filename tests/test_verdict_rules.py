"""When a verdict is preliminary, what the cautions above the page say, and when they stop the verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic_run import failed, make_run, with_predictions

from nas_attn.comparison.predictions import Predictions
from nas_attn.placement import Attention, Placement
from nas_attn.records import RunRecord
from nas_attn.report.guards import guards
from nas_attn.report.tables import answer_of, arms_of
from nas_attn.report.verdict import verdict, verdict_of
from nas_attn.report.words import NUMBERS, short_place


def until(stage: str) -> RunRecord:
    """Return a run that ended before a stage began."""
    run = replace(make_run(), best=None, retrain=())
    return run if stage == "retrain" else replace(run, confirm=())


@pytest.mark.parametrize("stage", ["confirm", "retrain"])
def test_a_verdict_without_a_test_value_is_unfinished(stage):
    judged = verdict_of(until(stage))
    assert (judged.title, judged.state, judged.numbers) == ("Not finished", "unfinished", "")
    assert (judged.found, judged.none, judged.everywhere) == (None, None, None)


def test_a_verdict_on_some_of_the_retrainings_says_no_word():
    run = replace(make_run(), best=None)
    judged, answer = verdict_of(run), answer_of(run)
    assert (judged.title, judged.state) == ("Not finished", "unfinished")
    assert judged.numbers.startswith("+1.13 points")
    assert {pair.word for pair in (answer.headline, *answer.others)} == {"not known"}
    assert answer.recommended == "none"


def test_a_verdict_names_the_arms_that_it_compared():
    judged = verdict_of(make_run())
    assert judged.state == "arm"
    assert [arm.label for arm in (judged.found, judged.none, judged.everywhere) if arm] == [
        *("found #1", "none", "se everywhere"),
    ]


def before_a_number(title: str) -> list[str]:
    """Return the words of a title before its first number, in digits or written."""
    words = title.split()
    numbers = (index for index, word in enumerate(words) if word[0].isdigit() or word in NUMBERS.values())
    return words[: next(numbers, len(words))]


SITES = [f"stage{stage}.block{block}.output" for stage in range(1, 5) for block in range(1, 4)]


@pytest.mark.parametrize(("families", "sites", "words"), [
    (["se"], SITES, "se at 12 of 16 sites"),
    (["gct"], SITES[:2], "gct at stage1.block1.output and stage1.block2.output"),
    (["se", "cbam"], SITES[:2], "se and cbam at 2 of 16 sites"),
    (["se", "cbam", "gam"], SITES, "se, cbam and gam at 12 of 16 sites"),
    (["se", "cbam", "gam", "eca"], SITES, "attention at 12 of 16 sites"),
])  # fmt: skip
def test_any_placement_is_a_short_title(families, sites, words):
    placed = {site: Attention(families[index % len(families)]) for index, site in enumerate(sites)}
    searched = [*SITES, "a", "b", "c", "d"]
    title = short_place(Placement(placed), ("found #1",), None, searched)
    assert title == words
    assert len(before_a_number(f"Put {title}")) <= 6
    assert "of" not in short_place(Placement(placed), ("found #1",), None, ()).split(), "their number is not known"


@pytest.mark.parametrize("effects", [None, {}], ids=["attention helps", "nothing matters"])
def test_the_first_number_comes_after_few_words(effects):
    judged = verdict_of(make_run(effects=effects))
    assert len(before_a_number(judged.title)) <= 6
    assert judged.numbers[0] in "+-", "the line below the title begins with its number"


def test_retrainings_that_all_failed_are_counted():
    run = make_run()
    lost = tuple(failed(trial) if "found #1" in (trial.label or "") else trial for trial in run.retrain)
    n_lost = sum(trial.state == "fail" for trial in lost)
    assert n_lost == 5
    assert "There is no test value, since all 5 retrainings of 'found #1' failed: " in verdict(
        replace(run, retrain=lost)
    )


def warned(run: RunRecord) -> str:
    """Return the cautions of a run as one text."""
    return " ".join(guards(run, arms_of(run)))


def test_a_sound_run_has_no_caution():
    assert guards(with_predictions(make_run()), arms_of(make_run())) == ()


def test_networks_at_chance_stop_the_verdict():
    run = make_run()
    run = replace(run, retrain=tuple(replace(row, value=1 / 10) for row in run.retrain))
    assert verdict_of(run).title == "Nothing was learned"
    assert "always answering the most frequent class (10.00 %)" in warned(run)
    assert "All seeds of found #1, none, " in warned(run), "and they are identical"


def test_chance_is_the_share_of_the_most_frequent_class_of_the_test_images():
    run = make_run()
    targets = np.array([0] * 80 + [1] * 20)
    said = Predictions.of(np.tile([[0.9, 0.1]], (100, 1)), targets)
    rows = tuple(replace(row, value=0.8) for row in run.retrain)
    run = replace(run, retrain=rows, predictions={(row.key, row.seed, row.epochs): said for row in rows})
    assert "(80.00 %)" in warned(run)
    better = replace(run, retrain=tuple(replace(row, value=0.95) for row in rows))
    assert "most frequent" not in warned(better)


def test_few_test_images_and_a_class_without_any_are_named():
    run = with_predictions(make_run(), n_images=8)
    assert "There are only 8 test images: one image is 12.5 points of accuracy. Small" in warned(run)
    assert "Classes '8' and '9' have no test image: nothing is known about them." in warned(run)


def test_an_arm_far_below_the_others_is_marked():
    run = make_run()
    rows = tuple(replace(row, value=0.3) if row.label == "gam everywhere" else row for row in run.retrain)
    assert "gam everywhere has hardly learned: all arms are trained by one recipe" in warned(replace(run, retrain=rows))


def test_diverged_retrainings_are_counted_by_arm():
    run = make_run()
    rows = (failed(run.retrain[0], "nan"), *run.retrain[1:])
    assert "1 retraining of found #1 diverged" in warned(replace(run, retrain=rows))


@pytest.mark.parametrize(("gain", "is_told"), [(0.02, True), (0.001, False)])
def test_values_that_still_rise_are_told(gain, is_told):
    run = make_run()
    rows = tuple(replace(row, curve={**row.curve, 27: row.curve.get(30, 0.9) - gain}) for row in run.search)
    assert ("still rise at the end (+2.00 points" in warned(replace(run, search=rows))) == is_told
