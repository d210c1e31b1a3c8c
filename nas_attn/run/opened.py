"""The ledger of a run, opened on first use, with the stages over it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from nas_attn.comparison.predictions import fits_whole
from nas_attn.config import Resources
from nas_attn.executors.catalog import EXECUTORS
from nas_attn.executors.resources import local_allocation
from nas_attn.files import write_json
from nas_attn.records import Artifact, RunRecord, TrialRecord
from nas_attn.run.crash_file import CrashFile
from nas_attn.run.driver import DriverFile, is_asked_to_finish
from nas_attn.run.extent import growth_of
from nas_attn.run.folder import RunFolder, record_of_run
from nas_attn.run.network_values import LATENCY_NOTE, NetworkValues
from nas_attn.run.place import OF_RUN, refuse_other_space, space_digest
from nas_attn.run.progress import Display
from nas_attn.run.request import Request
from nas_attn.run.running_files import TrialLogFiles
from nas_attn.run.screening import screen_plan
from nas_attn.run.traces import BEGUN

if TYPE_CHECKING:
    from nas_attn.callbacks.base import Callbacks
    from nas_attn.study.ledger import Ledger
    from nas_attn.study.objectives import Goals
    from nas_attn.study.pace import Pace
    from nas_attn.study.sampling import SearchStudy
    from nas_attn.study.screen import Screening
    from nas_attn.study.stages import Stages
    from nas_attn.study.store import Place, Store

log = logging.getLogger(__name__)


class OpenLedger:
    """Context manager: the stages of a run over its ledger, which is opened on first use.

    Args:
        place: Where the ledger lies; None is the folder itself.
        is_ended: Returns whether the user has asked to end the run; waiting for the database then ends.
        callbacks: Are called at the end of each trial.
    """

    def __init__(
        self,
        request: Request,
        folder: RunFolder,
        display: Display,
        place: Place | None = None,
        is_ended: Callable[[], bool] = lambda: False,
        callbacks: Callbacks | None = None,
    ) -> None:
        self._request, self._folder, self._display = request, folder, display
        self._place, self._is_ended, self._callbacks = place, is_ended, callbacks
        self._store: Store | None = None
        self._driver = DriverFile(folder.path)
        self._driver.update()
        self._crash_file = CrashFile(folder.path)
        self._crash: str | None = None

    def __enter__(self) -> OpenLedger:
        if EXECUTORS[self._request.settings.resources.executor].is_here:
            self._crash = self._crash_file.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._crash_file.close()
        if self._store is not None:
            self._store.close()
        self._driver.remove()

    @cached_property
    def _opened(self) -> Store:
        """The open database."""
        from nas_attn.study.store import Place, open_store

        place = self._place or Place(self._folder.path)
        self._store = open_store(place, note=self._display.say, is_ended=self._is_ended)
        return self._store

    def record(self) -> RunRecord:
        """Return the content of the run as it is now."""
        return record_of_run(self._folder, self._opened)

    @cached_property
    def stages(self) -> Stages:
        """The stages of the run, restored from the ledger."""
        from nas_attn.study.ledger import FINAL
        from nas_attn.study.planned import PlannedRuns
        from nas_attn.study.stages import Stages

        settings, bound = self._request.settings, self._request.bound
        search, control = self._searches()
        screening = self._screening(search)
        final = PlannedRuns(self._ledger(FINAL), bound, self._goals)
        begun = self._folder.begun()
        if begun is not None and BEGUN not in begun:
            self._folder.write_config(begun)  # from now on, a missing ledger is a lost one
        return Stages(
            search,
            final,
            bound,
            budget=settings.budget,
            recipe=settings.recipe,
            seed=settings.engine.seed,
            weights=self._folder.weights,
            predictions=self._folder.predictions,
            kept=_kept(self._request),
            seeds_at_once=settings.resources.seeds_at_once,
            arms=self._request.arms,
            given=self._request.given.placement if self._request.given else None,
            control=control,
            screening=screening,
            checkpoints=self._folder.checkpoints,
            logs=TrialLogFiles(self._folder.trial_logs, is_shown=settings.resources.show_output),
            pace=self._pace(),
            watch=self._watch,
            ended=self._ended,
        )

    def forget_unexported(self) -> None:
        """Have the arms whose weights could not be exported trained again, since the training is another one."""
        from nas_attn.study.ledger import FINAL
        from nas_attn.study.planned import PlannedRuns
        from nas_attn.study.remarks import Remarks

        self._claim()
        Remarks(PlannedRuns(self._ledger(FINAL), self._request.bound, self._goals)).forget_unexported()

    def _pace(self) -> Pace:
        """Return what measures the trainings; the time budget began with the command."""
        from nas_attn.study.pace import Pace, crowding

        settings, path = self._request.settings, self._folder.path
        return Pace(
            growth=growth_of(self._request),
            seconds=settings.budget.time_seconds,
            is_finish_asked=lambda: is_asked_to_finish(path),
            begun=settings.begun,
            screen=settings.engine.screen or 0,
            slowdown=crowding,
        )

    def _ledger(self, name: str) -> Ledger:
        """Return a ledger of the run, without trials that a dead driver left running."""
        from nas_attn.study.sampling import MAX_CRASHES

        ledger = self._opened.ledger(name, objectives=self._request.objectives)
        n_dead = ledger.sweep(self._crash)
        if n_dead and self._crash is not None:
            self._display.say(
                f"The last command of this run crashed in native code of a training: {self._crash}. It is tried at "
                f"most {MAX_CRASHES} times."
            )
        elif n_dead:
            log.info("%d interrupted trials of an earlier session are run again", n_dead)
        return ledger

    def _searches(self) -> tuple[SearchStudy, SearchStudy | None]:
        """Return the search, and the random search beside it, if there is one."""
        from nas_attn.study.control import control_search
        from nas_attn.study.ledger import CONTROL, SEARCH
        from nas_attn.study.sampling import SearchStudy

        settings, bound = self._request.settings, self._request.bound
        engine, budget, epochs = settings.engine, settings.budget, settings.recipe.epochs
        trials = 0 if self._request.given else budget.trials
        self._claim()
        found = self._ledger(SEARCH)
        priors = None if not self._request.priors else [*self._request.priors, *bound.priors()]
        search = SearchStudy(
            found,
            bound,
            engine,
            budget=trials - (engine.screen or 0),
            epochs=epochs,
            top=budget.n_top,
            priors=priors,
            goals=self._goals,
        )
        if budget.control_search is None or self._request.given:
            return search, None
        ledger, sampler = self._ledger(CONTROL), budget.control_search
        control = control_search(
            ledger, bound, engine, sampler, budget=trials, epochs=epochs, top=budget.n_top, goals=self._goals
        )
        return search, control

    def _screening(self, search: SearchStudy) -> Screening | None:
        """Return the network with shared weights before the search, if there is one."""
        from nas_attn.study.ledger import SCREEN
        from nas_attn.study.planned import PlannedRuns

        plan = screen_plan(self._request)
        if plan is None:
            return None
        from nas_attn.study.screen import Screening

        bound, seed = self._request.bound, self._request.settings.engine.seed
        return Screening(PlannedRuns(self._ledger(SCREEN), bound, self._goals), search, bound, plan, seed)

    @cached_property
    def _values(self) -> NetworkValues:
        """Measures latency and memory of the networks."""
        from nas_attn.study.ledger import CONTROL, FINAL, SEARCH

        search, *others = (self._opened.ledger(name, create=False) for name in (SEARCH, CONTROL, FINAL))
        rows = [row for ledger in (search, *others) for row in ledger.records()]
        return NetworkValues(
            self._request,
            rows,
            search.note(LATENCY_NOTE),
            lambda note: self._opened.ledger(SEARCH).set_note(LATENCY_NOTE, note),
        )

    @cached_property
    def _goals(self) -> Goals:
        """The objectives and the measured limit of the run."""
        from nas_attn.study.objectives import USUAL, Goals

        objectives, limit = self._request.objectives, self._request.settings.engine.max_latency
        if not objectives and limit is None:
            return USUAL
        goals = Goals(objectives, limit)
        return replace(goals, measure=self._values) if goals.is_measured else goals

    def measure_bare(self) -> None:
        """Measure the network without attention, if latencies are needed; nothing else may run meanwhile."""
        if not self.stages.is_finished and self._goals.is_measured:
            resources = self._request.settings.resources
            self._values.begin(local_allocation(resources if resources.address is None else Resources()))

    def _claim(self) -> None:
        """Check that the ledger belongs to the searched space, and mark it as this driver's."""
        from nas_attn.study.ledger import SEARCH

        store, config = self._opened, self._folder.begun() or {}
        ledger = store.ledger(SEARCH, objectives=self._request.objectives)
        refuse_other_space(store.place, ledger.note(OF_RUN), config)
        if not ledger.note(OF_RUN):
            ledger.set_note(OF_RUN, {"space": space_digest(config)})
        store.claim(ledger)

    def _ended(self, record: TrialRecord) -> None:
        if self._callbacks is not None:
            self._callbacks.call("on_trial_end", record)

    def _watch(self, stages: Stages) -> None:
        """Update the display, the driver's description and `best-so-far.json`."""
        from nas_attn.study.early_end import work_of

        self._display.update(stages)
        self._driver.update(
            lambda: {
                "stage": stages.stage,
                "running": len(stages.live),
                "workers": stages.pace.workers,
                "seconds_left": stages.pace.rest(work_of(stages)),
            }
        )
        best = stages.search.take_new_best()
        if best is not None:
            content = {
                "placement": best.placement.to_dict(),
                "trial": best.number,
                f"validation_{self._request.metric}": best.value,
                "epochs": best.epochs,
                "seed": best.seed,
                "n_parameters": best.n_parameters,
                "n_macs": best.n_macs,
                "note": "The best single trial so far; best.json follows once it is confirmed and retrained.",
            }
            write_json(self._folder.best_so_far, content)


def _kept(request: Request) -> Artifact:
    """Return the form in which predictions are stored: with the probability of every class unless they are many."""
    from nas_attn.run.extent import runs_and_epochs

    facts = request.facts
    if facts is None:
        return "predictions"
    runs = {stage: number for stage, (number, _) in runs_and_epochs(request).items()}
    n_images = runs["retrain"] * facts.n_test + runs.get("confirm", 0) * facts.n_val
    return "predictions" if fits_whole(n_images * facts.num_classes) else "short predictions"
