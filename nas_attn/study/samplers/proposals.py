"""The Optuna study in memory that proposes the parameters of search trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nas_attn.config import Engine
from nas_attn.errors import RunStopped, in_plain_words
from nas_attn.placement import Value
from nas_attn.study.samplers.named import Conditions, make_sampler, make_scheduler

Result = TypeVar("Result")


class SamplerFailed(RunStopped):
    """The sampler or the scheduler raised an error, so that nothing more can be proposed."""


class Proposals:
    """A sampler and a scheduler over trials in memory; whatever these raise is one sentence.

    Args:
        engine: Names and options of both.
        seed: Seed of the sampler.
        epochs: Length of a trial's schedule.
        directions: Optuna's direction of each objective.
        distributions: The parameters of a trial.
        name: Name of the study: Hyperband assigns trials to its brackets by it.
        conditions: The parameters that have no effect in some placements.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        seed: int,
        epochs: int,
        directions: Sequence[StudyDirection],
        distributions: Mapping[str, BaseDistribution],
        name: str,
        conditions: Conditions | None = None,
    ) -> None:
        self._names = (engine.sampler, engine.scheduler)
        self._distributions = dict(distributions)
        self._study = optuna.create_study(
            study_name=name,
            directions=[*directions],
            sampler=make_sampler(engine.sampler, seed, engine.sampler_option, conditions),
            pruner=make_scheduler(engine.scheduler, epochs, engine.scheduler_option),
        )

    def ask(self, params: Mapping[str, Value] | None = None) -> optuna.Trial:
        """Return a new trial with every parameter suggested; `params` fixes them. Raises: SamplerFailed."""
        if params is not None:
            self._study.enqueue_trial(dict(params))
        return self._guarded("sampler", lambda: self._study.ask(self._distributions))

    def tell(self, trial: optuna.Trial, values: Sequence[float] | None) -> None:
        """End a trial with its values, or without: the sampler then ranks it last unless it has intermediate values.

        Raises: SamplerFailed.
        """
        if values is None:
            self._guarded("sampler", lambda: self._study.tell(trial, state=TrialState.PRUNED))
        else:
            self._guarded("sampler", lambda: self._study.tell(trial, list(values)))

    def withdraw(self, trial: optuna.Trial) -> None:
        """End a trial that is not tried, so that the sampler leaves it out. Raises: SamplerFailed."""
        self._guarded("sampler", lambda: self._study.tell(trial, state=TrialState.FAIL))

    def is_poor(self, trial: optuna.Trial) -> bool:
        """Return whether the scheduler stops a trial after what it has reported. Raises: SamplerFailed."""
        return self._guarded("scheduler", trial.should_prune)

    def remember(self, params: Mapping[str, Value], curve: Mapping[int, float], values: Sequence[float] | None) -> None:
        """Add a trial of an earlier session; its curve is reported to the scheduler again. Raises: SamplerFailed."""
        running = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=dict(params), distributions=self._distributions
        )
        self._study.add_trial(running)
        trial = optuna.Trial(self._study, self._study.get_trials(deepcopy=False)[-1]._trial_id)
        for epoch, value in curve.items():
            trial.report(value, epoch)
            self.is_poor(trial)
        self.tell(trial, values)

    def _guarded(self, what: str, act: Callable[[], Result]) -> Result:
        try:
            return act()
        except Exception as error:  # the sampler may be code of the user, and may raise anything
            name = self._names[what == "scheduler"]
            raise SamplerFailed(
                f"The {what} '{name}' must go on to the end of the search, but raised {type(error).__name__}: "
                f"{in_plain_words(error).removesuffix('.')}. Finished trials are stored; the same command goes on with "
                f"another --{what}."
            ) from error
