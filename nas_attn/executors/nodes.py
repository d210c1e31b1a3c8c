"""The nodes of a Ray cluster during a run: what ends there, which is left out, and how many trials have room."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ray
from ray import tune

from nas_attn.executors.resources import Allocation, n_trials_on
from nas_attn.records import Outcome

FAILURES = 2
"""Number of failures on a node where no trial has succeeded, after which it gets no trial while others are tried."""

_LOOK_SECONDS, _MOST_PLACES = 2.0, 10_000
_ANSWER_SECONDS = 1.0
_LABEL = "ray.io/node-id"
_OF_A_NODE = ("error", "crashed")
"""Causes of a failure that may lie in a node: what it lacks, rather than what is trained."""


class Nodes:
    """Knows the nodes on which trials succeed and fail.

    A failure on a node where nothing has succeeded yet may be the node's: the task is run again on another one. As soon
    as a trial succeeds elsewhere, a node with failures alone is left out; if trials fail on every node, the failures
    are the training's.

    Args:
        capacity: The resources of a trial, and the number of trials of the nodes at the beginning.
        is_elastic: Whether as many trials run as the nodes have room for, also those that join later.
    """

    def __init__(self, capacity: Allocation, *, is_elastic: bool) -> None:
        self._capacity, self._is_elastic = capacity, is_elastic
        self._alive: dict[str, Mapping[str, Any]] = {}
        self._names: dict[str, str] = {}
        self._looked = 0.0
        self._successes: set[str] = set()
        self._failures: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self._left_out: set[str] = set()
        self._sentences: list[str] = []
        self._lost: set[str] = set()
        self._used: set[str] = set()

    @property
    def are_several(self) -> bool:
        """Whether trials have more than one node to run on."""
        return len(self._look()) > 1

    @property
    def n_places(self) -> int:
        """Number of trials that may run now."""
        if not self._is_elastic:
            return self._capacity.workers
        places = (self._places(node) for name, node in self._look().items() if name not in self.avoided)
        return max(1, sum(places))

    @property
    def most(self) -> int:
        """Largest number of trials that may ever run at the same time."""
        return _MOST_PLACES if self._is_elastic else self._capacity.workers

    @property
    def request(self) -> Callable[[dict[str, Any]], tune.PlacementGroupFactory]:
        """The resources of a trial by its config; Tune pickles the function."""
        return partial(request_of, cpus=self._capacity.cpus, gpus=self._capacity.gpus)

    @property
    def avoided(self) -> tuple[str, ...]:
        """The ids of the nodes that get no trial: those that failed, as long as another one is left."""
        failed = {name for name, number in self._failures.items() if number >= FAILURES}
        return tuple(sorted(failed)) if self._look().keys() - failed else ()

    def use(self, node: str) -> None:
        """Take note of a node on which a trial runs."""
        self._used.add(node)

    def succeed(self, node: str | None) -> None:
        """Take note of a trial that a node brought to its end."""
        if node is None:
            return
        self._successes.add(node)
        self._failures.pop(node, None)
        for name in sorted(self._failures.keys() - self._left_out):
            if self._failures[name] >= FAILURES:
                self._left_out.add(name)
                self._sentences.append(
                    f"Node {self.name(name)} is left out, because trials failed there and succeeded on others: "
                    f"{self._reasons[name].rstrip('.')}."
                )

    def excuses(self, node: str | None, outcome: Outcome) -> bool:
        """Return whether a failure may be the node's, so that another node runs the task."""
        if node is None or outcome.state != "fail" or outcome.cause not in _OF_A_NODE or node in self._successes:
            return False
        self._failures[node] += 1
        self._reasons[node] = str(outcome.reason)
        others = self._look().keys() - {node}
        return any(self._failures[other] < FAILURES for other in others)

    def is_lost(self, node: str | None) -> bool:
        """Return whether a node has left the cluster, so that what it ran is run again on another one.

        Ray needs up to a minute to notice it, but nothing answers at the node any more.
        """
        if node is None:
            return False
        member = self._look(at_once=True).get(node)
        if member is not None and _answers(member):
            return False
        self._tell_lost(node)
        return True

    def _tell_lost(self, node: str) -> None:
        if node not in self._lost:
            self._lost.add(node)
            self._sentences.append(f"Node {self.name(node)} was lost: its trials are run again on other nodes.")

    def news(self) -> list[str]:
        """Return what the user should read since the last call, a sentence each."""
        for node in self._used - self._look().keys():
            self._tell_lost(node)
        sentences, self._sentences = self._sentences, []
        return sentences

    def name(self, node: str) -> str:
        """Return a node as a reader knows it: its host and address, and the beginning of its id."""
        return self._names.get(node, node[:8])

    def _look(self, *, at_once: bool = False) -> Mapping[str, Mapping[str, Any]]:
        """Return the living nodes by id, as they were two seconds ago at most."""
        if at_once or not self._alive or time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            found = ray.nodes()
            self._alive = {node["NodeID"]: node for node in found if node["Alive"] and self._places(node)}
            for node in found:
                host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
                self._names.setdefault(node["NodeID"], f"{host} ({address}, id {node['NodeID'][:8]})")
        return self._alive

    def _places(self, node: Mapping[str, Any]) -> int:
        """Return how many trials fit on a node."""
        found = node["Resources"]
        by_cpus = int(found.get("CPU", 0) // self._capacity.cpus)
        gpus = self._capacity.gpus
        return min(by_cpus, n_trials_on(int(found.get("GPU", 0)), gpus)) if gpus else by_cpus


def _answers(node: Mapping[str, Any]) -> bool:
    """Return whether the raylet of a node accepts a connection."""
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), _ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def request_of(config: Mapping[str, Any], *, cpus: int, gpus: float) -> tune.PlacementGroupFactory:
    """Return the resources of a trial, which keep it away from the nodes that its config names as `avoided`."""
    avoided = config.get("avoided", ())
    bundles = [{"CPU": cpus, **({"GPU": gpus} if gpus else {})}]
    if not avoided:
        return tune.PlacementGroupFactory(bundles)
    selector = {_LABEL: f"!in({','.join(avoided)})"}
    return tune.PlacementGroupFactory(bundles, bundle_label_selector=[selector])
