"""The early end of a search: asked for by the user, or by the time budget, which may also take seeds from the arms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nas_attn.config import Budget
from nas_attn.errors import RunStopped
from nas_attn.study.pace import FINISH, TIME_BUDGET, Work

if TYPE_CHECKING:
    from nas_attn.records import Stage, Task, TrialRecord
    from nas_attn.study.planned import PlannedRun
    from nas_attn.study.stages import Stages

ENDED = "ended"
"""Name of the note in the ledger."""


class BudgetTooShort(RunStopped):
    """The time budget is shorter than what a run needs at least; what was trained is kept."""

    exit_code = 2


@dataclass(frozen=True)
class EarlyEnd:
    """How a search was ended, so that the same command goes on to the result and does not search again.

    Args:
        by: `finish` or `time budget`.
        trials: The budget of placements that was asked for; a larger one searches on.
        seconds: The time budget; a longer one, or none, searches on.
        asked_seeds: The number of seeds per arm that was asked for.
        seeds: The number that the time allowed; None for all.
    """

    by: str
    trials: int
    seconds: float | None = None
    asked_seeds: int | str = ""
    seeds: int | None = None

    @classmethod
    def read(cls, note: Mapping[str, Any], budget: Budget) -> EarlyEnd | None:
        """Return what an earlier session noted, or None if it does not hold for this budget."""
        if not note:
            return None
        found = cls(**note)
        seconds = budget.time_seconds
        is_longer = seconds is None or (found.seconds is not None and seconds > found.seconds)
        if budget.trials > found.trials or (found.by == TIME_BUDGET and is_longer):
            return None
        return found

    def limited(self, budget: Budget) -> Budget:
        """Return the budget with the number of seeds that the time allowed, unless another number is asked for now."""
        if self.seeds is None or self.asked_seeds != budget.seeds:
            return budget
        return budget.model_copy(update={"seeds": self.seeds})

    def to_note(self) -> dict[str, Any]:
        """Return the note of the ledger."""
        return asdict(self)


def look_at_time(stages: Stages) -> None:
    """End the search if the user asked for it, or if the time budget does not allow another trial."""
    pace = stages.pace
    if not any(search.n_open for search in stages.searches):
        return
    if pace.is_finish_asked():
        end_search(stages, FINISH)
    elif pace.seconds is not None and not pace.is_cold and not _has_room(stages):
        if pace.trial is None and not stages.live:
            stages.error = too_short(stages)
        elif pace.trial is not None:
            end_search(stages, TIME_BUDGET)


def _has_room(stages: Stages) -> bool:
    """Return whether the time budget allows another trial beside what follows the search.

    One seed per arm must have room in any case. Further ones can be taken later, so that few trials, which may have
    been long ones, do not end the search for their sake.
    """
    pace = stages.pace
    has_all = pace.is_vague or pace.fits(work_of(stages, n_search=1))
    return has_all and pace.fits_surely(work_of(stages, n_search=1, n_seeds=1))


def look_at_rest(stages: Stages) -> None:
    """Refuse a time budget that the first training has shown to be too short; take seeds where time runs out."""
    pace = stages.pace
    if pace.seconds is None or stages.error is not None:
        return
    if not pace.is_warm:  # the first trainings start workers: they may look far too long
        if (pace.left or 0.0) <= 0:
            stages.error = too_short(stages)
    elif not pace.is_checked:
        pace.is_checked = True
        rest = pace.rest(work_of(stages, n_search=0, n_seeds=1))
        if (rest or 0.0) > (pace.left or 0.0):  # nothing is kept free: what may fit is tried
            stages.error = too_short(stages)
    elif pace.n_retrained >= len(stages.arms()):  # a round over the arms, so that one slow training takes no seeds
        most = stages.n_seeds_planned
        if pace.fits(work_of(stages, n_search=0, n_seeds=most)):
            return
        works = {number: work_of(stages, n_search=0, n_seeds=number) for number in range(1, most + 1)}
        fitting = max((number for number, work in works.items() if pace.fits(work)), default=1)
        rest = pace.rest(works[fitting])
        n_seeds = max(number for number, work in works.items() if pace.rest(work) == rest)  # further ones are free
        if n_seeds < most:
            _take_seeds(stages, n_seeds)


def end_search(stages: Stages, by: str) -> None:
    """Begin no further trial of the search, and note how it was ended: `finish` or `time budget`."""
    budget = stages.budget
    n_done = stages.search.n_done + stages.search.n_fresh
    for search in stages.searches:
        search.close()
    end = EarlyEnd(by, budget.trials, budget.time_seconds, stages.asked_seeds)
    stages.final.set_note(ENDED, end.to_note())
    what = "`nas-attn finish`" if by == FINISH else f"The time budget of {budget.time_budget}"
    stages.note(f"{what} ended the search after {n_done} of {budget.trials} placements.")


def _take_seeds(stages: Stages, number: int) -> None:
    """Retrain every arm with so many seeds at most; retrainings that have begun stay."""
    before = stages.n_seeds_planned
    budget = stages.budget = stages.budget.model_copy(update={"seeds": number})
    kept = set(stages.seeds)
    stages.final.keep(lambda plan: plan.stage != "retrain" or plan.seed in kept)
    ended = EarlyEnd.read(stages.final.note(ENDED), budget)
    by = ended.by if ended else TIME_BUDGET
    end = EarlyEnd(by, budget.trials, budget.time_seconds, stages.asked_seeds, number)
    stages.final.set_note(ENDED, end.to_note())
    stages.note(f"The time budget of {budget.time_budget} left {number} of {before} seeds per arm.")


def work_of(stages: Stages, *, n_search: int | None = None, n_seeds: int | None = None) -> Work:
    """Return what is left of a run.

    Args:
        n_search: Number of search trials to begin; None takes all that the budget allows.
        n_seeds: Number of seeds per arm; None takes all that are planned.
    """
    now = stages.pace.clock()
    n_seeds = stages.n_seeds_planned if n_seeds is None else n_seeds
    kept = set(stages.first_seeds(n_seeds))
    waiting: list[PlannedRun] = stages.final.waiting()
    planned: list[tuple[Stage, str]] = [
        (plan.stage, plan.placement.key) for plan in waiting if plan.stage != "retrain" or plan.seed in kept
    ]
    rounds = stages.unplanned_confirm(n_search)
    planned = [("confirm", "") for _ in range(sum(rounds))] + planned
    n_new, best = _n_new_arms(stages, waiting), stages.search.best
    last: list[tuple[Stage, str]] = [("retrain", best.key if best else "")] * round(n_seeds * n_new)
    n_confirm = sum(plan.stage == "confirm" for plan in waiting)
    return Work(
        n_search=sum(search.n_open for search in stages.searches) if n_search is None else n_search,
        planned=(*planned, *last),
        live=tuple(
            (task.stage, task.placement.key, now - start, 1 + len(task.further_seeds))
            for task, start in stages.live.values()
        ),
        rounds=(*([n_confirm] if n_confirm else []), *rounds),
        n_last=len(last),
        n_arms=len(stages.arms()) + round(n_new),
    )


def _n_new_arms(stages: Stages, waiting: Iterable[PlannedRun]) -> float:
    """Return the expected number of arms that are known only after the confirm stage."""
    number = stages.n_unknown_arms
    if number == 0:
        return 0.0
    n_found = number - (stages.budget.n_controls > 0)
    n_known = n_found * _share_of_fixed(stages, waiting) if stages.is_searched else 0.0
    best = stages.search.best
    return number - n_known + (stages.lineup.n_of_winner(best.placement) if best else 0)


def _share_of_fixed(stages: Stages, waiting: Iterable[PlannedRun]) -> float:
    """Return the share of the candidates to confirm that are arms in any case, such as one attention everywhere."""
    runs: list[TrialRecord | Task | PlannedRun] = [*stages.final.records(), *waiting]
    runs += [task for task, _ in stages.live.values()]
    candidates = {run.placement.key for run in runs if run.stage == "confirm" and len(run.placement)}
    fixed = {placement.key for _, placement in stages.fixed_arms()}
    return len(candidates & fixed) / max(1, len(candidates))


def too_short(stages: Stages) -> BudgetTooShort:
    """Return the refusal of a time budget."""
    stated, trial = stages.budget.time_budget, stages.pace.trial
    rest = stages.pace.rest(work_of(stages, n_search=0, n_seeds=1))
    if trial is None or rest is None:
        known = f"{stated} passed before a first trial had ended"
    else:
        known = f"one trial takes {_words(trial)}, and confirming and retraining with one seed {_words(rest)} more"
    return BudgetTooShort(
        f"--time-budget must be long enough for a trial and for what follows the search, but got {stated}: {known}. "
        "Finished trials are stored; the same command goes on with a longer one."
    )


def _words(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
