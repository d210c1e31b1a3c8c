"""Whether a request's search can have a screen, and how large it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas_attn.errors import ConfigError
from nas_attn.space.side_by_side import why_not_side_by_side
from nas_attn.study.samplers.catalog import SAMPLERS

if TYPE_CHECKING:
    from nas_attn.run.request import Request
    from nas_attn.study.screen import ScreenPlan


def check_screen(request: Request) -> None:
    """Check that the network with shared weights can be built and trained, and leaves enough trainings for the search.

    Raises: ConfigError in one sentence.
    """
    screen = request.settings.engine.screen
    if screen is None or request.given is not None:
        return
    reason = _misfit(request) or _no_use(request, screen)
    if reason is not None:
        raise ConfigError(f"{reason} leave --screen out.")


def _misfit(request: Request) -> str | None:
    """Return why there is no such network for a request, as the beginning of a sentence, or None."""
    settings, bound = request.settings, request.bound
    if settings.train is not None:
        return "--screen trains one network for all placements by the built-in training, but --train has its own:"
    if len(request.objectives) > 1:
        names = ",".join(goal.name for goal in request.objectives)
        return f"--screen ranks by one objective, but the search has {names}:"
    if settings.engine.timeout_seconds is not None:
        return "--screen is one training of several lengths, but --trial-timeout limits each training to that of one:"
    placed = (place for decision in bound.decisions for part in decision.distinct for place in part)
    reason = why_not_side_by_side(bound.table, placed)
    return None if reason is None else f"--screen needs choices that can stand side by side at a site, but {reason}:"


def _no_use(request: Request, screen: int) -> str | None:
    """Return why a screen would be of no use to a search, as the beginning of a sentence, or None."""
    sampler, trials = request.settings.engine.sampler, request.settings.budget.trials
    n_placements = request.bound.n_placements
    if sampler in SAMPLERS and SAMPLERS[sampler].enumerates:
        return f"--screen chooses what is tried, but the sampler '{sampler}' tries every placement:"
    if n_placements <= trials:
        return f"--screen chooses what is tried, but --trials {trials} tries all of the {n_placements:,} placements:"
    if 2 * screen > trials:
        return (
            f"--screen must cost at most half of --trials, but got --screen {screen} of {trials}: "
            f"raise --trials to {2 * screen}, or"
        )
    return None


def screen_plan(request: Request) -> ScreenPlan | None:
    """Return the extent of a request's screen, or None without one."""
    screen, facts = request.settings.engine.screen, request.facts
    if screen is None or request.given is not None:
        return None
    from nas_attn.study.screen import ScreenPlan  # loads Optuna

    assert facts is not None, "a screen without data is refused"
    return ScreenPlan.of(screen, epochs=request.settings.recipe.epochs, n_train=facts.n_train, n_val=facts.n_val)
