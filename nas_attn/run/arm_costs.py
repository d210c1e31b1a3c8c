"""Time and memory of the final comparison's arms, measured once nothing trains any more."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from nas_attn.config import Recipe
from nas_attn.cost.measurement import bench_of, measure
from nas_attn.executors.interrupts import Interrupts
from nas_attn.executors.resources import Allocation
from nas_attn.files import write_json
from nas_attn.model.build import build
from nas_attn.placement import NONE, Placement
from nas_attn.records import Attempt, Bench
from nas_attn.run.folder import RunFolder
from nas_attn.run.request import Request
from nas_attn.study.stages import Stages
from nas_attn.training.loop import is_out_of_memory

log = logging.getLogger(__name__)


def measure_arms(
    request: Request, stages: Stages, folder: RunFolder, allocation: Allocation, interrupts: Interrupts
) -> Mapping[str, Attempt]:
    """Measure every arm that was not measured on this bench before; return all, by placement key.

    The bench is the device of the trials, with a trial's threads, at the run's image size and batch. A driver without
    such a device (its workers sit on a cluster) takes its own CPU: the device's name stands beside each figure. What
    cannot be measured, for lack of memory say, is kept with its reason.

    Raises: KeyboardInterrupt after a signal; what was measured is kept.
    """
    device = torch.device(allocation.device if allocation.device != "cuda" or torch.cuda.is_available() else "cpu")
    recipe = None if request.settings.train else request.settings.recipe  # how a user's own training steps is unknown
    with _threads(min(allocation.cpus, torch.get_num_threads())):
        bench = bench_of(_batch_shape(request), device, optimizer=recipe.optimizer if recipe else None)
        known = folder.read_measured()
        todo = [placement for _, placement in stages.arms() if placement.key not in known.on(bench)]
        none = _build(request, NONE) if todo else None
        for placement in sorted(todo, key=len):  # what is measured last decides what the report shows
            with interrupts.abruptly():
                attempt = _attempt(request, placement, bench, device, recipe, none)
            known = known.with_one(attempt)
            write_json(folder.measured, known.to_dict())
    return known.on(bench)


def _attempt(
    request: Request,
    placement: Placement,
    bench: Bench,
    device: torch.device,
    recipe: Recipe | None,
    none: nn.Module | None,
) -> Attempt:
    try:
        model = _build(request, placement)
        beside = none if len(placement) else None
        measured = measure(model, bench.shape, device, recipe=recipe, beside=beside)
        return Attempt(placement.key, bench, measured)
    except Exception as error:  # whatever goes wrong here, the run has its result
        log.warning("%s was not measured: %s", placement, error)
        reason = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {error}"
        return Attempt(placement.key, bench, reason=" ".join(reason.split()))
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _build(request: Request, placement: Placement) -> nn.Module:
    return build(request.backbone, placement, request.shape, seed=request.settings.engine.seed)


def _batch_shape(request: Request) -> tuple[int, int, int, int]:
    size = request.shape.image_size
    return (request.settings.recipe.batch_size, request.shape.in_channels, size, size)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Let torch use so many threads while this is entered."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
