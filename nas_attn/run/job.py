"""The main job: from settings to a report. `search` is its face in Python, `run_command` on the command line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_attn.config import Resources, n_cores
from nas_attn.errors import Interrupted
from nas_attn.executors.resources import Crew, refuse_silent_address, share_out
from nas_attn.files import write_json
from nas_attn.placement import NONE
from nas_attn.records import Attempt, RunRecord
from nas_attn.run.folder import RunFolder, load_run
from nas_attn.run.progress import Display, SilentDisplay, terminal_display
from nas_attn.run.provenance import describe_run
from nas_attn.run.request import Request, bind, read_settings
from nas_attn.space.search_space import SearchSpace
from nas_attn.training.context import Setting, registered_here

if TYPE_CHECKING:
    from nas_attn.executors.interrupts import Interrupts
    from nas_attn.study.stages import Stages

log = logging.getLogger(__name__)


def search(
    space: str | Path | SearchSpace,
    train: Callable[..., float] | str | None = None,
    out: str | Path | None = None,
    *,
    display: Display | None = None,
    **settings: Any,
) -> RunRecord:
    """Search a space, confirm the best, retrain the arms, and write the report; an earlier start is resumed.

    Args:
        space: A shipped space's name, a space file, or a loaded space.
        train: Your own training, `train(model, run) -> float` (see `nas_attn.training.trial.Run`), higher is better; or
            `module:function`. None takes ours.
        out: The run's folder; None names it after the space and the data.
        display: Sees the progress; None shows nothing.
        settings: The command line's settings by the same names (`trials`, `epochs`, `seeds`, `data`, ...). A training
            of your own that brings its own data gives `num_classes`, `in_channels` and `image_size` instead of `data`.

    Raises: a child of `Refused` before anything is written; RunStopped when the run cannot go on; Interrupted after
    Ctrl-C. In each case the same call goes on later.
    """
    request = bind(read_settings({"space": space, "train": train, "out": out, **settings}))
    return run(request, display or SilentDisplay())


def run_command(settings: Mapping[str, Any]) -> int:
    """Run the command line's `search`; return its exit code."""
    display = terminal_display(quiet=bool(settings.get("quiet")))
    with display:
        request = bind(read_settings(settings), progress=display.reading)
        if settings.get("dry_run"):
            from nas_attn.run.dry_run import print_plan

            print_plan(request)
            return 0
        record = run(request, display)
    display.result(record)
    return 0


def run(request: Request, display: Display) -> RunRecord:
    """Run what is left to do of a checked request, and return everything that the folder knows then."""
    from nas_attn.executors.interrupts import Interrupts

    folder = RunFolder(request.settings.out)
    config = describe_run(request)
    folder.refuse_foreign(config)
    _refuse_resources(request.settings.resources)
    with folder.locked(), _logged(folder.log), Interrupts() as interrupts:
        write_json(folder.config, {**config, "created": _created(folder)})
        for note in request.notes:
            log.info("%s", note)
        display.begin(request)
        _work(request, folder, display, interrupts)
    return load_run(folder.path)


def _work(request: Request, folder: RunFolder, display: Display, interrupts: Interrupts) -> None:
    """Execute what is left, then export and report."""
    with _Books(request, folder, display) as books:
        # Only a run that may be finished opens its ledger before Ray starts: it shows its result, and starts nothing.
        if folder.best.exists() and books.open().is_finished and _is_told(books.open(), folder):
            return
        crew = _execute(request, books, display, interrupts)
        stages = books.open()
        if stages.error is not None:
            _report(folder, display)
            raise stages.error
        display.stage("measure")
        measured = _measured(request, stages, folder, crew, interrupts)
        display.stage("export")
        from nas_attn.run.export import export

        export(request, stages, folder, measured)
    _report(folder, display)


class _Books:
    """The ledger of a run, opened when it is first needed, and closed whole."""

    def __init__(self, request: Request, folder: RunFolder, display: Display) -> None:
        self._request, self._folder, self._display = request, folder, display
        self._stages: Stages | None = None
        self._storage: Any = None

    def __enter__(self) -> _Books:
        return self

    def __exit__(self, *_: object) -> None:
        if self._storage is not None:
            from nas_attn.study.ledger import close_storage

            close_storage(self._storage)

    def open(self) -> Stages:
        """Return the job as the ledger knows it."""
        if self._stages is None:
            self._stages = self._opened()
        return self._stages

    def _opened(self) -> Stages:
        from nas_attn.study.ledger import FINAL, SEARCH, Ledger, open_storage
        from nas_attn.study.planned import FinalStudy
        from nas_attn.study.sampling import SearchStudy
        from nas_attn.study.stages import Stages

        settings, bound = self._request.settings, self._request.bound
        self._storage = open_storage(self._folder.database)
        ledgers = [Ledger(self._storage, name) for name in (SEARCH, FINAL)]
        n_dead = sum(ledger.sweep() for ledger in ledgers)
        if n_dead:
            log.info("%d runs of an earlier session were cut off and are begun again", n_dead)
        study = SearchStudy(
            ledgers[0],
            bound,
            settings.engine,
            budget=settings.budget.trials,
            epochs=settings.recipe.epochs,
            top=settings.budget.top,
        )
        return Stages(
            study,
            FinalStudy(ledgers[1], bound),
            bound,
            budget=settings.budget,
            recipe=settings.recipe,
            seed=settings.engine.seed,
            weights=self._folder.weights.absolute(),
            arms=self._request.arms,
            watch=self._watch,
        )

    def _watch(self, stages: Stages) -> None:
        """Show a change, and keep `best-so-far.json` up to date."""
        self._display.update(stages)
        best = stages.take_new_best()
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


def _execute(request: Request, books: _Books, display: Display, interrupts: Interrupts) -> Crew:
    """Let the executor work until the job is finished; return who worked with what."""
    resources = request.settings.resources
    display.stage("start")
    if resources.executor == "local":
        from nas_attn.executors.local import crew_here, run_local

        crew = crew_here(resources)
        stages = books.open()
        display.crew(crew)
        run_local(stages, _setting(request, crew), interrupts)
        return crew
    from nas_attn.executors.ray_session import ray_session

    with ray_session(resources) as crew:
        interrupts.hold()
        stages = books.open()
        display.crew(crew)
        from nas_attn.executors.tune import run_tune

        run_tune(stages, _setting(request, crew), crew, interrupts)
        return crew


def _measured(
    request: Request, stages: Stages, folder: RunFolder, crew: Crew, interrupts: Interrupts
) -> Mapping[str, Attempt]:
    """Measure time and memory of the arms, now that nothing else runs."""
    from nas_attn.run.arm_costs import measure_arms

    try:
        return measure_arms(request, stages, folder, crew, interrupts)
    except KeyboardInterrupt:
        raise Interrupted("Interrupted: the same command goes on from here.") from None


def _setting(request: Request, crew: Crew) -> Setting:
    return Setting(
        backbone=request.backbone,
        shape=request.shape,
        recipe=request.settings.recipe,
        device=crew.device,
        data=request.settings.data,
        train=request.settings.train,
        gpus=crew.gpus,
        n_threads=crew.cpus,
        registered=registered_here(),
        class_names=request.facts.class_names if request.facts else (),
    )


def _refuse_resources(resources: Resources) -> None:
    """Check what this machine must have, before anything is written; a cluster elsewhere is asked when it is joined."""
    if resources.address is not None:
        refuse_silent_address(resources.address)
        return
    needs_torch = resources.device in ("cuda", "mps") or bool(resources.gpus_per_trial)
    if needs_torch or resources.executor == "local":
        from nas_attn.executors.local import crew_here

        crew_here(resources)
    else:  # cores are counted without torch, which the first trial must not wait for
        share_out(resources, n_cores=n_cores(), n_gpus=0)


def _is_told(stages: Stages, folder: RunFolder) -> bool:
    """Whether `best.json`, its weights and the report hold already what the ledger says, and every arm was measured."""
    best = folder.read_best()
    if not {placement.key for _, placement in stages.arms()} <= folder.read_measured().newest().keys():
        return False
    if best is None or stages.winner is None or not folder.report.exists() or not folder.has_weights(best):
        return False
    placement = stages.winner.placement or NONE
    values = stages.final.values("retrain", placement, stages.retrain_epochs)
    told = best.get("metrics", {}).get("test", {}).get("by_seed")
    found = {str(seed): value for seed, value in values.items()}
    return (best.get("placement"), best.get("recommended"), told) == (
        placement.to_dict(),
        stages.winner.recommended,
        found,
    )


def _report(folder: RunFolder, display: Display) -> None:
    """Write the page, its figures and tables."""
    display.stage("report")
    from nas_attn.report.page import write_report

    write_report(load_run(folder.path), folder.path)


def _created(folder: RunFolder) -> str:
    if folder.config.exists():
        return str(folder.read_config().get("created"))
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Write the package's log, and what Ray complains of, to a file while the run lasts."""
    written = [(logging.getLogger(name), logging.FileHandler(path, encoding="utf-8")) for name in ("nas_attn", "ray")]
    ours = written[0][0]
    level = ours.level
    ours.setLevel(logging.INFO)
    for logger, handler in written:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
    try:
        yield
    finally:
        ours.setLevel(level)
        for logger, handler in written:
            logger.removeHandler(handler)
            handler.close()
