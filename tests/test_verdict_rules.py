"""When a verdict is preliminary, and what it says then."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic_run import failed, make_run

from nas_attn.records import RunRecord
from nas_attn.report.verdict import judge, verdict


def until(stage: str) -> RunRecord:
    """Return a run that ended before a stage began, without a recommendation."""
    run = replace(make_run(), best=None, retrain=())
    return run if stage == "retrain" else replace(run, confirm=())


@pytest.mark.parametrize("stage", ["confirm", "retrain"])
def test_a_verdict_without_a_test_value_is_preliminary(stage):
    judged = judge(until(stage))
    assert judged.preliminary
    assert judged.word == "not known"
    assert (judged.found, judged.none, judged.everywhere) == (None, None, None)
    assert str(judged).startswith("Preliminary after 24 of 24 trials, no test value yet: so far ")


def test_a_verdict_on_some_of_the_retrainings_is_preliminary():
    run = make_run()
    judged = judge(replace(run, best=None))
    assert judged.preliminary
    assert str(judged).startswith("Preliminary, since retraining is not finished: ")
    assert judged.found is not None


def test_a_verdict_on_a_finished_run_is_final():
    judged = judge(make_run())
    assert not judged.preliminary
    assert judged.word != "not known"
    assert "reliminary" not in str(judged)


def test_a_run_without_any_trial_has_nothing_to_say_yet():
    empty = replace(make_run(), search=(), confirm=(), retrain=(), best=None)
    assert judge(empty).preliminary
    assert verdict(empty) == "Nothing has been measured yet: no trial has finished."


def test_retrainings_that_all_failed_are_counted():
    run = make_run()
    lost = tuple(failed(trial) if "found #1" in (trial.label or "") else trial for trial in run.retrain)
    n_lost = sum(trial.state == "fail" for trial in lost)
    assert n_lost == 5
    assert verdict(replace(run, retrain=lost)).startswith(
        "No test value, since all 5 retrainings of 'found #1' failed: "
    )
