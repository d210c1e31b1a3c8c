"""The dashboard shows a run in words, one study a stage; it reads the ledger, also a live one, and changes nothing."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from synthetic_run import failed, make_run

from nas_attn.cli import dashboard, dashboard_app
from nas_attn.cli.dashboard import beside, make_dashboard
from nas_attn.cli.dashboard_notes import drawing, plain
from nas_attn.cli.dashboard_studies import active
from nas_attn.errors import ConfigError, RunError
from nas_attn.placement import Attention, Placement
from nas_attn.records import Outcome, RunRecord
from nas_attn.report.verdict import verdict_of
from nas_attn.report.words import placement_words
from nas_attn.run.folder import load_run
from nas_attn.space.fit import Cost
from nas_attn.study.ledger import FINAL, SEARCH, Ledger, close_storage, open_storage
from nas_attn.study.storage.sqlite import open_read_only

CHOICES = {"b.attention": ("none", "se", "cbam"), "b.se.reduction": (4, 8), "b.cbam.kernel_size": (3, 7)}
MARKUP = "<img src=x onerror=alert(1)> *bold* [a](javascript:b)"


def planted() -> RunRecord:
    """A run in which se at denseblock2 matters most, with a failure whose reason is markup."""
    run = make_run(effects={("denseblock2", "se"): 0.03}, n_trials=20, n_seeds=3, messy=False)
    return replace(run, search=(*run.search[:-1], failed(run.search[-1], "error", MARKUP)))


@contextmanager
def driver(folder: Path, run: RunRecord) -> Iterator[RDBStorage]:
    """The ledger of a run in a folder, held open as a live driver does."""
    folder.mkdir(exist_ok=True)
    assert run.table is not None
    (folder / "config.json").write_text(json.dumps({**run.config, "sites": run.table.to_dict()}))
    storage = open_storage(folder / "study.db")
    search, final = Ledger(storage, SEARCH), Ledger(storage, FINAL)
    for row in run.search:
        if row.state == "fail":
            began = search.begin(row.stage, row.placement, row.seed, row.epochs, Cost(10, 20))
            search.finish(began.number, Outcome("fail", cause=row.cause, reason=row.reason))
        else:
            search.add(row, {})
    for row in (*run.confirm, *run.retrain):
        final.add(row, {})
    final.set_note("arms", {row.key: row.label for row in run.retrain})
    yield storage
    close_storage(storage)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, RDBStorage, int]]:
    """A run under a live driver, whose path has odd characters, and the port of its dashboard."""
    folder = tmp_path_factory.mktemp("runs") / "a b%20#1?{x}"
    with driver(folder, planted()) as storage, serving(folder) as port:
        yield folder, storage, port


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request looks at the ledger."""
    monkeypatch.setattr(dashboard_app, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(dashboard_app, "SHARE", 1e9)


@contextmanager
def serving(run: Path) -> Iterator[int]:
    with make_dashboard(run, host="127.0.0.1", port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def contents(storage: RDBStorage) -> list[tuple[str, int, int]]:
    studies = storage.get_all_studies()
    return [(study.study_name, study._study_id, len(storage.get_all_trials(study._study_id))) for study in studies]


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    text = None if body is None else json.dumps(body)
    connection.request(method, path, body=text, headers={"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def read(port: int, path: str) -> Any:
    status, body = ask(port, "GET", path)
    assert status == 200, body
    return json.loads(body)


def train(ledger: Ledger, placement: Placement, params: dict[str, Any], value: float) -> None:
    """One more trial, as a driver writes it."""
    row = ledger.begin("search", placement, 0, 2, Cost(10, 20), params=params, choices=CHOICES)
    ledger.report(row.number, 1, value)
    ledger.finish(row.number, Outcome("complete", value=value, seconds=1.0))


def test_each_stage_is_a_study_that_says_what_its_values_are(live):
    _, _, port = live
    names = [study["study_name"] for study in read(port, "/api/studies")["study_summaries"]]
    assert names == ["search", "confirm (validation)", "retrain (test)"]
    studies = [read(port, f"/api/studies/{number}") for number in range(3)]
    assert [study["objective_names"] for study in studies] == [
        ["validation accuracy"],
        ["validation accuracy"],
        ["test accuracy"],
    ]
    run = planted()
    for study, rows in zip(studies, (run.search, run.confirm, run.retrain), strict=True):
        shown = [trial.get("values") for trial in study["trials"]]
        assert shown == [None if row.value is None else [round(row.value, 5)] for row in rows]


def test_only_the_search_has_a_best_trial(live):
    _, _, port = live
    best = [read(port, f"/api/studies/{number}")["best_trials"] for number in range(3)]
    values = [row.value for row in planted().search if row.value is not None]
    assert [trial["values"] for trial in best[0]] == [[round(max(values), 5)]]
    assert best[1:] == [[], []]


def test_the_study_says_the_verdict_and_the_way_to_the_report(live):
    folder, _, port = live
    verdict = verdict_of(load_run(folder))
    for number in range(3):
        study = read(port, f"/api/studies/{number}")
        assert study["note"]["body"].startswith(f"# {verdict.title}")
        assert "The report is written when the run ends" in study["note"]["body"]
        facts = {fact["key"]: fact["value"] for fact in study["user_attrs"]}
        assert (facts["verdict"], facts["numbers"]) == (verdict.title, verdict.numbers)
        assert facts["report"] == "not written yet"
    status, body = ask(port, "GET", "/report")
    assert (status, json.loads(body)) == (404, {"reason": "The report is written when the run ends."})


def test_a_trial_says_its_placement_in_words_and_draws_it(live):
    _, _, port = live
    run, trials = planted(), read(port, "/api/studies/0")["trials"]
    assert trials[0]["note"][
        "body"
    ] == f"## no attention\n\nnone: seed 0, 30 epochs. {run.search[0].value:.2%}".replace("%", " % on validation.")
    trial, row = trials[1], run.search[1]
    assert trial["note"]["body"].startswith(f"## {placement_words(row.placement, run.table, 5)}")
    assert re.search(r"```\ndenseblock1  se  reduction 4\ntransition1 ", trial["note"]["body"])
    assert {"key": "placement", "value": placement_words(row.placement, run.table)} in trial["user_attrs"]


def test_markup_in_a_reason_stays_text(live):
    _, _, port = live
    note = read(port, "/api/studies/0")["trials"][-1]["note"]["body"]
    assert r"Failed (exception): \<img src=x onerror=alert\(1\)\> \*bold\* \[a\]\(javascript:b\)" in note
    assert plain("a\n# b") == r"a \# b"


def test_importance_is_that_of_what_was_there(live):
    _, _, port = live
    (bars,) = read(port, "/api/studies/0/param_importances")["param_importances"]
    assert bars[0]["name"] == "denseblock2.attention"
    assert {bar["name"] for bar in bars} == {
        f"{site}.attention" for site in ("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3")
    }
    assert sum(bar["importance"] for bar in bars) == pytest.approx(1.0)
    note = read(port, "/api/studies/0")["note"]["body"]
    assert re.search(r"\| denseblock2 \| se \| \+\d\.\d\d \| ", note)
    for number, factor in ((1, "placement"), (2, "arm")):
        (bars,) = read(port, f"/api/studies/{number}/param_importances")["param_importances"]
        assert [bar["name"] for bar in bars] == [factor, "seed"]
        assert all(0 < bar["importance"] < 1 for bar in bars)


def test_a_long_placement_is_drawn_without_its_empty_sites():
    run = make_run()
    row = replace(run.search[0], placement=Placement({"denseblock2": Attention("eca", {"kernel_size": None})}))
    searched = [f"site{number}" for number in range(40)]
    assert drawing(run, row, searched) == "denseblock2  eca  kernel_size auto"
    assert drawing(run, row, searched[:2]).splitlines()[1:] == ["site0        .", "site1        ."]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/studies/1", {}),
        ("POST", "/api/studies", {"study_name": "mine", "directions": ["maximize"]}),
        ("POST", "/api/studies/1/rename", {"study_name": "other"}),
        ("PUT", "/api/studies/1/note", {"version": 1, "body": "text"}),
        ("POST", "/api/trials/1/tell", {"state": "Fail"}),
        ("PATCH", "/api/studies/1", {}),
        ("delete", "/api/studies/1", {}),
    ],
)
def test_what_could_change_the_run_is_refused_and_the_run_stays_as_it_was(live, method, path, body):
    _, storage, port = live
    before = contents(storage), read(port, "/api/studies/1")
    status, answer = ask(port, method, path, body)
    assert status == 403
    assert f"read-only, because a search may be writing to the run: {method} is" in json.loads(answer)["reason"]
    assert (contents(storage), read(port, "/api/studies/1")) == before


def test_the_file_itself_is_opened_read_only(live):
    folder, storage, _ = live
    before = contents(storage)
    viewer = open_read_only(folder / "study.db")
    with pytest.raises(optuna.exceptions.StorageInternalError):
        viewer.delete_study(1)
    viewer.remove_session()
    assert contents(storage) == before


def test_what_is_asked_wrongly_is_answered_without_a_traceback(live, capfd):
    _, _, port = live
    assert ask(port, "GET", "/api/studies/99")[0] == 404
    assert ask(port, "GET", "/api/studies/0/plot/nothing")[0] == 404
    assert ask(port, "GET", "/api/studies/99/param_importances")[0] == 404
    assert ask(port, "GET", "/csv/99")[0] in (404, 500)
    with socket.create_connection(("127.0.0.1", port)) as impatient:
        impatient.sendall(b"GET /static/bundle.js HTTP/1.0\r\n\r\n")
    assert ask(port, "HEAD", "/dashboard") == (200, b"")
    assert capfd.readouterr() == ("", "")


def test_it_follows_a_driver_and_does_not_hold_it_up(tmp_path, at_once):
    with driver(tmp_path / "run", replace(planted(), search=(), confirm=(), retrain=())) as storage:
        ledger, answers = Ledger(storage, SEARCH), []
        with serving(tmp_path / "run") as port:
            assert read(port, "/api/studies") == {"study_summaries": []}
            stop = threading.Event()

            def look() -> None:
                while not stop.is_set():
                    answers.append(ask(port, "GET", "/api/studies")[0])
                    answers.append(ask(port, "GET", "/api/studies/0?after=0")[0])

            viewer = threading.Thread(target=look)
            viewer.start()
            params = {"b.attention": "se", "b.se.reduction": 4, "b.cbam.kernel_size": 3}
            deadline = time.monotonic() + 30
            while answers.count(200) < 8 and time.monotonic() < deadline:
                train(ledger, Placement({"denseblock1": Attention("se", {"reduction": 4})}), params, 0.5)
            stop.set()
            viewer.join()
            with storage.engine.connect() as connection:
                busy, _, _ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
            trials = read(port, "/api/studies/0")["trials"]
        assert set(answers) <= {200, 404}  # 404 before the first trial
        assert busy == 0
        assert len(trials) == len(ledger.records())
        assert [param["name"] for param in trials[-1]["params"]] == ["b.attention", "b.se.reduction"]


def test_parameters_without_effect_are_left_out():
    params = {"a.b.attention": "cbam", "a.b.position": "pre", "a.b.se.reduction": 4, "a.b.cbam.kernel_size": 3}
    assert active(params) == ["a.b.attention", "a.b.position", "a.b.cbam.kernel_size"]
    assert active({**params, "a.b.attention": "none"}) == ["a.b.attention"]
    assert active({"lr": 0.1}) == ["lr"]


def test_a_finished_run_is_served_with_its_report(root, tmp_path):
    finished = shutil.copytree(root / "tests" / "old_runs" / "finished", tmp_path / "run")  # of an earlier version
    with serving(finished) as port:
        assert len(read(port, "/api/studies/2")["trials"]) == 8
        assert "[Open the report](/report)" in read(port, "/api/studies/2")["note"]["body"]
        assert ask(port, "GET", "/report") == (200, (finished / "report.html").read_bytes())


def test_buttons_that_would_be_refused_are_hidden(live):
    _, _, port = live
    for path in ("/dashboard", "/dashboard/studies/1"):
        status, page = ask(port, "GET", path)
        assert status == 200
        assert b'button:has(svg[data-testid="DeleteIcon"])' in page


def test_beside_a_search_it_waits_for_the_ledger_and_ends_with_the_run(root, tmp_path):
    said: list[str] = []
    with beside(tmp_path / "run", said.append):
        (address,) = re.findall(r"^Dashboard until the run ends \(read-only\): (http://127\.0\.0\.1:\d+)/$", said[0])
        with urllib.request.urlopen(f"{address}/api/studies", timeout=60) as answer:
            assert json.load(answer) == {"study_summaries": []}
        shutil.copytree(root / "tests" / "old_runs" / "finished", tmp_path / "run")
        names: list[str] = []
        deadline = time.monotonic() + 30
        while not names and time.monotonic() < deadline:
            time.sleep(0.2)
            with urllib.request.urlopen(f"{address}/api/studies", timeout=60) as answer:
                names = [study["study_name"] for study in json.load(answer)["study_summaries"]]
        assert names == ["search", "confirm (validation)", "retrain (test)"]
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(f"{address}/api/studies", timeout=5)


def test_a_dashboard_that_dies_does_not_stop_the_run(tmp_path, monkeypatch, caplog):
    started = []
    popen = dashboard.subprocess.Popen
    monkeypatch.setattr(
        dashboard.subprocess, "Popen", lambda *words, **named: started.append(popen(*words, **named)) or started[0]
    )
    with beside(tmp_path / "run", lambda _: None):
        os.kill(started[0].pid, signal.SIGKILL)
        started[0].wait()
    assert "the dashboard ended early with exit code -9; the run is not affected" in caplog.text


def test_a_dashboard_that_cannot_start_does_not_stop_the_run(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("sys.executable", str(tmp_path / "nothing"))
    with beside(tmp_path / "run", said.append):
        said.append("the run")
    assert re.match("The run goes on without a dashboard, because none can be started: .*No such file", said[0])
    assert said[1:] == ["the run"]


def test_a_folder_without_a_ledger_is_refused_with_the_nearest_run(tmp_path):
    (tmp_path / "densenet_attn").mkdir()
    (tmp_path / "densenet_attn" / "study.db").touch()
    with pytest.raises(RunError, match=r"must contain study\.db, but .* has none: did you mean '.*densenet_attn'"):
        make_dashboard(tmp_path / "densenet_atn", host="127.0.0.1", port=0)
    assert not (tmp_path / "densenet_atn").exists()


def test_a_file_that_is_no_ledger_is_refused(tmp_path):
    (tmp_path / "study.db").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(RunError, match=r"must be a ledger that a search wrote, but it cannot be read"):
        make_dashboard(tmp_path, host="127.0.0.1", port=0)


def test_a_port_in_use_is_refused_with_the_way_out(live):
    run, _, port = live
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} is refused .*choose another --port"):
        make_dashboard(run, host="127.0.0.1", port=port)
