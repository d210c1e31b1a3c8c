"""A run from its settings to its report: `search` in Python, `run_command` for the command line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_attn.callbacks.base import Callback, Callbacks
from nas_attn.data.entry import Progress
from nas_attn.data.memory import data_source_of
from nas_attn.data.sources import stated_reading
from nas_attn.errors import FileError, Interrupted, RunError
from nas_attn.executors.base import RESUMABLE, Executor
from nas_attn.executors.catalog import EXECUTORS
from nas_attn.executors.resources import Allocation
from nas_attn.records import Attempt, RunRecord, TrialRecord
from nas_attn.run.folder import RunFolder
from nas_attn.run.guarded import GuardedDisplay
from nas_attn.run.identity import CONTENTS, changes, notes_on_begun, used_since
from nas_attn.run.ledger_job import LedgerJob
from nas_attn.run.log import logged_to
from nas_attn.run.opened import OpenLedger
from nas_attn.run.place import chosen_place
from nas_attn.run.progress import Display, SilentDisplay, terminal_display
from nas_attn.run.provenance import describe_run
from nas_attn.run.request import Request, bind, contents_now, read_settings
from nas_attn.run.result_files import ResultFiles
from nas_attn.run.result_imports import ResultImports
from nas_attn.space.search_space import SearchSpace
from nas_attn.training.context import TrialContext, registered_here
from nas_attn.user_code.process_state import left_as_it_was

if TYPE_CHECKING:
    from torch import nn

    from nas_attn.executors.interrupts import Interrupts
    from nas_attn.study.stages import Stages
    from nas_attn.study.store import Place

log = logging.getLogger(__name__)

_TABLES = ("trials.csv", "arms.csv", "report.md")
"""Files that every report has beside its page."""


def search(
    space: str | Path | SearchSpace | None = None,
    train: Callable[..., float] | str | None = None,
    out: str | Path | None = None,
    *,
    network: Callable[..., nn.Module] | nn.Module | None = None,
    data: Any = None,
    display: Display | None = None,
    callbacks: Sequence[Callback | Callable[[TrialRecord], object]] = (),
    **settings: Any,
) -> RunRecord:
    """Search a space, confirm the best placements, retrain the arms, and write the report; resume an unfinished run.

    Args:
        space: Name of a shipped space, path of a space file, or a loaded space. None makes one from the sites of the
            network; without a network it is the shipped space for images of this kind.
        train: Custom training `train(model, run) -> float`, where `run` is a `nas_attn.Run` and a higher value is
            better; or its path `module:function`. None uses the built-in training.
        out: Folder of the run; None derives its name from the space and the data.
        network: A network of your own, for a space without one: a function that returns a new network, and gets those
            of `num_classes`, `in_channels` and `image_size` that it has as parameters; or a torch module. Each trial
            copies a module, with its weights as initial weights; a function draws new ones for each seed. A network
            that has a name is `backbone=...`.
        data: As on the command line (`digits`, `folder:PATH`, ...), or images in memory: `(train, val, test)`, each a
            torch data set or loader whose images are PIL images, or tensors (C, H, W) of uint8 or of float from 0 to
            1; None in place of `val` or `test` splits it off.
        display: Shows the progress; None shows nothing.
        callbacks: Are called at the end of each trial and of the run: objects such as
            `nas_attn.callbacks.TensorBoard()`, or functions of a trial's row. One that raises is noted, and the search
            goes on.
        settings: The settings of the command line by name (`trials`, `epochs`, `seeds`, ...). A custom training that
            reads its own data needs `num_classes`, `in_channels` and `image_size` instead of `data`.

    Raises: a subclass of `Refused` before anything is written; RunStopped if the run cannot continue; Interrupted after
    Ctrl-C. The same call resumes the run.
    """
    with left_as_it_was(), data_source_of(data, settings.get("image_size"), stated_reading(settings)) as source:
        stated = {"space": space, "train": train, "out": out, "network": network, "data": source}
        stated |= {"callbacks": callbacks, **settings}
        return run(bind(read_settings(stated)), display or SilentDisplay())


Beside = Callable[[Path], AbstractContextManager[None]]
"""What runs beside a search, such as its dashboard: a context manager for the run folder, which need not exist yet."""


def alone(run: Path) -> AbstractContextManager[None]:
    """Run nothing beside a search."""
    return nullcontext()


def run_command(settings: Mapping[str, Any], *, beside: Beside = alone) -> int:
    """Run the command line's `search` and return its exit code."""
    return carry_out(settings, lambda progress: bind(read_settings(settings), progress=progress), beside=beside)


def carry_out(settings: Mapping[str, Any], request_of: Callable[[Progress], Request], *, beside: Beside = alone) -> int:
    """Preview or run what a command line asks for, show it in the terminal, and return the exit code.

    Args:
        settings: Those of the command line; `dry_run` and `quiet` are read here.
        request_of: Returns the checked request, and reports the files that it has read.
    """
    display = GuardedDisplay(terminal_display(quiet=bool(settings.get("quiet"))))
    with display:
        request = request_of(display.reading)
        if settings.get("dry_run"):
            from nas_attn.run.dry_run import print_preview

            print_preview(as_begun(request, RunFolder(request.settings.out)))
            return 0
        with beside(request.settings.out):
            record = run(request, display)
    display.result(record)
    for note in display.notes:
        print(note, file=sys.stderr)
    return 0


def run(request: Request, display: Display) -> RunRecord:
    """Run the unfinished part of a checked request, and return the content of the run folder."""
    from nas_attn.executors.interrupts import Interrupts

    display = display if isinstance(display, GuardedDisplay) else GuardedDisplay(display)
    folder = RunFolder(request.settings.out)
    request = as_begun(request, folder)
    call, begun = request.settings.call, folder.begun()
    place = chosen_place(folder.path, request.settings.storage, begun)
    config = describe_run(request, begun) | ({"storage": place.to_dict()} if place.address is not None else {})
    folder.refuse_foreign(config, same_training=call.same_training)
    request = replace(request, notes=(*request.notes, *notes_on_begun(begun, request.contents)))
    executor = EXECUTORS[request.settings.resources.executor].make(request.settings.resources)
    executor.check()
    with folder.locked(), logged_to(folder.log) as without_log, Interrupts() as interrupts:
        display.notes += [without_log] if without_log else []
        if begun is not None and changes(begun, config):
            with OpenLedger(request, folder, display, place, lambda: interrupts.pending) as ledger:
                ledger.forget_unexported()
        folder.write_config({**config, "created": (begun or {}).get("created") or _now()})
        for note in request.notes:
            log.info("%s", note)
        display.begin(request)
        callbacks = Callbacks(request.settings.callbacks, display.say)
        try:
            with _ended_as(RESUMABLE, interrupts):
                callbacks.call("on_run_begin", folder.path, config)
            record = _finish(request, folder, executor, display, interrupts, place, callbacks)
            with suppress(KeyboardInterrupt), interrupts.abruptly():
                callbacks.call("on_run_end", record)
        finally:
            callbacks.call("close")
            _record_state(request, folder)
        if interrupts.pending:
            raise Interrupted(f"Interrupted, after the result was written: {folder.best} and its report are complete.")
    return record


def _record_state(request: Request, folder: RunFolder) -> None:
    """Record which parts of a training in memory changed while it trained, so that they are not compared later."""
    config = folder.begun() if request.contents else None
    if config is not None:
        contents = used_since(config, contents_now(request))
        if contents != config.get(CONTENTS):
            folder.write_config({**config, CONTENTS: contents})


def as_begun(request: Request, folder: RunFolder) -> Request:
    """Return the request with `controls` and `top` as the run began, if they are not stated.

    A run of an older version began with none of the controls, or with a fixed `top`, and a repeated command adds
    nothing to it.
    """
    budget = request.settings.budget
    begun = folder.read_config().get("budget") if folder.config.exists() else None
    found = begun if isinstance(begun, Mapping) else {"controls": budget.n_controls}
    controls = found.get("controls", 0) if budget.controls is None else budget.controls
    top = found.get("top") if budget.top is None else budget.top
    settings = replace(request.settings, budget=budget.model_copy(update={"controls": controls, "top": top}))
    return replace(request, settings=settings)


def _finish(
    request: Request,
    folder: RunFolder,
    executor: Executor,
    display: GuardedDisplay,
    interrupts: Interrupts,
    place: Place,
    callbacks: Callbacks,
) -> RunRecord:
    """Run the unfinished trials, write the result, measure the arms, and complete the result; return the run."""
    with OpenLedger(request, folder, display, place, lambda: interrupts.pending, callbacks) as ledger:
        # A finished run shows its result without starting the executor, so its ledger is opened first.
        with _ended_as(RESUMABLE, interrupts):
            is_complete = folder.best.exists() and ledger.stages.is_finished
            if is_complete and _outputs_current(ledger.stages, folder):
                return ledger.record()
        allocation = _train(request, ledger, executor, display, interrupts)
        stages, result = ledger.stages, ResultFiles(request, ledger, folder, display)
        if stages.error is not None:
            with _ended_as(RESUMABLE, interrupts):
                result.write_report()
            raise stages.error
        known = folder.read_measured().newest()
        is_last = _is_measured(stages, known)
        unwritten = f"Interrupted while the result was written to {folder.path}: the same command completes it."
        with _ended_as(unwritten, interrupts):
            result.write(known, figures=is_last)
        display.stage("measure")
        measured = _measured(request, stages, folder, allocation, interrupts)
        if measured != known or not is_last:
            with _ended_as(unwritten, interrupts):
                result.write(measured)
        return ledger.record()


@contextmanager
def _ended_as(sentence: str, interrupts: Interrupts) -> Iterator[None]:
    """Context manager: a signal ends what runs inside at once. Raises: Interrupted with this sentence."""
    try:
        with interrupts.abruptly():
            yield
    except KeyboardInterrupt:
        raise Interrupted(sentence) from None


def _train(
    request: Request, ledger: OpenLedger, executor: Executor, display: Display, interrupts: Interrupts
) -> Allocation:
    """Run all trials by the executor; return the resources of the trials."""
    display.stage("start")
    imports = ResultImports(request.backbone)
    try:
        with interrupts.abruptly():
            ledger.measure_bare()
            executor.open(request.facts.n_bytes if request.facts is not None and request.settings.train is None else 0)
        interrupts.hold()  # again, because an executor may have installed its own handlers
        job = LedgerJob(ledger.stages, at_last=imports.begin)
        display.resources(executor.capacity)
        ledger.stages.pace.workers = executor.capacity.workers
        executor.run(job, _context(request, executor.capacity), interrupts)
        job.raise_error()
        imports.begin()  # while the workers end
        return executor.capacity
    except (KeyboardInterrupt, SystemExit):  # the latter is Ray's answer to SIGTERM while it starts
        raise Interrupted(RESUMABLE) from None
    finally:
        executor.close()
        interrupts.hold()  # Ray's native code resets SIGTERM when it ends, unseen by Python
        imports.join()


def _measured(
    request: Request, stages: Stages, folder: RunFolder, allocation: Allocation, interrupts: Interrupts
) -> Mapping[str, Attempt]:
    """Return time and memory of the arms; nothing else runs now."""
    from nas_attn.run.arm_costs import measure_arms

    try:
        return measure_arms(request, stages, folder, allocation, interrupts)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted while the costs of the arms were measured: {folder.report} holds the result, and the same "
            "command adds the costs."
        ) from None


def _context(request: Request, allocation: Allocation) -> TrialContext:
    from nas_attn.study.samplers.named import rungs_of

    engine = request.settings.engine
    return TrialContext(
        backbone=request.backbone,
        shape=request.shape,
        recipe=request.settings.recipe,
        device=allocation.device,
        data=request.settings.data,
        train=request.settings.train,
        gpus=allocation.gpus,
        n_threads=allocation.cpus,
        registered=registered_here(),
        class_names=request.facts.class_names if request.facts else (),
        fingerprint=request.facts.fingerprint if request.facts else None,
        objectives=tuple(goal.name for goal in request.objectives if goal.source == "training"),
        timeout=engine.timeout_seconds,
        checkpoint_seconds=engine.checkpoint_seconds,
        show_output=request.settings.resources.show_output,
        rungs=rungs_of(engine.scheduler, request.settings.recipe.epochs, engine.scheduler_option),
    )


def _outputs_current(stages: Stages, folder: RunFolder) -> bool:
    """Return whether all output files are whole, and up to date with the ledger."""
    answer = stages.answer
    try:
        best = folder.read_best()
        missing = {label for label, _ in stages.arms()} - folder.whole_arms()
    except (RunError, FileError) as error:
        log.warning("%s It is written again now.", error)
        return False
    if missing and any(
        folder.weights.has(*stages.weights_place(arm)) for label, arm in stages.arms() if label in missing
    ):
        return False
    if not _is_measured(stages, folder.read_measured().newest()):
        return False
    if best is None or answer is None or not folder.has_weights(best):
        return False
    if best.get("weights", {}) is None and not stages.unexported:  # they were trained again since
        return False
    if not folder.report.exists() or _is_older(folder.report, folder.best, folder.measured):  # it failed
        return False
    if not all(path.is_file() and path.stat().st_size for path in map(folder.path.joinpath, _TABLES)):
        return False
    return best.get("answer") == answer.to_dict() and best.get("arms") == stages.retrained()


def _is_older(path: Path, *others: Path) -> bool:
    """Return whether a file was written before one of the others, of those that exist."""
    return path.stat().st_mtime < max((other.stat().st_mtime for other in others if other.exists()), default=0.0)


def _is_measured(stages: Stages, measured: Mapping[str, Attempt]) -> bool:
    """Return whether there are costs of every arm."""
    return {placement.key for _, placement in stages.arms()} <= measured.keys()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
