"""The table of placements under benchmarks/: what it holds, and that a sampler and a whole job run on it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from code_blocks import forget
from runs import ROOT

NAMES = ["tables", "regret", "placement_model", "simulated_job", "does_it_pay"]


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts, imported as they import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield {name: importlib.import_module(name) for name in NAMES}
    forget(NAMES)


def test_it_has_every_placement_once_with_its_curve_and_images(scripts):
    table = scripts["tables"].load_placements("lenet_mnist")
    assert len(set(table.codes)) == 4**4
    assert table.codes[0] == (0, 0, 0, 0)
    assert table.is_trained[:, :3].all()
    assert table.is_trained[table.everywhere].all(), "none and the everywhere arms have every seed"
    last = 100 * table.curves[table.is_trained][:, -1]
    assert last == pytest.approx(table.val_accuracy[table.is_trained], abs=1e-3), "the curve ends where the images say"
    assert table.val.shape[-1] == 1_000
    assert table.test.shape[-1] == 3_500
    assert [table.name(table.codes[row]) for row in table.everywhere] == [
        "none", "se everywhere", "cbam everywhere", "lska everywhere",
    ]  # fmt: skip
    assert len(table.n_parameters) == len(table.n_macs) == 256


def test_its_size_and_its_missing_parts_are_said(scripts, tmp_path):
    tables = scripts["tables"]
    assert all(path.stat().st_size < 2**20 for path in tables.FOLDER.glob("*.npz"))
    with pytest.raises(tables.NoTable, match=r"There is no table 'lenet_mnist' in .*: benchmarks/placement_table.py"):
        tables.load_placements("lenet_mnist", tmp_path)
    with pytest.raises(tables.NoTable, match=r"must be an .npz with `ops` and `accuracy`"):
        tables.load_table(str(tmp_path / "nothing.npz"))
    for words in (["nothing"], ["lenet_mnist", "--epoch", "16"]):
        with pytest.raises(SystemExit) as ended:
            scripts["regret"].main(words)
        assert ended.value.code == 2


def test_a_training_may_return_the_value_of_an_earlier_epoch(scripts):
    early, last = (scripts["tables"].load_table("lenet_mnist", epoch) for epoch in (8, None))
    assert early.truth == last.truth
    curves = scripts["tables"].load_placements("lenet_mnist").curves
    assert early.values[(0, 0, 0, 0)] == pytest.approx(100 * curves[0, :, 7])
    assert last.values[(0, 0, 0, 0)] == pytest.approx(100 * curves[0, :, 14])


def test_the_page_shows_its_numbers(scripts):
    page = (ROOT / "docs" / "table.md").read_text(encoding="utf-8")
    lines = list(scripts["tables"].summary(scripts["tables"].load_placements("lenet_mnist")))
    shown = [line for line in lines if line.startswith(("| lska", "| none", "| se", "| cbam", "| stage"))]
    assert len(shown) == 13
    assert [line for line in shown if line not in page] == []


def test_a_sampler_runs_on_it_and_regret_never_grows_in_worth_of_the_best(scripts):
    table = scripts["tables"].load_table("lenet_mnist")
    assert table.regret(max(table.truth, key=table.truth.get)) == 0.0
    regrets = scripts["regret"].Search(table, "random", 0).regrets(workers=8)
    assert len(regrets) == len(scripts["regret"].BUDGETS)
    assert all(0.0 <= regret < 80.0 for regret in regrets)


def test_a_replay_knows_the_truth_that_its_values_scatter_around(scripts):
    model = scripts["does_it_pay"].model("lenet_mnist")
    world = model.world(0, n_val=4_000, n_test=4_000)
    point = (3, 0, 0, 0)
    drawn = [world.train(point, "test").mean() for _ in range(40)]
    assert np.mean(drawn) == pytest.approx(world.worth(point), abs=0.012)
    assert 0.8 < model.shared < 0.9
    outcome = scripts["does_it_pay"].replay("lenet_mnist", "everywhere", 24, 0)
    assert outcome.found <= outcome.best
    assert outcome.advice in (0.0, outcome.found)
