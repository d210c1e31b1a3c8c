"""The dashboard reads a run and never changes it, also while a driver writes."""

from __future__ import annotations

import http.client
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from sqlalchemy.pool import NullPool

from nas_attn.cli.dashboard import make_dashboard, open_read_only
from nas_attn.errors import ConfigError, RunError


@contextmanager
def driver(run: Path) -> Iterator[RDBStorage]:
    """A ledger in WAL mode with the studies of a run, held open as a live driver does."""
    run.mkdir(exist_ok=True)
    connect = partial(sqlite3.connect, run / "study.db", check_same_thread=False)
    storage = RDBStorage("sqlite://", engine_kwargs={"creator": connect, "poolclass": NullPool})
    with storage.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    for name in ("search", "final"):
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        add_trial(study)
    yield storage
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, RDBStorage, int]]:
    """A run under a live driver, whose path has odd characters, and the port of its dashboard."""
    run = tmp_path_factory.mktemp("runs") / "a b%20#1?{x}"
    with driver(run) as storage, serving(run) as port:
        yield run, storage, port


def add_trial(study: optuna.Study) -> None:
    trial = study.ask()
    trial.suggest_categorical("denseblock1.attention", ["none", "cbam"])
    trial.report(0.5, step=1)
    trial.set_user_attr("placement", "cbam at denseblock1")
    study.tell(trial, 0.75)


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


def test_it_shows_both_studies_with_their_trials(live):
    _, _, port = live
    status, body = ask(port, "GET", "/api/studies")
    names = [study["study_name"] for study in json.loads(body)["study_summaries"]]
    assert (status, names) == (200, ["search", "final"])
    status, body = ask(port, "GET", "/api/studies/1")
    trial = json.loads(body)["trials"][0]
    assert (status, trial["state"], trial["values"]) == (200, "Complete", [0.75])
    assert trial["user_attrs"] == [{"key": "placement", "value": "cbam at denseblock1"}]
    assert ask(port, "GET", "/dashboard")[0] == 200
    assert ask(port, "HEAD", "/dashboard") == (200, b"")


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
    before = contents(storage)
    status, answer = ask(port, method, path, body)
    assert status == 403
    assert f"read-only, because a search may be writing to the run: {method} is" in json.loads(answer)["reason"]
    assert contents(storage) == before
    add_trial(optuna.load_study(study_name="search", storage=storage))


def test_the_file_itself_is_opened_read_only(live):
    run, storage, _ = live
    before = contents(storage)
    viewer = open_read_only(run / "study.db")
    with pytest.raises(optuna.exceptions.StorageInternalError):
        viewer.delete_study(1)
    viewer.remove_session()
    assert contents(storage) == before


def test_it_answers_while_a_driver_writes_and_does_not_hold_it_up(live):
    _, storage, port = live
    study = optuna.load_study(study_name="search", storage=storage)
    answers: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            answers.append(ask(port, "GET", "/api/studies")[0])
            answers.append(ask(port, "GET", "/api/studies/1?after=0")[0])

    viewer = threading.Thread(target=look)
    viewer.start()
    while len(answers) < 6 and viewer.is_alive():
        add_trial(study)
    stop.set()
    viewer.join()
    with storage.engine.connect() as connection:
        busy, _, _ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    assert set(answers) == {200}
    assert busy == 0
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}


def test_a_finished_run_is_served(tmp_path):
    with driver(tmp_path / "run"):
        pass
    with serving(tmp_path / "run") as port:
        assert ask(port, "GET", "/api/studies/2")[0] == 200


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
