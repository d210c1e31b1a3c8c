"""Latency and memory of the searched networks, measured by the driver before their training, each placement once."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas_attn.placement import NONE, Placement
from nas_attn.records import TrialRecord
from nas_attn.run.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

    from nas_attn.executors.resources import Allocation

LATENCY_NOTE = "latency of no attention"
"""Name of the ledger's note with the latency that all ratios are multiplied by, and its conditions."""

log = logging.getLogger(__name__)


class NetworkValues:
    """Measures `latency` (ms) and `memory` (bytes) of a network for one image, in evaluation mode.

    The latency of the network without attention is measured once, before the first trial, while nothing else runs.
    That of any other is its ratio to this network, measured in alternating turns, times that latency: what else runs
    on the machine then slows both down alike. It needs no worker; a driver without the device of the trials measures
    on its own CPU.

    Args:
        records: Rows of an earlier session, whose measured values are used again.
        note: The note `LATENCY_NOTE` of the ledger; empty in a new run.
        store: Stores that note.
    """

    def __init__(
        self,
        request: Request,
        records: Iterable[TrialRecord],
        note: Mapping[str, Any],
        store: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._request, self._store, self._note = request, store, dict(note)
        names = {goal.name for goal in request.objectives}
        self._needed: list[str] = [name for name in ("latency", "memory") if name in names]
        if request.settings.engine.max_latency is not None and "latency" not in self._needed:
            self._needed.append("latency")
        self._known: dict[str, Mapping[str, float]] = {}
        self._bare: nn.Module | None = None
        for row in records:
            found: dict[str, float] = {name: n for name in self._needed if (n := _stored(row, name)) is not None}
            if len(found) == len(self._needed):
                self._known[row.key] = found

    def begin(self, allocation: Allocation) -> None:
        """Measure the network without attention, while nothing else runs, unless an earlier session did."""
        if "latency" not in self._needed or self._note:
            return
        import torch

        from nas_attn.cost.measurement import bench_of, image_latency, turned_to

        device = _device(allocation.device)
        with turned_to(allocation.cpus):
            latency, _ = image_latency(self._build(NONE), self._shape, device, seconds=1.0)
            bench = bench_of(self._shape, torch.device(device), optimizer=None)
        self._note = {"ms": latency, "device": device, "threads": bench.threads, "name": bench.device}
        self._store(self._note)
        log.info("the network without attention takes %.4g ms for one image on %s", latency, bench.device)

    def __call__(self, placement: Placement) -> Mapping[str, float]:
        """Return the values of a placement's network; one that cannot be measured has infinite ones."""
        if placement.key not in self._known:
            try:
                self._known[placement.key] = self._measured(placement)
            except Exception as error:  # the network is the user's, and may fail in any way
                log.warning("%s could not be measured, so it is not trained: %s", placement, error)
                self._known[placement.key] = dict.fromkeys(self._needed, math.inf)
        return self._known[placement.key]

    def _measured(self, placement: Placement) -> dict[str, float]:
        from nas_attn.cost.measurement import image_latency, image_memory, turned_to

        device, found = str(self._note.get("device", "cpu")), dict[str, float]()
        model = self._build(placement)
        with turned_to(int(self._note.get("threads", 1))):
            if "memory" in self._needed:
                found["memory"] = float(image_memory(model, self._shape, device))
            if "latency" in self._needed:
                self._bare = self._bare or self._build(NONE)
                ratio = 1.0 if not len(placement) else image_latency(model, self._shape, device, beside=self._bare)[1]
                found["latency"] = ratio * float(self._note["ms"])
        return found

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        size = self._request.shape.image_size
        return (1, self._request.shape.in_channels, size, size)

    def _build(self, placement: Placement) -> nn.Module:
        from nas_attn.model.build import build

        request = self._request
        return build(request.backbone, placement, request.shape, seed=request.settings.engine.seed)


def _stored(row: TrialRecord, name: str) -> float | None:
    value = row.values.get(name, row.facts.get(name))
    return value if value is not None and math.isfinite(value) else None


def _device(wanted: str) -> str:
    """Return the device of the trials where this process has it, else the CPU."""
    import torch

    return "cpu" if wanted == "cuda" and not torch.cuda.is_available() else wanted
