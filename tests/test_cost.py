"""Time and memory: what is measured, what counts, how a run keeps it, and how its report shows it."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from nas_attn.config import Recipe
from nas_attn.cost.measurement import TURNS, measure
from nas_attn.cost.memory import peak_bytes
from nas_attn.executors.interrupts import Interrupts
from nas_attn.executors.resources import Allocation
from nas_attn.files import with_digest, write_json
from nas_attn.macs import counted_macs
from nas_attn.placement import Placement
from nas_attn.records import Attempt, Bench, Measured, Measurements
from nas_attn.report.csv_files import BENCH_COLUMNS, MEASURED_COLUMNS, arms_csv
from nas_attn.report.page import render
from nas_attn.run.arm_costs import measure_arms
from nas_attn.run.folder import RunFolder
from nas_attn.run.request import bind, read_settings
from tests.runs import tiny_space
from tests.synthetic_run import make_run

CPU = torch.device("cpu")
BENCH = Bench("A device", 2, "float32", (32, 1, 8, 8), "sgd", "2.15.0")


def _measured(ratio: float | None = None, bench: Bench = BENCH) -> Measured:
    return Measured(bench, 4.0, 0.1, ratio, 9, 0.5, 0.01, 1_000_000, 8_000_000)


def _wide(n_layers: int) -> nn.Module:
    return nn.Sequential(*(nn.Conv2d(3, 3, 7, padding=3) for _ in range(n_layers)), nn.Flatten(), nn.LazyLinear(5))


def test_a_network_is_measured_in_turns_and_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 5))
    net[1].eval()
    modes = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}

    found = measure(net, (2, 3, 8, 8), recipe=Recipe(optimizer="adam"), seconds=0.02)

    assert 0 < found.latency_ms < 10_000
    assert found.latency_spread_ms >= 0
    assert 0 < found.image_ms < 10_000
    assert 3 <= found.n_turns <= TURNS
    assert found.latency_ratio is None
    assert found.training_bytes is not None
    assert found.training_bytes > found.forward_bytes > 0
    assert (found.bench.shape, found.bench.optimizer, found.bench.precision) == ((2, 3, 8, 8), "adam", "float32")
    assert found.bench.threads == torch.get_num_threads()
    assert found.bench.device
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_slower_network_takes_the_larger_share_of_the_turns() -> None:
    short, long = _wide(1), _wide(24)
    long(torch.zeros(1, 3, 32, 32)), short(torch.zeros(1, 3, 32, 32))
    assert (measure(long, (4, 3, 32, 32), beside=short).latency_ratio or 0) > 2
    assert (measure(short, (4, 3, 32, 32), beside=long).latency_ratio or 9) < 0.5


def test_memory_is_the_same_in_every_measurement() -> None:
    net = _wide(2)
    net(torch.zeros(1, 3, 16, 16))
    first, second = (measure(net, (4, 3, 16, 16), recipe=Recipe(), seconds=0.0) for _ in range(2))
    assert (first.forward_bytes, first.training_bytes) == (second.forward_bytes, second.training_bytes)


def test_a_pass_holds_weights_images_and_the_two_maps_that_one_layer_needs() -> None:
    net = nn.Sequential(*(nn.Conv2d(2, 2, 1, bias=False) for _ in range(5)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    one_map, weights = 4 * (3 * 2 * 16 * 16), 4 * 5 * 4
    assert measure(net, (3, 2, 16, 16), seconds=0.0).forward_bytes == weights + 3 * one_map


@pytest.mark.parametrize(("optimizer", "n_copies"), [("sgd", 3), ("adam", 4)])
def test_a_training_step_holds_weights_gradients_and_the_optimisers_state(optimizer: str, n_copies: int) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(128 * 128, 30))
    n_bytes = 4 * sum(parameter.numel() for parameter in net.parameters())
    images = 4 * 2 * 128 * 128
    found = measure(net, (2, 1, 128, 128), recipe=Recipe(optimizer=optimizer), seconds=0.0)
    assert found.training_bytes == pytest.approx(n_copies * n_bytes + images, rel=0.02)


def test_everything_kept_for_the_backward_pass_counts() -> None:
    net = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Conv2d(2, 2, 1), nn.Sigmoid())))
    net.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten())
    one_map = 4 * (8 * 2 * 32 * 32)  # kept: the images and six sigmoids' outputs; two gradients come on top
    found = measure(net, (8, 2, 32, 32), recipe=Recipe(), seconds=0.0)
    assert found.training_bytes is not None
    assert 9 * one_map < found.training_bytes < 9.1 * one_map
    assert found.forward_bytes < 4 * one_map


def test_a_view_counts_once_and_a_freed_tensor_no_more() -> None:
    held = torch.zeros(100)

    def compute() -> None:
        first = torch.zeros(1000)
        views = [first.view(10, 100), first[5:], first.t()]
        del first, views
        second = held + 1
        second.add_(1)

    assert peak_bytes(compute, lambda: [held, held.view(10, 10)], CPU) == 4 * (100 + 1000)
    assert peak_bytes(lambda: None, lambda: [held], CPU) == 4 * 100


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (lambda a: a @ a[0], 64),
        (lambda a: torch.addmv(a[0], a, a[0]), 64),
        (lambda a: a[0] @ a[1], 8),
        (lambda a: torch.addbmm(a, torch.stack([a, a]), torch.stack([a, a])), 2 * 8**3),
        (lambda a: torch.einsum("ij,jk->ik", a, a), 8**3),
        (lambda a: torch.baddbmm(a[None], a[None], a[None]), 8**3),
        (lambda a: nn.functional.scaled_dot_product_attention(a[None, None], a[None, None], a[None, None]), 2 * 8**3),
        (lambda a: nn.functional.conv2d(a[None, None], a[None, None, :3, :3]), 6 * 6 * 9),
        (lambda a: a * a + a.sum(), 0),
    ],
)
def test_every_product_is_counted(compute, expected: int) -> None:
    a = torch.randn(8, 8)
    assert counted_macs(lambda: compute(a)) == expected


def test_measurements_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_measured() == Measurements()
    kept = Measurements((Attempt("a", BENCH, _measured(1.5)), Attempt("b", BENCH, reason="out of memory")))
    write_json(folder.measured, with_digest(kept.to_dict()))
    assert folder.read_measured() == kept


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"measured": [{"key": "a"}]}', '{"measured": [3]}'])
def test_a_damaged_file_of_measurements_is_made_again(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    folder.measured.write_text(content)
    assert folder.read_measured() == Measurements()
    assert "measured.json is truncated or altered: the costs of the arms are measured again." in caplog.text


def test_what_was_measured_elsewhere_is_never_shown_beside_what_was_measured_last() -> None:
    other = replace(BENCH, device="Another device")
    known = Measurements((Attempt("a", BENCH, _measured()),)).with_one(Attempt("b", other, _measured(bench=other)))
    assert set(known.newest()) == {"b"}
    assert set(known.on(BENCH)) == {"a"}
    assert Measurements().newest() == {}


class _Broken(nn.Module):
    """Fails on batches, as a network does that does not fit into memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 32:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.head(self.conv(x).mean((2, 3)))


def _arms(request, folder: Path, *placements: Placement):
    stages = SimpleNamespace(arms=lambda: [(str(placement), placement) for placement in placements])
    return measure_arms(request, stages, RunFolder(folder), Allocation(1, 1, 0, "cpu"), Interrupts())


def test_the_arms_of_a_run_are_measured_once_on_one_bench(tmp_path: Path) -> None:
    request = bind(read_settings({"space": tiny_space(tmp_path), "out": tmp_path / "run", "batch_size": 8}))
    none, se = Placement(), Placement.from_dict({"denseblock1": {"name": "se", "reduction": 2}})
    (tmp_path / "run").mkdir()

    first = _arms(request, tmp_path / "run", none, se)

    assert list(first) == [none.key, se.key]
    assert first[none.key].measured is not None
    assert first[none.key].measured.latency_ratio is None
    assert first[se.key].measured is not None
    assert first[se.key].measured.latency_ratio is not None
    assert first[se.key].bench.shape == (8, 1, 8, 8)
    assert _arms(request, tmp_path / "run", none, se) == first, "nothing is measured twice"
    larger = bind(read_settings({"space": tiny_space(tmp_path), "out": tmp_path / "run", "batch_size": 16}))
    assert _arms(larger, tmp_path / "run", none)[none.key].bench.shape == (16, 1, 8, 8)


def test_what_cannot_be_measured_is_kept_with_its_reason_and_ends_no_run(tmp_path: Path) -> None:
    request = SimpleNamespace(
        backbone=_Broken,
        shape=SimpleNamespace(num_classes=10, in_channels=1, image_size=8),
        settings=SimpleNamespace(train=None, recipe=Recipe(batch_size=64), engine=SimpleNamespace(seed=0)),
    )
    found = _arms(request, tmp_path, Placement())[Placement().key]
    assert (found.measured, found.reason) == (None, "out of memory")
    assert _arms(request, tmp_path, Placement())[Placement().key] == found


def test_the_report_shows_what_was_measured_where_and_what_could_not_be(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    keys = {row.label: row.key for row in run.retrain}
    attempts = {key: Attempt(key, BENCH, _measured(1.25)) for key in keys.values()}
    attempts[keys["none"]] = Attempt(keys["none"], BENCH, _measured())
    attempts[keys["gam everywhere"]] = Attempt(keys["gam everywhere"], BENCH, reason="out of memory")
    run = replace(run, measured=attempts)

    text = re.sub(r"<[^>]+>", "", render(run))
    rows = {row["arm"]: row for row in csv.DictReader(io.StringIO(arms_csv(run)))}

    assert "5 ms +25 %" in text, "the time of none, 4 ms, times the ratio of alternating turns"
    assert float(rows["se everywhere"]["latency_ms"]) == 5.0
    assert "Measured on A device, 2 threads, float32, torch 2.15.0" in text
    assert "gam everywhere could not be measured: out of memory." in text
    assert "the state of sgd" in text
    assert float(rows["se everywhere"]["latency_ratio"]) == 1.25
    assert float(rows["none"]["training_bytes"]) == 8_000_000
    assert (rows["none"]["device"], rows["none"]["batch_size"], rows["none"]["threads"]) == ("A device", "32", "2")
    assert (rows["gam everywhere"]["latency_ms"], rows["gam everywhere"]["not_measured"]) == ("", "out of memory")


def test_a_run_of_an_older_version_is_reported_without_time_and_memory(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    text = re.sub(r"<[^>]+>", "", render(run))
    row = next(csv.DictReader(io.StringIO(arms_csv(run))))
    assert "What they cost" in text
    assert "Measured on" not in text
    assert {row[name] for name in (*MEASURED_COLUMNS, *BENCH_COLUMNS)} == {""}


def test_times_that_moved_much_are_called_so(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    shaky = replace(_measured(), latency_spread_ms=2.0)
    run = replace(run, measured={row.key: Attempt(row.key, BENCH, shaky) for row in run.retrain})
    assert "The interquartile range of an arm's times is up to 50 %" in re.sub(r"<[^>]+>", "", render(run))
