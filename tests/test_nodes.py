"""The nodes of a cluster: which is left out, which was lost, and how many trials have room; without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from nas_attn.executors import nodes as module
from nas_attn.executors.nodes import FAILURES, Nodes, request_of
from nas_attn.executors.resources import Allocation
from nas_attn.records import Outcome

ERROR = Outcome("fail", cause="error", reason="FileNotFoundError: no images.")


def node(name: str, cpus: float, *, gpus: float = 0.0, alive: bool = True) -> dict[str, Any]:
    return {
        "NodeID": name,
        "Alive": alive,
        "NodeManagerHostname": "host",
        "NodeManagerAddress": "10.0.0.1",
        "Resources": {"CPU": cpus, "GPU": gpus},
    }


@pytest.fixture
def cluster(monkeypatch):
    """A function that makes the nodes of a cluster; `found` is the cluster itself."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(module.ray, "nodes", lambda: list(found))
    monkeypatch.setattr(module, "_LOOK_SECONDS", -1.0)
    monkeypatch.setattr(module, "_answers", lambda member: member.get("answers", True))

    def make(
        *members: dict[str, Any], workers: int = 2, cpus: int = 1, gpus: float = 0.0, is_elastic: bool = True
    ) -> Nodes:
        found[:] = members
        return Nodes(Allocation(workers, cpus, gpus, "cuda" if gpus else "cpu"), is_elastic=is_elastic)

    make.found = found
    return make


def test_a_blind_node_is_left_out_as_soon_as_another_one_succeeds(cluster):
    nodes = cluster(node("good", 1), node("blind", 1))
    assert [nodes.excuses("blind", ERROR) for _ in range(FAILURES)] == [True] * FAILURES
    assert nodes.avoided == ("blind",)
    assert nodes.n_places == 1
    assert nodes.news() == []
    nodes.succeed("good")
    (sentence,) = nodes.news()
    assert sentence == (
        "Node host (10.0.0.1, id blind) is left out, because trials failed there and succeeded on others: "
        "FileNotFoundError: no images."
    )
    nodes.succeed("good")
    assert nodes.news() == [], "it is said once"
    assert nodes.excuses("blind", ERROR), "a task that was on its way there"


def test_five_quick_failures_on_one_node_are_no_failure_of_the_run(cluster):
    nodes = cluster(node("good", 1), node("blind", 8), workers=9)
    assert all(nodes.excuses("blind", ERROR) for _ in range(5))
    assert nodes.avoided == ("blind",)


def test_failures_on_every_node_are_those_of_the_training(cluster):
    nodes = cluster(node("a", 1), node("b", 1))
    excused = [nodes.excuses(name, ERROR) for _ in range(FAILURES + 1) for name in ("a", "b")]
    assert excused == [True] * (2 * FAILURES - 1) + [False] * 3
    assert nodes.avoided == ()
    assert nodes.n_places == 2


def test_a_node_that_succeeded_and_a_single_node_excuse_nothing(cluster):
    nodes = cluster(node("a", 1), node("b", 1))
    nodes.succeed("a")
    assert not nodes.excuses("a", ERROR)
    assert not cluster(node("a", 2)).excuses("a", ERROR)
    assert not nodes.excuses(None, ERROR)


@pytest.mark.parametrize("cause", ["oom", "nan", "timeout", "interrupted"])
def test_causes_of_the_training_are_not_the_nodes(cluster, cause):
    assert not cluster(node("a", 1), node("b", 1)).excuses("a", Outcome("fail", cause=cause, reason="x"))


def test_a_node_that_succeeds_after_a_failure_is_not_left_out(cluster):
    nodes = cluster(node("a", 1), node("b", 1))
    for _ in range(FAILURES):
        nodes.excuses("b", ERROR)
    nodes.succeed("b")
    nodes.succeed("a")
    assert nodes.avoided == ()
    assert nodes.news() == []


def test_a_lost_node_is_named_once_and_its_room_is_gone(cluster):
    nodes = cluster(node("a", 1), node("b", 2))
    assert nodes.n_places == 3
    assert not nodes.is_lost("b")
    cluster.found[1]["Alive"] = False
    assert nodes.is_lost("b")
    assert nodes.is_lost("b")
    assert nodes.news() == ["Node host (10.0.0.1, id b) was lost: its trials are run again on other nodes."]
    assert nodes.n_places == 1
    assert not nodes.is_lost(None)


def test_a_node_where_nothing_answers_is_lost_before_ray_notices_it(cluster):
    nodes = cluster(node("a", 1), {**node("b", 2), "answers": False})
    assert not nodes.is_lost("a")
    assert nodes.is_lost("b")


def test_a_node_that_leaves_between_trials_is_named(cluster):
    nodes = cluster(node("a", 1), node("b", 2))
    nodes.use("b")
    assert nodes.news() == []
    del cluster.found[1]
    assert nodes.news() == ["Node host (10.0.0.1, id b) was lost: its trials are run again on other nodes."]


def test_an_added_node_has_room_unless_the_number_of_workers_is_stated(cluster):
    nodes = cluster(node("a", 1))
    assert nodes.n_places == 1
    cluster.found.append(node("b", 4))
    assert nodes.n_places == 5
    assert cluster(node("a", 1), node("b", 4), workers=3, is_elastic=False).n_places == 3


def test_room_is_that_of_cores_and_gpus(cluster):
    assert cluster(node("a", 7), cpus=2).n_places == 3
    assert cluster(node("a", 16, gpus=4), cpus=1, gpus=0.5).n_places == 8
    assert cluster(node("a", 3, gpus=4), cpus=1, gpus=1.0).n_places == 3
    assert cluster(node("head", 0), node("a", 2)).n_places == 2


def test_a_trial_is_kept_away_from_the_avoided_nodes():
    assert request_of({}, cpus=2, gpus=0.0).bundles == [{"CPU": 2.0}]
    assert request_of({"avoided": ()}, cpus=1, gpus=0.5) == request_of({}, cpus=1, gpus=0.5)
    request = request_of({"avoided": ("a", "b")}, cpus=1, gpus=0.5)
    assert request.bundles == [{"CPU": 1.0, "GPU": 0.5}]
    assert request._kwargs == {"bundle_label_selector": [{"ray.io/node-id": "!in(a,b)"}]}
