"""How much a run trains at most."""

from __future__ import annotations

from nas_attn.placement import NONE
from nas_attn.run.request import Request
from nas_attn.run.screening import screen_plan
from nas_attn.study.confirm import CONFIRM_SEEDS, Round, n_confirm_runs, rounds_of
from nas_attn.study.samplers.named import rungs_of
from nas_attn.study.stages import first_seeds
from nas_attn.training.validated_epochs import FORWARD_SHARE, validated_epochs


def growth_of(request: Request) -> float:
    """Return the estimated time of a retraining divided by that of a search trial.

    A search trial also evaluates its validation images, and a retraining its test images, once.
    """
    recipe, facts = request.settings.recipe, request.facts
    long = recipe.retrain_epochs or recipe.epochs
    if facts is None:
        return long / recipe.epochs
    engine = request.settings.engine
    rungs = rungs_of(engine.scheduler, recipe.epochs, engine.scheduler_option)
    n_validations = len(validated_epochs(recipe.epochs, n_train=facts.n_train, n_val=facts.n_val, rungs=rungs))
    retraining = long * (facts.n_train + facts.n_val) + FORWARD_SHARE * facts.n_test
    return retraining / (recipe.epochs * facts.n_train + n_validations * FORWARD_SHARE * facts.n_val)


def n_searched(request: Request) -> int:
    """Return the maximum number of trials of the search."""
    trials, plan = request.settings.budget.trials, screen_plan(request)
    return min(trials, request.bound.n_placements) if plan is None else trials - plan.price


def confirm_rounds(request: Request) -> tuple[Round, ...]:
    """Return the rounds of the confirm stage after all trials."""
    return rounds_of(request.settings.budget, n_searched(request), several=len(request.objectives) > 1)


def runs_and_epochs(request: Request) -> dict[str, tuple[int, int]]:
    """Return the maximum (number of runs, epochs per run) of every stage; identical arms are trained once."""
    settings, recipe = request.settings, request.settings.recipe
    budget, long = settings.budget, recipe.retrain_epochs or recipe.epochs
    if request.given is not None:
        n_arms = len({placement.key for placement in (NONE, request.given.placement, *request.arms.values())})
        return {"retrain": (n_arms * first_seeds(budget), long)}
    further = budget.n_top - 1 if len(request.objectives) > 1 else 0
    has_control = budget.control_search is not None
    n_arms = 2 + further + len(request.bound.attentions) + len(request.arms) + (budget.n_controls > 0) + has_control
    trials = (min(budget.trials, request.bound.n_placements), recipe.epochs)
    plan = screen_plan(request)
    return {
        **({} if plan is None else {"screen": (1, plan.epochs)}),
        "search": (n_searched(request), recipe.epochs),
        **({"control": trials} if has_control else {}),
        "confirm": (CONFIRM_SEEDS + sum(n_confirm_runs(confirm_rounds(request))) * (1 + has_control), recipe.epochs),
        "retrain": (n_arms * first_seeds(budget), long),
    }
