"""Time and memory of the arms, measured after the last training."""

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
from nas_attn.files import with_digest, write_json
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
    """Measure every arm that was not measured under these conditions before; return all, by placement key.

    The conditions are: the device of the trials, the number of threads of a trial, the image size and the batch size of
    the run. A driver without such a device (its workers run on a cluster) measures on its own CPU; the result names the
    device. An arm that cannot be measured (out of memory, for example) is stored with the reason.

    Raises: KeyboardInterrupt after a signal; the finished measurements are stored.
    """
    device = torch.device(allocation.device if allocation.device != "cuda" or torch.cuda.is_available() else "cpu")
    recipe = None if request.settings.train else request.settings.recipe  # the step of a custom training is unknown
    with interrupts.abruptly(), _threads(min(allocation.cpus, torch.get_num_threads())):
        conditions = bench_of(_batch_shape(request), device, optimizer=recipe.optimizer if recipe else None)
        known = folder.read_measured()
        todo = [placement for _, placement in stages.arms() if placement.key not in known.on(conditions)]
        none = _build(request, NONE) if todo else None
        for placement in sorted(todo, key=len):  # the report shows the conditions of the last measurement
            attempt = _attempt(request, placement, conditions, device, recipe, none)
            known = known.with_one(attempt)
            with interrupts.gently():
                write_json(folder.measured, with_digest(known.to_dict()))
        return known.on(conditions)


def _attempt(
    request: Request,
    placement: Placement,
    conditions: Bench,
    device: torch.device,
    recipe: Recipe | None,
    none: nn.Module | None,
) -> Attempt:
    try:
        model = _build(request, placement)
        beside = none if len(placement) else None
        measured = measure(model, conditions.shape, device, recipe=recipe, beside=beside)
        return Attempt(placement.key, conditions, measured)
    except Exception as error:  # the run has its result, whatever fails here
        log.warning("%s was not measured: %s", placement, error)
        reason = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {error}"
        return Attempt(placement.key, conditions, reason=" ".join(reason.split()))
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
    """Context manager: set the number of torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
