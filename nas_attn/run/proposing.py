"""What a request's search proposes: its sampler and scheduler are checked, and the placements to try first read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas_attn.config import Engine
from nas_attn.errors import ConfigError, SpaceError
from nas_attn.model.stored import ARMS, BEST
from nas_attn.placement import Placement
from nas_attn.run.arms import read_placement
from nas_attn.run.screening import check_screen
from nas_attn.space.bound import BoundSpace
from nas_attn.study.samplers.catalog import SAMPLERS, SCHEDULERS
from nas_attn.study.samplers.named import refuse_large

if TYPE_CHECKING:
    from nas_attn.run.request import Request

SO_FAR = "best-so-far.json"


def with_proposals(request: Request) -> Request:
    """Return the request with its priors, and with a budget of all placements if the sampler enumerates them.

    A stated `--trials` stays: it is the largest number of placements to enumerate.

    Raises: ConfigError for a sampler, a scheduler or options that cannot be made, a space that is too large for the
    sampler, a file of priors of which none fits, and a screen that has no place in this search.
    """
    engine, bound = request.settings.engine, request.bound
    check_engine(engine, request.settings.recipe.epochs)
    settings = request.settings
    refuse_large(engine.sampler, n_placements=bound.n_placements, n_parameters=len(bound.choices))
    enumerates = engine.sampler in SAMPLERS and SAMPLERS[engine.sampler].enumerates
    if enumerates and "trials" not in settings.budget.model_fields_set:
        budget = settings.budget.model_copy(update={"trials": bound.n_placements})
        settings = replace(settings, budget=budget)
    priors: dict[str, tuple[str, Placement]] = {}
    notes: list[str] = []
    for stated in dict.fromkeys(engine.priors):
        found, skipped = _fitting(Path(stated), bound)
        notes += skipped
        for label, placement in found:
            priors.setdefault(placement.key, (label, placement))
    request = replace(request, settings=settings, priors=tuple(priors.values()), notes=(*request.notes, *notes))
    check_screen(request)
    return request


def check_engine(engine: Engine, epochs: int) -> None:
    """Check that sampler and scheduler can be made; the ones of the tables without options are known to be.

    Raises: ConfigError in one sentence.
    """
    if engine.sampler not in SAMPLERS or engine.sampler_option:
        from nas_attn.study.samplers.named import make_sampler

        make_sampler(engine.sampler, 0, engine.sampler_option)
    if engine.scheduler in SCHEDULERS and engine.scheduler_option:
        from nas_attn.study.samplers.named import make_scheduler

        make_scheduler(engine.scheduler, epochs, engine.scheduler_option)


def _fitting(path: Path, bound: BoundSpace) -> tuple[list[tuple[str, Placement]], list[str]]:
    """Return the labelled placements of a file or folder that the space has, and a note on each that it lacks.

    Raises: ConfigError if it has none of them.
    """
    fitting, notes = [], []
    for file in _files(path):
        placement = read_placement(file, "--priors")
        reason = _misfit(placement, bound)
        if reason is None:
            fitting.append((f"prior {_name(file)}", bound.resolve(placement)))
        else:
            notes.append(f"The prior {file} is left out: {reason}")
    if not fitting:
        raise ConfigError(
            f"'--priors' must name placements of this space, but none of {path} is one: {notes[0].partition(': ')[2]}"
        )
    return fitting, notes


def _misfit(placement: Placement, bound: BoundSpace) -> str | None:
    """Return why a placement is not tried, in one sentence, or None."""
    try:
        resolved = bound.resolve(placement)
    except SpaceError as error:
        return str(error)
    if bound.params(resolved) is None:
        searched = {site.name for decision in bound.decisions for site in decision.sites}
        outside = [name for name in resolved.attentions if name not in searched]
        if outside:
            return f"{bound.space.where} does not search the site '{outside[0]}'."
        return f"{bound.space.where} does not have this combination of attentions and options: {resolved}."
    return bound.check(resolved)


def _files(path: Path) -> list[Path]:
    """Return the files with placements that a path means; a run folder has those of its arms.

    Raises: ConfigError if it has none.
    """
    if not path.is_dir():
        return [path]
    best = [path / name for name in (BEST, SO_FAR) if (path / name).is_file()][:1]
    arms = sorted((path / ARMS).glob("*.json")) or (sorted(path.glob("*.json")) if path.name == ARMS else [])
    if not best and not arms:
        raise ConfigError(
            f"'--priors' must name a JSON file with a placement or a run folder with a {BEST}, but {path} has none."
        )
    return [*best, *arms]


def _name(file: Path) -> str:
    """Return a short name of a file for the label of its trial: its run and its arm."""
    run = file.parent.parent if file.parent.name == ARMS else file.parent
    return "/".join(filter(None, (run.name, file.stem)))
