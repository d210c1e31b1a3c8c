"""The ledger in a PostgreSQL database: shared, locked, killed and restarted; and what is refused in one sentence."""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine import RECORD
from postgres_server import PASSWORD, QUOTED, Server, running_server
from sqlalchemy.exc import OperationalError

from nas_attn import load_run, search
from nas_attn.cli.commands import main
from nas_attn.cli.dashboard_studies import copy_run
from nas_attn.errors import ConfigError, Interrupted, RunError, RunStopped
from nas_attn.placement import NONE
from nas_attn.records import Outcome
from nas_attn.run.progress import SilentDisplay
from nas_attn.space.fit import Cost
from nas_attn.space.search_space import SearchSpace
from nas_attn.study.ledger import SEARCH
from nas_attn.study.storage import patience
from nas_attn.study.storage.patience import Patience
from nas_attn.study.store import Place, open_store

SPACE = {
    **RECORD,
    "backbone": {"name": "densenet", "growth_rate": 4, "block_config": [1, 1], "stem": "small"},
    "sites": [{"match": ["denseblock2"], "attentions": ["se"]}],
    "attentions": {"se": {"reduction": [1, 2, 4, 8]}},
}
SMALL = {"num_classes": 10, "in_channels": 1, "image_size": 8, "epochs": 2, "seeds": 1, "top": 1, "controls": 0}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as found:
        yield found


@pytest.fixture
def database(server: Server, request: pytest.FixtureRequest) -> str:
    name = f"of_{abs(hash(request.node.name)):x}"
    server.execute(f"CREATE DATABASE {name}")
    return name


class Heard(SilentDisplay):
    """Keeps what it is told to say."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def train(model: Any, run: Any) -> float:
    for epoch in (1, 2):
        run.report(epoch, 0.25 * epoch)
    return 0.5


def searched(out: Path, storage: str | None, training: Any = train, *, display: Any = None, trials: int = 3) -> Any:
    space = SearchSpace.from_dict(SPACE, where="t")
    more = {"storage": storage, "trials": trials, "executor": "local", "same_training": True}
    return search(space, training, out, display=display, **more, **SMALL)


def texts(folder: Path) -> str:
    """Return the content of all files of a run as one text."""
    return "\n".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


@pytest.mark.nightly
def test_runs_share_a_database_under_their_names_without_a_password_anywhere(tmp_path, server, database, capfd):
    address = server.address(database)
    runs = [searched(tmp_path / folder / "run", address) for folder in "ab"]
    names = [row[0] for row in server.execute("SELECT study_name FROM studies ORDER BY study_id", database)]
    assert len(names) == len(set(names)) == 4, "two runs of one name have two studies each"
    assert all(name.startswith("run-") for name in names)
    for run in runs:
        assert not (run.folder / "study.db").exists()
        assert len({row.key for row in run.search}) >= 3
        stored = json.loads((run.folder / "config.json").read_text())["storage"]
        assert stored["url"] == f"postgresql+psycopg://driver@127.0.0.1:{server.port}/{database}"
        assert stored["name"] in {name.split("/")[0] for name in names}
        shown = texts(run.folder)
        assert PASSWORD not in shown
        assert QUOTED not in shown
    printed = "".join(capfd.readouterr())
    assert PASSWORD not in printed
    assert QUOTED not in printed


@pytest.mark.nightly
def test_a_run_is_read_by_a_role_that_may_only_read_and_is_resumed(tmp_path, server, database, monkeypatch):
    out = tmp_path / "run"
    before = searched(out, server.address(database))
    server.execute(f"CREATE ROLE reader_{database} LOGIN PASSWORD '{PASSWORD}'")
    server.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{database}", database)
    monkeypatch.setenv("NAS_ATTN_STORAGE", server.address(database, f"reader_{database}"))
    run = load_run(out)
    assert [(row.key, row.value, row.curve) for row in run.search] == [
        (row.key, row.value, row.curve) for row in before.search
    ]
    assert len(copy_run(out).storage.get_all_trials(0)) == len(run.search)
    assert main(["report", str(out)]) == 0
    more = searched(out, server.address(database), trials=4)
    assert len({row.key for row in more.search}) >= 4
    assert more.search[: len(run.search)] == run.search


def test_rows_survive_a_server_that_is_killed_and_started_again(tmp_path, server, database):
    heard = Heard()
    store = open_store(Place(tmp_path, server.address(database), "run-1"), note=heard.say)
    ledger = store.ledger(SEARCH)
    store.claim(ledger)
    for number in range(4):
        assert ledger.begin("search", NONE, number, 2, Cost(1, 1)).number == number
        ledger.report(number, 1, 0.25)
        if number in (1, 2):
            server.kill()
            threading.Timer(0.3, server.start).start()
        ledger.report(number, 2, 0.5)
        ledger.finish(number, Outcome("complete", 0.5))
    rows = store.ledger(SEARCH).records()
    store.close()
    assert [(row.number, row.seed, row.state, dict(row.curve)) for row in rows] == [
        (number, number, "complete", {1: 0.25, 2: 0.5}) for number in range(4)
    ]
    assert ["waiting" in sentence for sentence in heard.said] == [True, False, True, False]


def test_a_fault_that_passes_is_waited_for_with_growing_pauses_until_the_user_ends_it(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(patience, "STEP", 100.0)
    monkeypatch.setattr(patience.time, "sleep", slept.append)
    clock = iter(range(0, 10**6, 1))
    monkeypatch.setattr(patience.time, "monotonic", lambda: sum(slept) + next(clock) * 1e-9)

    def locked() -> None:
        raise OperationalError("SELECT", {}, sqlite3.OperationalError("database is locked"))

    with pytest.raises(RunStopped, match=r"The ledger study\.db has not answered for 100 s \(database is locked\)"):
        Patience("study.db", 100.0).keep(locked)
    assert [round(pause, 3) for pause in slept] == [0.5, 1, 2, 4, 8, 16, 30, 30, 8.5]
    ended = Patience("study.db", 100.0, is_ended=lambda: len(slept) > 11)
    for _ in range(2):
        with pytest.raises(Interrupted, match=r"Interrupted while study\.db did not answer: the same command resumes"):
            ended.keep(locked)
    with pytest.raises(RunStopped, match="must be readable and writable, but: no such table"):
        Patience("study.db").keep(missing)


def missing() -> None:
    raise OperationalError("SELECT", {}, sqlite3.OperationalError("no such table: trials"))


@pytest.mark.nightly
def test_a_server_that_is_killed_and_started_again_loses_and_repeats_nothing(tmp_path, server, database):
    display, killed = Heard(), threading.Event()

    def training(model: Any, run: Any) -> float:
        if run.number == 2 and not killed.is_set():
            run.report(1, 0.25)
            killed.set()
            server.kill()
            threading.Timer(1.5, server.start).start()
            run.report(2, 0.5)
            return 0.5
        return train(model, run)

    run = searched(tmp_path / "run", server.address(database), training, display=display)
    assert killed.is_set()
    assert [row.number for row in run.search] == list(range(len(run.search)))
    assert {row.state for row in (*run.search, *run.confirm, *run.retrain)} == {"complete"}
    assert all(dict(row.curve) == {1: 0.25, 2: 0.5} for row in run.search if row.answered_from is None)
    trained = Counter(row.identity for row in (*run.search, *run.confirm, *run.retrain) if row.answered_from is None)
    assert max(trained.values()) == 1, "nothing is trained twice"
    assert len(display.said) == 2
    assert "does not answer" in display.said[0]
    assert "going on" in display.said[1]
    assert display.said[0] in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.nightly
def test_waiting_ends_with_one_sentence_and_the_same_command_resumes(tmp_path, server, database, monkeypatch):
    monkeypatch.setattr(patience, "LONGEST", 0.6)
    monkeypatch.setattr(patience.Patience.__init__, "__defaults__", (0.6,))

    def training(model: Any, run: Any) -> float:
        if run.number == 2:
            server.kill()
        return train(model, run)

    out = tmp_path / "run"
    try:
        with pytest.raises(
            RunStopped, match=r"The ledger postgresql.* has not answered for .* the same command resumes"
        ):
            searched(out, server.address(database), training)
    finally:
        server.start()
    run = searched(out, server.address(database))
    assert len({row.key for row in run.search if row.state == "complete"}) >= 3
    rows = (*run.search, *run.confirm, *run.retrain)
    assert {row.cause for row in rows if row.state == "fail"} <= {"interrupted"}
    assert "running" not in {row.state for row in rows}


def test_the_lock_is_the_databases_own_and_drops_with_its_connection(server, database):
    from nas_attn.study.storage.postgresql import open_for_driver, read_address

    address = read_address(server.address(database))
    storage, _ = open_for_driver(address, "one")
    with pytest.raises(RunError, match=r"one driver at a time, but another live process has the lock of 'one'"):
        open_for_driver(address, "one")
    other, _ = open_for_driver(address, "two")
    storage.engine.dispose()
    again, _ = open_for_driver(address, "one")
    for opened in (other, again):
        opened.engine.dispose()


def test_a_driver_that_lost_its_connection_ends_if_another_one_has_gone_on(tmp_path, server, database):
    from nas_attn.study.storage.postgresql import TakenOver

    place = Place(tmp_path, server.address(database), "run-1")
    first = open_store(place)
    ledger = first.ledger(SEARCH)
    first.claim(ledger)
    first.storage.engine.dispose()
    second = open_store(place)
    second.claim(second.ledger(SEARCH))
    second.close()
    with pytest.raises(TakenOver, match="another one has gone on with this run"):
        ledger.set_note("some", {"note": 1})
    first.close()


def test_what_cannot_be_used_is_refused_in_one_sentence_before_anything_is_written(tmp_path, server, database):
    out = tmp_path / "run"
    port = server.port
    wrong = server.address(database, password="wrong-secret")
    cases = {
        "mysql://me:secret@host/db": (
            ConfigError,
            "must be the address of a PostgreSQL database.*but got one of 'mysql'",
        ),
        "sqlite:///x.db": (ConfigError, "without --storage the ledger is a SQLite file in the run folder"),
        "secret": (ConfigError, "cannot be read as one"),
        f"postgresql+psycopg://driver:secret@127.0.0.1:{port}": (ConfigError, "--storage must name a database"),
        wrong: (RunError, "does not: .*password authentication failed"),
        "postgresql+psycopg://driver:secret@127.0.0.1:1/db": (RunError, "must name a database that answers.*refused"),
        f"postgresql+psycopg://driver:{QUOTED}@127.0.0.1:{port}/missing": (
            RunError,
            'database "missing" does not exist',
        ),
    }
    for address, (kind, words) in cases.items():
        with pytest.raises(kind, match=words) as refused:
            searched(out, address)
        assert "secret" not in str(refused.value)
        assert PASSWORD not in str(refused.value)
        assert refused.value.exit_code == 2
        assert not out.exists()


@pytest.mark.nightly
def test_a_newer_schema_and_a_missing_driver_are_refused(tmp_path, server, database, monkeypatch):
    searched(tmp_path / "a", server.address(database), trials=2)
    server.execute("UPDATE version_info SET schema_version = 99", database)
    with pytest.raises(RunError, match="must have version 12 of Optuna's schema, but have 99"):
        searched(tmp_path / "b", server.address(database))
    with pytest.raises(RunError, match="but have 99"):
        searched(tmp_path / "a", server.address(database))
    assert not (tmp_path / "b").exists()
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'nas_attn\[postgresql\]'"):
        searched(tmp_path / "b", server.address(database))


@pytest.mark.nightly
def test_a_run_stays_where_its_ledger_is_and_a_ledger_with_its_space(tmp_path, server, database):
    address = server.address(database)
    searched(tmp_path / "there", address, trials=2)
    with pytest.raises(RunError, match=r"keeps its ledger in postgresql.*: repeat its --storage") as refused:
        searched(tmp_path / "there", None)
    assert PASSWORD not in str(refused.value)
    searched(tmp_path / "here", None, trials=2)
    with pytest.raises(RunError, match=r"keeps its ledger in its own study\.db: leave --storage out"):
        searched(tmp_path / "here", address)
    server.execute("UPDATE study_user_attributes SET value_json = '{\"space\": \"other\"}' WHERE key = 'run'", database)
    with pytest.raises(RunError, match="must hold the trials of this run's space, but holds those of another one"):
        searched(tmp_path / "there", address)
    server.execute("DELETE FROM study_user_attributes", database)
    server.execute("UPDATE studies SET study_name = 'lost' || study_id", database)
    with pytest.raises(RunError, match="must hold the run, but it has no study 'there-"):
        searched(tmp_path / "there", address)
