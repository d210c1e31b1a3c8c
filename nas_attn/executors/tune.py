"""The executor `tune`: Ray Tune's workers, on this machine or on a cluster.

Opening the executor imports Ray, which reads its environment variables at import.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

from nas_attn.config import Resources, n_cores
from nas_attn.data.mapped import fits_in_memory
from nas_attn.executors.address import refuse_other_address
from nas_attn.executors.base import Job
from nas_attn.executors.interrupts import Interrupts
from nas_attn.executors.resources import Allocation, allocate, local_allocation
from nas_attn.training.context import TrialContext


class TuneExecutor:
    """Runs the tasks of a job in Ray Tune's workers; see `nas_attn.executors.base.Executor`."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._session = ExitStack()
        self._capacity: Allocation | None = None
        self._one_machine = True

    def check(self) -> None:
        """Refuse an address without a cluster or that asks for another token, or more resources than this machine has.

        The resources of a cluster are checked by `open`, unless this process has joined it already.
        """
        resources = self._resources
        if resources.address is not None:
            refuse_other_address(resources.address)
            from nas_attn.executors.ray_session import refuse_closed_cluster

            refuse_closed_cluster(resources.address)
        elif _has_joined():
            from nas_attn.executors.ray_session import cluster_allocation

            cluster_allocation(resources)
        elif resources.device in ("cuda", "mps") or resources.gpus_per_trial:
            local_allocation(resources)
        else:  # counts cores without importing torch, so that the first trial starts earlier
            allocate(resources, n_cores=n_cores(), n_gpus=0)

    def open(self, n_bytes: int = 0) -> None:
        """Start Ray, with room for what every worker reads, or connect to its cluster."""
        from nas_attn.executors.ray_session import ray_session

        self._one_machine = self._resources.address is None and not _has_joined()
        room = n_bytes if fits_in_memory(n_bytes) and not self._resources.data_on_nodes else 0
        self._capacity = self._session.enter_context(ray_session(self._resources, room))

    @property
    def capacity(self) -> Allocation:
        """The resources of the tasks."""
        assert self._capacity is not None, "the executor must be open"
        return self._capacity

    def run(self, job: Job, context: TrialContext, interrupts: Interrupts) -> None:
        """Run tasks until the job is finished."""
        from nas_attn.executors.nodes import Nodes
        from nas_attn.executors.shipping import ship
        from nas_attn.executors.tune_session import run_tune

        if job.is_finished:
            return  # Tune would wait ten minutes for a first trial before it calls its stopper
        shipped = ship(context, one_machine=self._one_machine, data_on_nodes=self._resources.data_on_nodes)
        is_elastic = self._resources.address is not None and self._resources.workers is None
        run_tune(job, shipped, context.timeout, Nodes(self.capacity, is_elastic=is_elastic), interrupts)

    def close(self) -> None:
        """Shut Ray down if `open` started it."""
        self._session.close()


def _has_joined() -> bool:
    """Return whether this process uses Ray already; finding that out never imports Ray."""
    if "ray" not in sys.modules:
        return False
    from nas_attn.executors.ray_session import is_running

    return is_running()
