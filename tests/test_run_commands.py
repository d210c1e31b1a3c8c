"""`status`, `runs`, `finish` and `clean`: what they say of runs, and what they leave alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nas_attn.__main__ import main
from nas_attn.files import write_json
from nas_attn.run.driver import DRIVER, REQUEST, DriverFile, is_asked_to_finish, living_driver
from nas_attn.run.status import runs_below, status_of

OLD = Path(__file__).parent / "old_runs"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a finished and an interrupted run, and other things; caches lie in it too."""
    for name in ("finished", "interrupted"):
        shutil.copytree(OLD / name, tmp_path / "runs" / "deep" / name)
    (tmp_path / "runs" / "notes").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("nas_attn.executors.temporary._parents", lambda: [tmp_path])
    return tmp_path / "runs"


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of all files but the index that SQLite's readers share."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith("-shm")]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_status_of_a_stopped_run_says_where_and_what_resumes_it(runs: Path, capsys) -> None:
    run = runs / "deep" / "interrupted"
    before = content(runs)
    assert main(["status", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{run}: stopped, stopped in stage ")
    assert lines[1].startswith("  search   ")
    assert lines[-1].startswith("  resume   ")
    assert content(runs) == before, "a reader writes nothing"


def test_status_of_a_finished_run_names_its_result(runs: Path, capsys) -> None:
    assert main(["status", str(runs / "deep" / "finished"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "finished"
    assert found["driver"] is None
    assert found["counts"]["retrain"]["done"] > 0
    assert found["best"]["value"] > 0
    assert main(["status", str(runs / "deep" / "finished"), "--watch"]) == 0, "it ends with the run"
    assert "  result   " in capsys.readouterr().out


def test_status_of_a_running_run_shows_what_its_driver_says(runs: Path, capsys) -> None:
    run = runs / "deep" / "interrupted"
    driver = DriverFile(run)
    driver.update(lambda: {"stage": "search", "running": 2, "workers": 3, "seconds_left": 600.0})
    assert living_driver(run) is not None
    assert main(["status", str(run)]) == 0
    out = capsys.readouterr().out
    assert ": running, in stage search, " in out
    left = r"left     about (10 min 0|9 min \d+) s; 1 of 3 workers busy"  # less what a loaded machine took since
    assert re.search(left, out), "the ledger has one running trial"
    assert f"process {os.getpid()} on " in out
    driver.remove()
    assert living_driver(run) is None


def test_a_driver_that_died_is_not_alive_even_if_another_process_has_its_number(runs: Path) -> None:
    run = runs / "deep" / "interrupted"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    DriverFile(run).update()
    stated = json.loads((run / DRIVER).read_text())
    write_json(run / DRIVER, {**stated, "pid": ended.pid})
    assert living_driver(run) is None
    write_json(run / DRIVER, {**stated, "started": "1"})
    assert living_driver(run) is None
    write_json(run / DRIVER, {**stated, "host": "elsewhere", "started": "1"})
    assert living_driver(run) is not None, "another machine's is believed while it writes"
    write_json(run / DRIVER, {**stated, "host": "elsewhere", "updated": 0.0})
    assert living_driver(run) is None
    (run / DRIVER).write_text("[")
    assert living_driver(run) is None


def test_runs_lists_all_runs_below_a_folder_and_says_which_cannot_be_read(runs: Path, capsys) -> None:
    shutil.copytree(runs / "deep" / "finished", runs / "damaged")
    (runs / "damaged" / "config.json").write_text("{")
    assert [path.name for path in runs_below(runs)] == ["damaged", "finished", "interrupted"]
    assert main(["runs", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "finished" in out
    assert "stopped in " in out
    assert "not readable: " in out
    assert main(["runs", str(runs), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert main(["runs", str(runs / "notes")]) == 0
    assert capsys.readouterr().out == f"There is no run below {runs / 'notes'}.\n"


def test_finish_of_a_run_without_a_driver_leaves_a_request_for_the_next_one(runs: Path, capsys) -> None:
    run = runs / "deep" / "interrupted"
    assert main(["finish", str(run)]) == 0
    out = capsys.readouterr().out
    if status_of(run).counts["confirm"].done:
        assert "has ended already" in out
    else:
        assert "the next start goes on to confirm" in out
        assert is_asked_to_finish(run)
    assert main(["finish", str(runs / "deep" / "finished")]) == 0
    assert "is finished: there is nothing to end" in capsys.readouterr().out
    assert not (runs / "deep" / "finished" / REQUEST).exists()


def test_clean_shows_and_deletes_what_dead_runs_and_caches_left(runs: Path, tmp_path: Path, capsys) -> None:
    run = runs / "deep" / "interrupted"
    waste = [
        run / "checkpoints" / "search-1.checkpoint",
        run / "retrained" / ".weights.safetensors.abc.part",
        tmp_path / "cache" / "nas_attn" / "folders" / "images.npz",
        tmp_path / "nas_attn-tune-old" / "state.json",
    ]
    for path in waste:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 3000)
    os.utime(waste[-1].parent, (0, 0))
    before = content(tmp_path)
    assert main(["clean", str(runs), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert all(str(path if "tune" not in str(path) else path.parent) in shown for path in waste)
    assert shown.endswith("4 can be deleted, 11.7 KiB in all; nothing was deleted.\n")
    assert content(tmp_path) == before
    assert main(["clean", str(runs)]) == 0
    assert capsys.readouterr().out.endswith("4 deleted, 11.7 KiB in all.\n")
    after = content(tmp_path)
    assert {path for path in before if path not in after} == {str(path) for path in waste}
    assert main(["clean", str(runs)]) == 0
    assert capsys.readouterr().out.startswith("0 can be deleted")


def test_clean_leaves_cached_images_in_use_alone(runs: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "cache" / "nas_attn" / "folders"
    folder.mkdir(parents=True, exist_ok=True)
    used, free, writing = folder / "used.npz", folder / "free.npz", folder / ".new.npz.abc.part"
    for path in (used, free, writing):
        path.write_bytes(b"x")
    code = f"from pathlib import Path; from nas_attn.data.held import hold; hold(Path({str(used)!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert main(["clean", str(runs)]) == 0
    assert [path.exists() for path in (used, free, writing)] == [True, False, True]
    process.communicate(b"\n")
    assert main(["clean", str(runs)]) == 0
    assert not used.exists(), "the hold ends with its process"
    capsys.readouterr()


def test_clean_leaves_a_living_run_alone(runs: Path, capsys) -> None:
    run = runs / "deep" / "interrupted"
    kept = run / "checkpoints" / "search-1.checkpoint"
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(b"x")
    driver = DriverFile(run)
    driver.update()
    assert main(["clean", str(runs)]) == 0
    assert kept.exists()
    assert str(run) not in capsys.readouterr().out
    driver.remove()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "nowhere"], "Error: nowhere must be a run folder with a config.json, but there is none."),
        (["status", "nowhere", "--watch", "--json"], "leave one of them out"),
        (["finish", "nowhere"], "must be a run folder with a config.json"),
        (["runs", "nowhere"], "but nowhere is none"),
        (["clean", "nowhere"], "but nowhere is none"),
    ],
)
def test_what_is_no_run_is_refused_in_one_sentence(arguments: list[str], message: str, capsys) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
