"""Whether the seeds of an arm can be retrained as one, as far as the settings say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas_attn.errors import ConfigError

if TYPE_CHECKING:
    from nas_attn.run.request import Settings


def refuse_seeds_at_once(settings: Settings) -> None:
    """Refuse `--seeds-at-once` with trainings that are never one. Raises: ConfigError in one sentence."""
    recipe, number = settings.recipe, settings.resources.seeds_at_once
    reasons = {
        "--train has its own training": settings.train is not None,
        f"--compile {recipe.compile} compiles each network": recipe.compile != "no",
        f"--freeze-epochs {recipe.freeze_epochs} changes which weights are trained": recipe.freeze_epochs > 0,
        "--trial-timeout limits each training": settings.engine.timeout_seconds is not None,
        "--time-budget plans seed by seed": settings.budget.time_seconds is not None,
    }
    reason = next((words for words, holds in reasons.items() if holds), None)
    if number > 1 and reason is not None:
        raise ConfigError(
            f"--seeds-at-once {number} needs the usual built-in training, but {reason}: leave --seeds-at-once out."
        )
