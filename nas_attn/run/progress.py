"""Progress of a run: a live display in a terminal, plain lines elsewhere, or no output."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas_attn.errors import MOST_SHOWN, in_plain_words
from nas_attn.executors.resources import Allocation
from nas_attn.records import RunRecord, TrialRecord
from nas_attn.report import words
from nas_attn.run.extent import confirm_rounds

if TYPE_CHECKING:
    from nas_attn.config import Budget
    from nas_attn.run.request import Request
    from nas_attn.study.sampling import SearchStudy
    from nas_attn.study.stages import Stages

_STAGES = {
    "read": "Reading the data",
    "start": "Starting the workers",
    "screen": "Training a network with shared weights, which ranks placements",
    "search": "Searching",
    "control": "Searching at random, for comparison",
    "confirm": "Confirming the best with new seeds",
    "retrain": "Retraining the arms",
    "measure": "Measuring time and memory of the arms",
    "export": "Exporting the arms",
    "report": "Writing the report",
}


class Display(Protocol):
    """Shows the progress of a run; every call returns quickly."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def reading(self, done: int, total: int) -> None:
        """Show the number of decoded files of an image folder."""
        ...

    def begin(self, request: Request) -> None:
        """Show the checked request; nothing has started yet."""
        ...

    def resources(self, allocation: Allocation) -> None:
        """Show the resources of the open executor."""
        ...

    def stage(self, name: str) -> None:
        """Show a stage that the executor does not run, such as the export."""
        ...

    def update(self, stages: Stages) -> None:
        """Show a change of the stages."""
        ...

    def say(self, sentence: str) -> None:
        """Show a sentence at once, such as that the run waits for its database."""
        ...

    def result(self, record: RunRecord) -> None:
        """Show the result of the finished run."""
        ...


@dataclass(frozen=True)
class Count:
    """Progress of one stage.

    Args:
        done: Number of finished runs.
        total: Number of all runs of the stage; it may still grow.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Snapshot:
    """Progress of a run at one moment.

    Args:
        running, failed, pruned, answered: Numbers of trials.
        best: The best trial of the search.
        seconds_left: Estimate from the finished runs; None before the first.
    """

    stage: str
    search: Count
    control: Count
    confirm: Count
    retrain: Count
    running: int
    failed: int
    pruned: int
    answered: int
    best: TrialRecord | None
    seconds_left: float | None

    @property
    def counts(self) -> list[tuple[str, Count]]:
        """The stages with their counts; those of a search only where something is searched."""
        control = [("control", self.control)] if self.control.total else []
        searched = [("search", self.search), *control, ("confirm", self.confirm)]
        return [*(searched if self.search.total else []), ("retrain", self.retrain)]


def snapshot(stages: Stages) -> Snapshot:
    """Return the progress of a run."""
    from nas_attn.study.early_end import work_of

    searches = [stages.search, *([stages.control] if stages.control is not None else [])]
    tallies = [search.tally for search in searches]
    finals = stages.final.records()
    done = {name: sum(row.stage == name and row.state != "running" and row.cause not in ("interrupted", "crashed")
                      for row in finals) for name in ("confirm", "retrain")}  # fmt: skip
    waiting = {name: stages.final.n_waiting(name) for name in ("confirm", "retrain")}
    n_confirm = waiting["confirm"] + sum(stages.unplanned_confirm())
    n_found = stages.n_seeds_planned * stages.n_unknown_arms
    return Snapshot(
        stage=stages.stage,
        search=_searched(stages.search),
        control=_searched(stages.control) if stages.control is not None else Count(0, 0),
        confirm=Count(done["confirm"], done["confirm"] + n_confirm),
        retrain=Count(done["retrain"], done["retrain"] + waiting["retrain"] + n_found),
        running=len(stages.live),
        failed=sum(row.state == "fail" and row.cause != "interrupted" for row in finals)
        + sum(tally.failed for tally in tallies),
        pruned=sum(tally.pruned for tally in tallies),
        answered=sum(tally.answered for tally in tallies),
        best=stages.search.best,
        seconds_left=stages.pace.rest(work_of(stages)),
    )


def _searched(search: SearchStudy) -> Count:
    return Count(search.n_done, search.n_done + search.n_open + search.n_fresh)


def _seeds_in_words(budget: Budget) -> str:
    return f"5 to {budget.max_seeds} seeds" if budget.seeds == "auto" else f"{budget.seeds} seeds"


def _plan_in_words(request: Request) -> str:
    """Return what a run does in its stages, without a full stop."""
    budget = request.settings.budget
    if request.given is not None:
        return f"nothing is searched, and every arm is retrained with {_seeds_in_words(budget)}"
    beside = " and as many at random" if budget.control_search else ""
    screen = request.settings.engine.screen
    n_confirmed = confirm_rounds(request)[0].n_placements
    first = "" if screen is None else f"shared weights for the price of {screen} trainings rank placements, "
    return (
        f"{first}{budget.trials - (screen or 0)} of {request.bound.n_placements:,} placements are tried{beside}, the "
        f"best {min(n_confirmed, budget.trials)} confirmed, and every arm retrained with {_seeds_in_words(budget)}"
    )


class SilentDisplay:
    """Shows only the result, and nothing without a console."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._workers = 1
        self._metric = "accuracy"

    def __enter__(self) -> SilentDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def reading(self, done: int, total: int) -> None:
        """Show nothing."""

    def begin(self, request: Request) -> None:
        """Show nothing."""

    def resources(self, allocation: Allocation) -> None:
        """Show nothing."""

    def stage(self, name: str) -> None:
        """Show nothing."""

    def update(self, stages: Stages) -> None:
        """Show nothing."""

    def say(self, sentence: str) -> None:
        """Print the sentence, if there is a console."""
        if self._console is not None:
            self._console.print(_foreign(sentence), soft_wrap=True)

    def result(self, record: RunRecord) -> None:
        """Print the verdict and the paths of the output."""
        if self._console is None:
            return
        from nas_attn.report.screen import screen_of
        from nas_attn.report.verdict import verdict

        self._console.print()
        self._console.print(_foreign(verdict(record)), soft_wrap=not self._console.is_terminal)
        screen = screen_of(record)
        for remark in (*(screen.sentences if screen else ()), *record.remarks):
            self._console.print(_foreign(remark), soft_wrap=not self._console.is_terminal)
        self._console.print()
        for name, about in (("report.html", "the report"), ("best.json", "the model: nas_attn.load_model(...)")):
            if (record.folder / name).exists():
                self._console.print(Text("  ").append(_foreign(f"{record.folder / name}  {about}")), soft_wrap=True)


class _Introduced(SilentDisplay):
    """Base of the live and the plain display: prints an introduction to the run."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._out = console

    def begin(self, request: Request) -> None:
        """Print a summary of the run, its folder and the command of its dashboard."""
        settings, facts = request.settings, request.facts
        self._metric = request.metric
        lines = [f"{settings.space.title}: {_plan_in_words(request)}."]
        if facts is not None:
            lines.append(facts.in_words)
        lines += request.notes
        lines += [
            f"Run folder: {settings.out} (the same command resumes the run)",
            f"Dashboard: nas-attn dashboard {settings.out}",
        ]
        for line in lines:  # wrap at words in a terminal, never in a file
            self._out.print(_foreign(line), soft_wrap=not self._out.is_terminal)

    def resources(self, allocation: Allocation) -> None:
        """Print the resources of the trials."""
        self._workers = allocation.workers
        self._out.print(_foreign(f"Workers: {allocation}"), soft_wrap=True)


class PlainDisplay(_Introduced):
    """Prints one line per stage and at intervals; for logs and pipes."""

    def __init__(self, console: Console, interval: float = 10.0) -> None:
        super().__init__(console)
        self._interval = interval
        self._next = time.monotonic()
        self._running = 0
        self._stage = ""
        self._best: TrialRecord | None = None

    def stage(self, name: str) -> None:
        """Print the stage's name."""
        if name != self._stage:
            self._stage = name
            self._out.print(f"{_STAGES[name]} ...")

    def update(self, stages: Stages) -> None:
        """Print the progress when a trial begins, at most once per interval.

        A line at the end of a trial would count its worker as idle, although the next trial begins at once. For the
        same reason a line waits until all workers are busy, but not longer than one more interval.
        """
        self.stage(stages.stage)
        has_begun, self._running = len(stages.live) > self._running, len(stages.live)
        delay = 0.0 if self._running >= self._workers else self._interval
        if has_begun and time.monotonic() >= self._next + delay:
            self._next = time.monotonic() + self._interval
            now = snapshot(stages)
            self._out.print(Text(_line(now)), soft_wrap=True)
            if now.best is not None and now.best is not self._best:
                self._best = now.best
                self._out.print(Text("  ").append(_foreign(_best(now.best, self._metric))), soft_wrap=True)


class LiveDisplay(_Introduced):
    """Redraws a few lines in place."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._name = "read"
        self._read: tuple[int, int] | None = None
        self._now: Snapshot | None = None
        self._taken = time.monotonic()
        self._start = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._render)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def reading(self, done: int, total: int) -> None:
        """Store the number of decoded files."""
        self._read = (done, total)

    def stage(self, name: str) -> None:
        """Store the name of the stage."""
        self._name = name
        if name in ("measure", "export", "report"):
            self._now = None

    def update(self, stages: Stages) -> None:
        """Store the progress of the run."""
        self._name = stages.stage
        self._now, self._taken = snapshot(stages), time.monotonic()

    def _render(self) -> RenderableType:
        title = Text(f"{_STAGES[self._name]} ...", style="bold")
        title.append(f"  {words.duration(time.monotonic() - self._start)} so far", style="dim")
        now = self._now
        if now is None:
            if self._name == "read" and self._read is not None:
                return Group(title, _bar("images", Count(*self._read)))
            return title
        if now.seconds_left is not None:
            left = max(0.0, now.seconds_left - (time.monotonic() - self._taken))
            title.append(f", about {words.duration(left)} left", style="dim")
        counts = Table.grid(padding=(0, 2))
        for name, count in now.counts:
            counts.add_row(name, ProgressBar(max(1, count.total), count.done, width=30), f"{count.done}/{count.total}")
        best = [_foreign(_best(now.best, self._metric))] if now.search.total else []
        return Group(title, counts, Text(_facts(now, self._workers)), *best)


def terminal_display(*, quiet: bool) -> Display:
    """Return the display for the standard output."""
    console = Console(highlight=False)
    if quiet:
        return SilentDisplay(console)
    return LiveDisplay(console) if sys.stdout.isatty() and console.is_terminal else PlainDisplay(console)


def _foreign(line: str) -> Text:
    """Return a line that may hold text of others, such as a title or a path, without what steers a terminal."""
    return Text(in_plain_words(line, MOST_SHOWN))


def _bar(name: str, count: Count) -> Table:
    row = Table.grid(padding=(0, 2))
    row.add_row(name, ProgressBar(max(1, count.total), count.done, width=30), f"{count.done:,}/{count.total:,}")
    return row


def _facts(now: Snapshot, workers: int) -> str:
    facts = [f"{now.running} of {workers} workers busy", f"{now.failed} failed"]
    facts += [f"{now.pruned} stopped early"] if now.pruned else []
    facts += [f"{now.answered} answered from the ledger"]
    return ", ".join(facts)


def _best(best: TrialRecord | None, metric: str) -> str:
    if best is None or best.value is None:
        return "best so far: none yet"
    scale = {"accuracy": words.PER_CENT, "roc_auc": words.ROC_AUC}.get(metric, words.AS_IS)
    value, where = words.value_words(best.value, scale), words.placement_words(best.placement, None)
    return f"best so far: {value} on validation, {where}"


def _line(now: Snapshot) -> str:
    left = "" if now.seconds_left is None else f", about {words.duration(now.seconds_left)} left"
    counts = ", ".join(f"{name} {count.done}/{count.total}" for name, count in now.counts)
    return f"{counts}; {now.running} running, {now.failed} failed, {now.answered} answered{left}"
